"""A project whose MLflow store holds absolute paths is moved, copied, or reached by another path."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from frostline.base.processes import process_key
from frostline.runs import trained_run
from frostline.tracking import local_store
from frostline.training.services import RunInfo

# MLflow 3.17 uses what SQLAlchemy 2.1 will drop.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")
DATASET = {"name": "photos", "kind": "image_folder", "fingerprint": "ab12" * 16}
NAMES = ("a b", "[x]=1,~", "què?", "h#sh", "100%41", "plus+&;'\"", "naïve 日本")


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)


def record(name: str, **tags: str):
    """Record a run with a file in the project that is the working folder; return it."""
    from frostline.tracking.store import Store

    store = Store()
    about = RunInfo(name, "finetune", "tiny", {"long": "x" * 7000}, DATASET, "training", {"seed": "0"})
    run = store.begin(about, process_key(), when=1)
    run.files({"config.yaml": b"a: 1\n"})
    run.metrics({"test/accuracy": 0.5})
    run.tags(tags)
    run.end("FINISHED", when=5000)
    return store.search({}, f"attributes.run_name = '{name}'")[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory, no_runs, photo_run):
    """A project with a run and a registered model, in a folder whose path is not plain."""
    from frostline.tracking.registry import Models
    from frostline.tracking.store import Store

    folder = tmp_path_factory.mktemp("made") / "a prôject"
    folder.mkdir()
    shutil.copy(no_runs, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        found = trained_run.TrainedRun.read(photo_run)
        record("first", **{"weights.sha256": found.sha256})
        Models(Store()).register(found, "pets", "champion")
    return folder


@pytest.fixture
def old(made, tmp_path):
    """A copy of it that has always been where it is."""
    folder = tmp_path / "old place"
    shutil.copytree(made, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        local_store.follow(folder / "mlflow.db")
    return folder


def paths(folder: Path) -> set[str]:
    """All that the store says of where files are."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        return {
            path
            for table, columns in local_store.PATHS.items()
            for column in columns
            for (path,) in connection.execute(f"SELECT {column} FROM {table}")
            if path
        }


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read(folder: Path) -> None:
    """A registered model is found in `folder`, and nothing is written."""
    from frostline.tracking.registry import Models

    before = files(folder)
    fetched = Models().fetch("models:/pets@champion")
    assert fetched.is_relative_to(folder)
    assert (fetched / "weights.safetensors").is_file()
    assert files(folder) == before


def write(folder: Path) -> None:
    """A run is recorded in `folder` alone."""
    run = record("second")
    assert run.info.artifact_uri.startswith(folder.as_uri() + "/mlartifacts/")
    artifacts = folder / "mlartifacts" / run.info.run_id / "artifacts"
    assert {path.name for path in artifacts.iterdir()} == {"config.yaml", "long_params.json"}


def test_moved(old, tmp_path, monkeypatch, capsys):
    new = tmp_path / "new" / "plâce"
    new.parent.mkdir()
    old.rename(new)
    monkeypatch.chdir(new)
    capsys.readouterr()
    read(new)
    said = f"frostline: this project was moved or copied from {old}; "
    assert (
        capsys.readouterr().err
        == f"{said}the next command that records updates the paths in its MLflow store\n"
    )
    write(new)
    assert capsys.readouterr().err == f"{said}the paths in its MLflow store now lead to {new}\n"
    read(new)
    write_again = record("third")
    assert write_again.info.status == "FINISHED"
    assert capsys.readouterr().err == ""
    assert not [path for path in paths(new) if "old%20place" in path or "old place" in path]
    assert not old.exists()


def test_a_copy_leaves_the_original_alone(old, tmp_path, monkeypatch, capsys):
    new = tmp_path / "copy"
    shutil.copytree(old, new)
    before = files(old)
    monkeypatch.chdir(new)
    capsys.readouterr()
    read(new)
    write(new)
    assert capsys.readouterr().err.count("frostline: this project was moved or copied from") == 2
    assert files(old) == before
    monkeypatch.chdir(old)
    read(old)
    write(old)
    assert capsys.readouterr().err == ""


def test_a_copy_inside_the_original(old, monkeypatch):
    new = old / "copies" / "1"
    shutil.copytree(old, new)
    before = files(old / "mlartifacts")
    monkeypatch.chdir(new)
    read(new)
    write(new)
    assert files(old / "mlartifacts") == before
    assert all(path.startswith((new.as_uri(), str(new))) for path in paths(new) if "://" in path)


def test_another_path_to_the_same_folder_changes_nothing(old, tmp_path, monkeypatch, capsys):
    link = tmp_path / "link"
    link.symlink_to(old)
    before = paths(old)
    monkeypatch.chdir(link)
    read(old)
    write(old)
    # Moved, with a link where it was: both paths lead to the same files.
    new = tmp_path / "new"
    old.rename(new)
    old.symlink_to(new)
    monkeypatch.chdir(new)
    capsys.readouterr()
    record("third")
    assert capsys.readouterr().err == ""
    assert before <= paths(new)
    old.unlink()
    read(new)
    record("fourth")
    assert "now lead to" in capsys.readouterr().err
    assert not old.exists()


def test_moved_while_a_run_is_recorded_elsewhere(old, tmp_path, monkeypatch):
    """As when a container has the project at another path: its paths in the store are not this machine's."""
    from frostline.tracking.store import Store

    monkeypatch.chdir(old)
    store = Store()
    about = RunInfo("long", "finetune", "tiny", {}, DATASET, "training", {"seed": "0"})
    run = store.begin(about, process_key(), when=1)
    inside = tmp_path / "workspace"
    local_store._rewrite(old / "mlflow.db", [old.as_uri()], inside)
    run.files({"config.yaml": b"a: 1\n"})
    run.end("FINISHED", when=5000)
    assert not inside.exists()
    assert (old / "mlartifacts" / run.id / "artifacts" / "config.yaml").is_file()


def test_artifacts_that_lie_elsewhere_stay_there(old, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient

    elsewhere = {
        "s3": "s3://bucket/mlartifacts",
        "disk": f"file://{tmp_path}/disk",
        "near": f"{old.as_uri()}-2/x",
    }
    client = MlflowClient(local_store.address(old / "mlflow.db"))
    for name, location in elsewhere.items():
        client.create_experiment(name, artifact_location=location)
    new = tmp_path / "new"
    old.rename(new)
    monkeypatch.chdir(new)
    write(new)
    assert set(elsewhere.values()) <= paths(new)


def test_a_store_apart_from_its_artifacts_is_not_taken_for_moved(old, tmp_path, monkeypatch, capsys):
    """Older versions put the artifacts of an explicit MLFLOW_TRACKING_URI into the project."""
    apart = tmp_path / "stores" / "team.db"
    apart.parent.mkdir()
    (old / "mlflow.db").rename(apart)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{apart}")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    run = record("second")
    assert run.info.artifact_uri.startswith(old.as_uri())
    assert capsys.readouterr().err == ""


def test_a_store_that_is_locked_is_not_half_rewritten(old, tmp_path, monkeypatch, capsys):
    new = tmp_path / "new"
    old.rename(new)
    monkeypatch.chdir(new)
    monkeypatch.setattr(local_store, "BUSY_SECONDS", 0.1)
    before = paths(new)
    with closing(sqlite3.connect(new / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        from frostline.tracking.store import Store

        assert not Store().connect()
    assert "database is locked" in capsys.readouterr().err
    assert paths(new) == before


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_projects_folder(old, tmp_path, monkeypatch, name):
    """Of one that was moved there, and of one that is new."""
    new = tmp_path / "names" / name
    new.parent.mkdir()
    old.rename(new)
    monkeypatch.chdir(new)
    read(new)
    write(new)
    read(new)
    assert local_store.database() == new / "mlflow.db"
    assert {path.name for path in new.parent.iterdir()} == {name}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["q?[x]=1,~", "50%25 #1"])
def test_a_new_store_in_a_folder_of_any_name(tmp_path, monkeypatch, name):
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    write(folder)
    assert (folder / "mlflow.db").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {name}
