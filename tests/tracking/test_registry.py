"""Trained networks in MLflow's registry: what is stored, under which names, and who can load it."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from tests.imports import SRC
from tests.study import environment

from frostline.base.formats import read_csv
from frostline.base.hashes import sha256_of
from frostline.base.processes import process_key
from frostline.commands import main as cli
from frostline.commands import register
from frostline.console.errors import FrostlineError
from frostline.runs import trained_run
from frostline.serving import resolve
from frostline.training.services import RunInfo

# MLflow 3.17 uses what SQLAlchemy 2.1 will drop.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")
FINGERPRINT = "ab12" * 16


@pytest.fixture(scope="module")
def place(tmp_path_factory, no_runs):
    """A project with a store."""
    folder = tmp_path_factory.mktemp("a prôject")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_EXP_NAME"):
            patch.delenv(name, raising=False)
        shutil.copy(no_runs, folder)
        yield folder


@pytest.fixture(scope="module")
def run_id(place, photo_run):
    """Of the run on pictures, as the recorder leaves it."""
    from frostline.tracking.store import Store

    trained = trained_run.TrainedRun.read(photo_run)
    tags = {"seed": "0", "freeze": "full"}
    dataset = {"name": "photos", "kind": "image_folder", "fingerprint": FINGERPRINT}
    store = Store()
    run = store.begin(
        RunInfo("full·test_resnet·s0", "finetune", "tiny", {"a": 1}, dataset, "training", tags),
        process_key(),
        when=1,
    )
    run.tags({"weights.sha256": trained.sha256})
    run.end("FINISHED", when=5000)
    return run.id


@pytest.fixture(scope="module")
def models(place):
    from frostline.tracking.registry import Models
    from frostline.tracking.store import Store

    return Models(Store())


@pytest.fixture(scope="module")
def client(models):
    return models._store.client


@pytest.fixture(scope="module")
def registered(models, photo_run, run_id):
    return models.register(trained_run.TrainedRun.read(photo_run), "pets", "champion")


def test_a_version_is_described(registered, client, photo_run, run_id):
    assert (registered.name, registered.version, registered.new, registered.moved) == (
        "pets",
        "1",
        True,
        None,
    )
    assert registered.difference < 1e-5
    assert registered.tried_on == "16 of its images"
    version = client.get_model_version_by_alias("pets", "champion")
    assert (version.version, version.run_id, version.status) == (1, run_id, "READY")
    measured = json.loads((photo_run / "metrics.json").read_text())
    expected = {
        "weights.sha256": trained_run.TrainedRun.read(photo_run).sha256,
        "run.name": "full·test_resnet·s0",
        "backbone": "test_resnet",
        "dataset": "image_folder",
        "dataset.fingerprint": FINGERPRINT,
        "git.commit": "none",
        "classes": "2",
        "test/accuracy": f"{measured['test']['accuracy']:.6g}",
        "val/loss": f"{measured['val']['loss']:.6g}",
    }
    assert expected.items() <= version.tags.items()
    assert version.description.startswith("full·test_resnet·s0: test accuracy 0.")
    run = client.get_run(run_id)
    assert (run.info.status, run.info.end_time) == ("FINISHED", 5000)


@pytest.fixture
def plain(place, monkeypatch):
    """MLflow as anybody uses it."""
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # which is set again when the test is over
    mlflow.set_tracking_uri(f"sqlite:///{place / 'mlflow.db'}")
    yield mlflow
    mlflow.set_tracking_uri("")


def test_plain_mlflow_loads_it(registered, plain, photo_run, run_id):
    trained = trained_run.TrainedRun.read(photo_run)
    images, _ = trained.images(3)
    network = plain.pytorch.load_model(f"runs:/{run_id}/model")
    generic = plain.pyfunc.load_model("models:/pets@champion")
    with torch.no_grad():
        ours = trained.serving_model()(images)
        for count in (3, 1):
            assert network(images[:count]) == pytest.approx(ours[:count], abs=1e-6)
    assert generic.predict(images.numpy()) == pytest.approx(ours.numpy(), abs=1e-6)
    with pytest.raises(plain.MlflowException, match="uint8"):
        generic.predict(images.float().numpy())
    with pytest.raises(plain.MlflowException, match=r"\(-1, 3, 16, 16\)"):
        generic.predict(images[:, :1].numpy())
    info = plain.models.get_model_info("models:/pets/1")
    assert "Tensor('uint8', (-1, 3, 16, 16))" in str(info.signature)
    assert "Tensor('float32', (-1, 2))" in str(info.signature)
    assert info.metadata["classes"] == ["cat", "dog & más"]
    assert info.metadata["input"]["interpolation"] == trained.spec.interpolation
    example = generic.input_example
    assert (example.shape, example.dtype) == ((2, 3, 16, 16), "uint8")
    assert generic.predict(example).shape == (2, 2)


def test_it_needs_nothing_of_ours(registered, place):
    """Its program is torch's, and what has to be installed is torch and numpy."""
    (program,) = place.rglob("model.pt2")
    required = (program.parents[1] / "requirements.txt").read_text()
    assert re.fullmatch(r"mlflow==[\d.]+\ntorch==[\d.]+\nnumpy==[\d.]+", required.strip())
    loaded = torch.export.load(program).module()
    assert {type(module).__module__.partition(".")[0] for module in loaded.modules()} == {"torch"}


def test_nothing_in_it_is_a_pickle_that_could_do_harm(registered, place):
    (program,) = place.rglob("model.pt2")
    with zipfile.ZipFile(program) as archive:
        names = archive.namelist()
        weights = [name for name in names if "/weights/" in name and name.endswith("_config.json")]
        assert weights
        for name in weights:
            entries = json.loads(archive.read(name))["config"].values()
            assert not any(entry["use_pickle"] for entry in entries)
    assert not [path for path in program.parents[1].rglob("*") if path.suffix in (".pkl", ".pth", ".pickle")]


@pytest.mark.parametrize(
    "address",
    [
        *("models:/pets@champion", "models:/pets/1", "runs:/{run_id}/model", "{run_id}"),
        *("full·test_resnet·s0", "tiny", "best", "last"),
    ],
)
def test_a_model_predicts_by_any_of_its_names(registered, photo_run, run_id, address, capsys):
    measured = read_csv(photo_run / "predictions.csv")
    paths = [str(photo_run.parents[1] / "photos" / row["id"]) for row in measured]
    assert cli.main(["predict", address.format(run_id=run_id), *paths]) == 0
    printed = capsys.readouterr()
    assert f"{Path.cwd()}/" not in printed.err  # folders of the project are relative
    lines = printed.out.splitlines()
    assert len(lines) == 1 + len(measured)
    for line, row in zip(lines[1:], measured, strict=True):
        _image, prediction, confidence, error = line.rsplit(",", 3)
        assert (prediction, error) == (row["prediction"], "")
        assert float(confidence) == pytest.approx(float(row["confidence"]), abs=1e-6)


def test_the_same_weights_become_no_second_version(registered, photo_run, client, capsys):
    assert cli.main(["register", str(photo_run), "--name", "pets", "--alias", "best"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("pets version 1 has these weights already: full·test_resnet·s0: test accuracy")
    assert said[1:] == ["models:/pets@best is version 1"]
    assert [version.version for version in client.search_model_versions("name = 'pets'")] == [1]


def test_another_name_shares_the_stored_model(registered, models, photo_run, place):
    again = models.register(trained_run.TrainedRun.read(photo_run), "animals", None)
    assert (again.version, again.new, again.difference) == ("1", True, None)
    assert len(list(place.rglob("model.pt2"))) == 1


def test_other_weights_become_the_next_version_and_take_the_alias(
    registered, models, photo_run, tmp_path, capsys
):
    """Of a run that MLflow has not recorded."""
    from frostline.models import weights

    shutil.copytree(photo_run, tmp_path / "two")
    state, about = weights.load(photo_run / "weights.safetensors")
    head = next(name for name in state if name.endswith("fc.bias"))
    path = tmp_path / "two" / "weights.safetensors"
    weights.save(path, {**state, head: state[head] + 1}, about)
    record = json.loads((tmp_path / "two/training.json").read_text())
    record["weights_sha256"] = sha256_of(path)
    (tmp_path / "two/training.json").write_text(json.dumps(record))
    assert cli.main(["register", str(photo_run), "--name", "pets", "--alias", "best"]) == 0
    capsys.readouterr()
    assert cli.main(["register", str(tmp_path / "two"), "--name", "pets", "--alias", "best"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("pets version 2: two: test accuracy")
    assert said[1].startswith("differs from the network in float32 by ")
    assert said[2] == "models:/pets@best is version 2 (before: version 1)"
    (folder,) = {models.fetch("models:/pets/2"), models.fetch("models:/pets@best")}
    assert torch.equal(trained_run.TrainedRun.read(folder).state[head], state[head] + 1)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("models:/pts@champion", r"no model 'pts' is registered at sqlite:.*; did you mean 'pets'\?"),
        ("models:/pets@champ", r"^models:/pets@champ: no alias 'champ'; did you mean 'champion'\?"),
        ("models:/pets/9", r"^models:/pets/9: no version '9'; allowed: 1"),
        (
            "models:/m-123",
            r"^models:/m-123: MLflow at sqlite:.* says: .*m-123.*; fix that, or set MLFLOW_TRACK",
        ),
        (
            "full·test_resnet·s1",
            r"no folder, and no id or name of a run at .*; did you mean 'full·test_resnet·s0'\?",
        ),
        ("tinny", r"^tinny: no folder, and no id or name of a run at .*; did you mean 'tiny'\?"),
        ("bset", r"^bset: no folder, and no id or name of a run at .*; did you mean 'best'\?"),
    ],
)
def test_what_is_not_there_is_one_sentence(registered, address, sentence):
    with pytest.raises(FrostlineError, match=sentence):
        resolve.folder(address)


def test_a_store_without_models_says_how_to_register_one(tmp_path, monkeypatch, no_runs):
    from mlflow import MlflowClient

    shutil.copy(no_runs, tmp_path)
    monkeypatch.chdir(tmp_path)
    MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").create_experiment("frostline")
    with pytest.raises(FrostlineError, match=r"; register one: frostline register RUN --name pets$"):
        resolve.folder("models:/pets@champion")


@pytest.mark.usefixtures("registered")
def test_an_unknown_name_is_reported_before_anything_slow_is_imported(place):
    code = (
        "import sys; from frostline.commands.main import main\n"
        "assert main(['predict', 'tinny', '.']) == 2\n"
        "assert not {'mlflow', 'torch', 'sqlalchemy'} & sys.modules.keys()"
    )
    settings = environment(place, PYTHONPATH=str(SRC))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=place, env=settings, check=True, capture_output=True, text=True)
    assert "tinny: no folder, and no id or name of a run" in done.stderr
    assert "did you mean 'tiny'?" in done.stderr


def test_a_run_without_a_model_says_how_to_get_one(models, client, place):
    experiment = models._store.experiment
    tags = {"weights.sha256": "cd" * 32}
    run_id = client.create_run(experiment, tags=tags, run_name="replaced").info.run_id
    # Its weights are gone: frostline register could not give it a model.
    gone = r"this run has no model, and its weights were replaced by a later run, or deleted; .*dvc checkout"
    for name in ("replaced", run_id, f"runs:/{run_id}/model"):
        with pytest.raises(FrostlineError, match=gone):
            resolve.folder(name)
    folder = place / "runs/finetune/here"
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(json.dumps({"weights_sha256": "cd" * 32}))
    (folder / "weights.safetensors").touch()
    with pytest.raises(
        FrostlineError, match=rf"no model yet; give it one: frostline register {run_id} --name NAME$"
    ):
        models.fetch(f"runs:/{run_id}/model")
    shutil.rmtree(place / "runs")
    client.create_run(experiment, run_name="empty")
    with pytest.raises(FrostlineError, match=r"^empty: this run made no weights; name one of a finished "):
        resolve.folder("empty")


@pytest.mark.usefixtures("registered")
def test_a_studys_name_passes_over_a_better_run_whose_weights_are_gone(models, client, photo_run, run_id):
    tags = {**client.get_run(run_id).data.tags, "weights.sha256": "ef" * 32, "mlflow.runName": "gone"}
    tags["setting"] = "earlier"
    gone = client.create_run(models._store.experiment, start_time=9, tags=tags, run_name="gone").info.run_id
    client.log_metric(gone, "best/val/accuracy", 1.0)
    client.set_terminated(gone, "FINISHED")
    for word in ("tiny", "best", "last"):
        assert sha256_of(resolve.folder(word) / "weights.safetensors") == sha256_of(
            photo_run / "weights.safetensors"
        )
    client.delete_run(gone)


def test_a_name_that_the_registry_refuses_stores_nothing(registered, photo_run, client):
    before = len(client.search_registered_models())
    with pytest.raises(FrostlineError, match=r"^--name: found 'a/b'; "):
        register.run(cli.parse(["register", str(photo_run), "--name", "a/b"]))
    with pytest.raises(FrostlineError, match=r"^--alias: found 'v3'; "):
        register.run(cli.parse(["register", str(photo_run), "--name", "new", "--alias", "v3"]))
    assert len(client.search_registered_models()) == before


def test_every_run_is_stored_if_that_is_asked_for(place, photo_run, client, models, monkeypatch):
    """What the recorder is told, and what it does then."""
    from frostline.tracking import tracker
    from frostline.tracking.delivery import store_model

    monkeypatch.setenv("FROSTLINE_MODELS", "on")
    told = []
    pipe = type("Pipe", (), {"send": lambda self, key, *message: told.append(message)})()
    tracker.JournalRun(pipe, 0).log_outputs(photo_run)
    files, (what, name) = told
    assert (files[0], what) == ("files", "model")
    folder = place / ".frostline/models" / name
    assert folder.is_dir()
    run_id = client.create_run(models._store.experiment, run_name="kept").info.run_id
    store_model(models._store, run_id, name)
    assert not folder.exists()
    stored = trained_run.TrainedRun.read(resolve.folder(f"runs:/{run_id}/model"))
    assert stored.sha256 == trained_run.TrainedRun.read(photo_run).sha256
    monkeypatch.delenv("FROSTLINE_MODELS")
    told.clear()
    tracker.JournalRun(pipe, 0).log_outputs(photo_run)
    assert [what for what, _ in told] == ["files"]


def test_without_a_store_none_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("models:/pets@champion", "nowhere"):
        with pytest.raises(
            FrostlineError, match=rf"^{name}: no such folder, and there is no MLflow store at sqli"
        ):
            resolve.folder(name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["changed", "another run's", "missing", "all"])
def test_weights_that_are_not_those_registered_are_refused(place, photo_run, tmp_path, monkeypatch, damage):
    """And the error's advice works: the run is registered again, as a new version."""
    from frostline.tracking.registry import Models
    from frostline.tracking.store import Store

    trained, name = trained_run.TrainedRun.read(photo_run), f"damaged {damage}"
    copy = tmp_path / "copy"
    shutil.copytree(place, copy)
    monkeypatch.chdir(copy)
    made = Models(Store()).register(trained, name, "champion")
    address = f"models:/{name}@champion"
    weights = Models().fetch(address) / "weights.safetensors"
    assert weights.is_relative_to(copy)
    content = bytearray(weights.read_bytes())
    match damage:
        case "changed":
            content[-1] ^= 1
            weights.write_bytes(content)
        case "another run's":
            from safetensors.torch import load_file, save_file

            save_file({key: value + 1 for key, value in load_file(weights).items()}, weights)
        case "missing":
            weights.unlink()
        case "all":
            shutil.rmtree(weights.parent)
    with pytest.raises(FrostlineError) as told:
        Models().fetch(address)
    assert "frostline register" in str(told.value)
    again = Models(Store()).register(trained, name, "champion")
    assert (again.new, again.version, again.moved) == (True, "2", made.version)
    assert Models().fetch(address).is_dir()
