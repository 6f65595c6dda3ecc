"""Several labels per image, from the table to predictions, exported and registered models, and the report."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score
from tests.data.tables import table, write_table
from tests.tiny import NOTHING, arm_of, run_config

from frostline import schema
from frostline.api.runs import Run
from frostline.base.formats import read_csv, read_json
from frostline.commands import predict
from frostline.console.errors import FrostlineError
from frostline.data.loading.label_budget import label_budget
from frostline.data.loading.mix import mix
from frostline.data.prepared.index import Index
from frostline.models import weights
from frostline.pipeline.evaluate import stage
from frostline.pipeline.finetune.stage import finetune
from frostline.pipeline.report.stage import write_report
from frostline.preparation.stage import prepare
from frostline.runs.trained_run import TrainedRun
from frostline.schema import Evaluate, Report
from frostline.serving import export, prediction
from frostline.serving.image_files import image_files
from frostline.training import trainer
from frostline.training.losses import BinaryCrossEntropy
from frostline.training.module import Classifier
from frostline.training.services import Services
from frostline.training.trainer import history_columns

CLASSES = ("bar", "dot", "red edge")
BCE = {"kind": "bce", "label_smoothing": 0.0, "pos_weight": None, "threshold": "one"}
SEEDS = (0, 1)
# MLflow 3.17 uses what SQLAlchemy 2.1 will drop.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")


def drawn(own, generator):
    """An 8×8 image of noise with a bright row, column or corner for each of its labels."""
    pixels = generator.integers(0, 60, (8, 8), dtype=np.uint8)
    if "bar" in own:
        pixels[1, :] = 250
    if "dot" in own:
        pixels[4:6, 3:5] = 250
    if "red edge" in own:
        pixels[:, 7] = 250
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """A table of 60 images, a list of labels in each cell, and the same with a column per label."""
    root = tmp_path_factory.mktemp("several labels") / "my photos"
    root.mkdir()
    generator = np.random.default_rng(0)
    sets = [tuple(np.array(CLASSES)[generator.random(3) < [0.5, 0.4, 0.2]]) for _ in range(60)]
    for number, own in enumerate(sets):
        drawn(own, generator).save(root / f"{number}.png")
    lists = write_table(root / "lists.csv", [[f"{i}.png", "|".join(own)] for i, own in enumerate(sets)])
    marks = [[f"{i}.png", *(int(name in own) for name in CLASSES)] for i, own in enumerate(sets)]
    columns = write_table(root / "columns.csv", marks, ["image", *CLASSES])
    return table(lists, task="multi_label"), table(columns, {"labels": [*CLASSES]}, task="multi_label")


def configured(config, changes={}):  # noqa: B006  # it is not changed
    run = run_config({"dataset": {"shots": None}}).model_dump()
    run |= {"dataset": config.dataset.model_dump(), "loss": BCE, "arm": "full"}
    run["trainer"] |= {"monitor": "val/mAP", "epochs": 6, "batch_size": 6}
    return type(run_config()).model_validate({**run, **changes})


def measured(folder, config, changes, arm="full"):
    """Prepare, train two seeds and evaluate them, into the folders of a study."""
    data = folder / "data"
    if not data.exists():
        prepare(config, data)
    run = configured(config, {**changes, "arm": arm})
    services = Services(folder / "scratch")
    (folder / "timing").mkdir(exist_ok=True)
    finetune(arm_of(run, SEEDS), data, folder / "finetune" / arm, services, folder / "timing" / f"{arm}.json")
    wanted = Evaluate(study="tiny", arm=arm, dataset=run.dataset, seeds=list(SEEDS), trainer=run.trainer)
    stage.run(wanted, data, folder / "finetune" / arm, folder / "evaluate" / arm, services)
    return folder


@pytest.fixture(scope="module")
def study(listed, tmp_path_factory):
    """Two arms: one that trains, and the baseline, which does not."""
    folder = tmp_path_factory.mktemp("study")
    measured(folder, listed[0], {})
    return measured(folder, listed[0], {"freeze": NOTHING}, arm="scratch")


def test_a_column_per_label_gives_the_same_weights_and_tables_byte_for_byte(listed, study, tmp_path):
    other = measured(tmp_path, listed[1], {})
    for name in ("finetune/full/seed-1/weights.safetensors", "finetune/full/seed-1/history.csv",
                 "finetune/full/seed-1/training.json", "evaluate/full/seed-1/per_class.csv",
                 "evaluate/full/seed-1/predictions.csv", "evaluate/full/metrics.json"):  # fmt: skip
        first, second = (folder.joinpath(name).read_bytes() for folder in (study, other))
        if name.endswith("training.json"):
            first, second = (json.loads(text) | {"config_sha256": ""} for text in (first, second))
        assert first == second, name


def test_the_history_and_the_metrics_are_mean_average_precision(study):
    rows = read_csv(study / "finetune" / "full" / "seed-0" / "history.csv")
    assert tuple(rows[0]) == history_columns("mAP")
    values = [float(row["val/mAP"]) for row in rows]
    best = read_json(study / "finetune" / "full" / "seed-0" / "training.json")["best_epoch"]
    assert values[best] == max(values) > values[0]
    metrics = read_json(study / "evaluate" / "full" / "seed-0" / "metrics.json")
    assert set(metrics["test"]) == {"mAP", "f1_micro", "f1_macro", "loss", "n"}
    assert metrics["val"]["mAP"] == pytest.approx(values[best])
    assert set(read_json(study / "evaluate" / "full" / "metrics.json")["test"]["mAP"]) == {"mean", "std", "n"}


def shares_of(listed, folder, index, rows):
    """The probabilities of some images by the serving model of a run, (N, K)."""
    root = listed[0].dataset.file.rpartition("/")[0]
    pixels = np.stack([np.asarray(Image.open(f"{root}/{index.keys[row]}"))[None] for row in rows])
    return TrainedRun.read(folder).serving_model()(torch.from_numpy(pixels)).detach().numpy()


def test_metrics_and_tables_are_those_of_the_served_model_and_scikit_learn(listed, study):
    folder = study / "finetune" / "full" / "seed-0"
    trained = TrainedRun.read(folder)
    index = Index.read(study / "data")
    rows = index.rows("test")
    shares = shares_of(listed, folder, index, rows)
    truth, thresholds = index.labels[rows], np.array(trained.thresholds)
    assert len(set(thresholds)) == 1
    predicted = shares >= thresholds
    metrics = read_json(study / "evaluate" / "full" / "seed-0" / "metrics.json")["test"]
    assert metrics["mAP"] == pytest.approx(average_precision_score(truth, shares))
    assert metrics["f1_micro"] == pytest.approx(f1_score(truth, predicted, average="micro"))
    table = read_csv(study / "evaluate" / "full" / "seed-0" / "per_class.csv")
    assert [row["class"] for row in table] == [*CLASSES]
    for k, row in enumerate(table):
        assert float(row["average_precision"]) == pytest.approx(
            average_precision_score(truth[:, k], shares[:, k])
        )
        assert float(row["f1"]) == pytest.approx(f1_score(truth[:, k], predicted[:, k], zero_division=0))
        assert int(row["images"]) == truth[:, k].sum()
    lines = read_csv(study / "evaluate" / "full" / "seed-0" / "predictions.csv")
    for line, own, guessed in zip(lines, truth, predicted, strict=True):
        assert line["labels"] == ";".join(np.array(CLASSES)[own == 1])
        assert line["predictions"] == ";".join(np.array(CLASSES)[guessed])


def test_predict_lists_the_labels_above_their_thresholds(listed, study):
    folder = study / "finetune" / "full" / "seed-0"
    trained = TrainedRun.read(folder)
    lines = read_csv(study / "evaluate" / "full" / "seed-0" / "predictions.csv")
    root = listed[0].dataset.file.rpartition("/")[0]
    with pytest.raises(FrostlineError, match=r"^--top-k: is for one label per image"):
        predict._check_top_k(2, trained.run.dataset, folder)
    paths = image_files([f"{root}/{line['id']}" for line in lines], trained.run.dataset)
    found = list(prediction.predict(trained, paths))
    assert [";".join(row.labels) for row in found] == [line["predictions"] for line in lines]
    header, *cells = csv.reader(prediction.label_lines(found, trained.classes))
    assert header == ["image", "predictions", "confidence", *CLASSES, "error"]
    assert [row[1] for row in cells] == [line["predictions"] for line in lines]
    confidences = [float(line["confidence"]) for line in lines]
    assert [float(row[2]) for row in cells] == pytest.approx(confidences, rel=1e-5)
    shown = json.loads("".join(prediction.json_lines(found, 3)))
    assert list(shown[0]) == ["image", "predictions", "confidence", "probabilities"]
    assert set(shown[0]["probabilities"]) == set(CLASSES)
    frame = Run(folder).predict(paths).to_pandas()
    assert frame["predictions"].tolist() == [line["predictions"] for line in lines]
    assert frame["confidence"].tolist() == pytest.approx(confidences, rel=1e-5)


def test_classes_that_are_called_like_columns_have_a_prefix():
    (header,) = csv.reader(prediction.label_lines([], ["error", "image", "images"]))
    assert header == ["image", "predictions", "confidence", "class error", "class image", "images", "error"]


def test_an_exported_model_knows_its_task_and_thresholds(study, tmp_path):
    trained = TrainedRun.read(study / "finetune" / "full" / "seed-0")
    exported = export.run(trained, "pt2", tmp_path / "model.pt2")
    assert exported.difference < 1e-6
    files = {"frostline.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=files)
    about = json.loads(files["frostline.json"])
    assert about["task"] == "multi_label"
    assert about["thresholds"] == trained.thresholds
    assert about["classes"] == [*CLASSES]


def test_exported_weights_know_them_too(study, tmp_path):
    """The weights file of the run itself does not."""
    folder = study / "finetune" / "full" / "seed-0"
    trained = TrainedRun.read(folder)
    (state, about), (own, metadata) = (
        weights.load(file)
        for file in (
            export.run(trained, "safetensors", tmp_path / "m.safetensors").file,
            folder / "weights.safetensors",
        )
    )
    assert about == {**metadata, **trained.about()}
    assert (about["task"], about["thresholds"]) == ("multi_label", trained.thresholds)
    assert all(torch.equal(state[name], own[name]) for name in own)


@pytest.mark.slow
def test_onnx_knows_them_too(study, tmp_path):
    import onnx

    trained = TrainedRun.read(study / "finetune" / "full" / "seed-0")
    export.run(trained, "onnx", tmp_path / "model.onnx")
    (known,) = onnx.load(tmp_path / "model.onnx").metadata_props
    assert json.loads(known.value)["thresholds"] == trained.thresholds


def test_a_registered_model_knows_them_and_says_its_mean_average_precision(
    study, no_runs, tmp_path, monkeypatch
):
    from mlflow import pyfunc

    from frostline.tracking.registry import Models
    from frostline.tracking.store import Store

    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(no_runs, tmp_path)
    folder = tmp_path / "run"
    shutil.copytree(study / "finetune" / "full" / "seed-0", folder)
    shutil.copytree(study / "evaluate" / "full" / "seed-0", folder, dirs_exist_ok=True)
    trained, models = TrainedRun.read(folder), Models(Store())
    version = models.register(trained, "photos", "champion")
    assert version.difference < 1e-5
    measured = read_json(folder / "metrics.json")["test"]
    stored = models._store.client.get_model_version("photos", version.version)
    assert stored.tags["test/mAP"] == f"{measured['mAP']:.6g}"
    assert stored.tags["test/f1_micro"] == f"{measured['f1_micro']:.6g}"
    assert stored.description.startswith(f"run: test mAP {measured['mAP']:.4f}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    loaded = pyfunc.load_model(f"models:/photos/{version.version}")
    assert loaded.metadata.metadata["thresholds"] == trained.thresholds
    images, _ = trained.images(3)
    with torch.no_grad():
        shares = trained.serving_model()(images)
    assert loaded.predict(images.numpy()) == pytest.approx(shares.numpy(), abs=1e-6)


def test_the_report_is_of_mean_average_precision(study, tmp_path):
    config = Report(
        study="tiny", arms=["full", "scratch"], seeds=list(SEEDS), monitor="val/mAP",
        gate={"arms.full.test.mAP.mean": 0.1},
    )  # fmt: skip
    result = write_report(config, study, tmp_path / "report")
    assert "points of test mAP" in result.sentence
    assert "test mAP" in result.table.splitlines()[0]
    made = read_json(tmp_path / "report" / "report.json")
    values = [
        read_json(study / "evaluate" / "full" / f"seed-{s}" / "metrics.json")["test"]["mAP"] for s in SEEDS
    ]
    assert made["arms"]["full"]["test"]["mAP"]["mean"] == pytest.approx(np.mean(values))
    assert made["majority"] is None
    assert read_json(tmp_path / "report" / "metrics.json")["full.mAP"] == pytest.approx(np.mean(values))
    page = (tmp_path / "report" / "index.html").read_text()
    assert "F1 by class" in page
    assert "Confusion matrices" not in page
    assert "accuracy" not in page.partition("<body")[2].lower()


def test_what_does_not_fit_is_refused(listed):
    dataset = listed[0].dataset.model_dump()
    one = run_config().dataset.model_dump()
    for changes, message in (
        ({"loss": run_config().loss.model_dump()}, "loss.kind=cross_entropy is for one label per image, and "
         "dataset.task is multi_label; set loss=bce"),
        ({"dataset": one}, "loss.kind=bce is for several labels per image, and dataset.task is single_label"),
        ({"trainer": {"monitor": "val/accuracy"}}, "trainer.monitor=val/accuracy is not measured after each "
         "epoch if dataset.task is multi_label; set val/mAP or val/loss"),
        ({"trainer": {"monitor": "val/f1_macro"}}, "trainer.monitor=val/f1_macro is not measured after"),
        ({"trainer": {"sampling": "balanced"}}, "trainer.sampling=balanced draws images by their one label"),
        ({"freeze": {"groups": {"all": "*"}, "phases": [
            {"train": "all", "until": {"plateau": "val/accuracy", "patience": 1, "max": "50%"}},
            {"train": "all", "until": "end"}]}},
         "freeze.phases.0.until.plateau=val/accuracy is not measured"),
    ):  # fmt: skip
        run = configured(listed[0]).model_dump()
        for key, value in changes.items():
            run[key] = {**run[key], **value} if key == "trainer" else value
        with pytest.raises(ValueError, match=message.replace(".", r"\.")):
            type(run_config()).model_validate(run)
    assert dataset["task"] == "multi_label"


def test_the_number_of_positive_weights_is_that_of_the_classes(listed, tmp_path):
    with pytest.raises(
        FrostlineError, match=r"loss\.pos_weight: found 2 numbers, and the data set has 3 classes"
    ):
        measured(tmp_path, listed[0], {"loss": {**BCE, "pos_weight": [1.0, 2.0]}})


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": {**BCE, "pos_weight": "balanced", "threshold": "per_class", "label_smoothing": 0.1}},
        {"averaging": {"kind": "ema", "decay": 0.9, "warmup": True}},
    ],
    ids=["balanced", "ema"],
)
def test_what_fits_trains(listed, tmp_path, changes):
    folder = measured(tmp_path, listed[0], changes)
    training = read_json(folder / "finetune" / "full" / "seed-0" / "training.json")
    kinds = 3 if changes.get("loss") else 1
    assert len(set(training["thresholds"])) == kinds
    assert read_json(folder / "evaluate" / "full" / "metrics.json")["val"]["mAP"]["mean"] > 0.5


def test_the_loss_is_torchs_with_smoothed_labels():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 3, generator=generator), torch.randint(2, (6, 3), generator=generator)
    weights, images = torch.tensor([1.0, 2, 0.5]), torch.tensor([1.0, 0, 2, 1, 1, 1])
    expected = torch.nn.BCEWithLogitsLoss(pos_weight=weights)(logits, labels * 0.8 + 0.1)
    assert torch.equal(BinaryCrossEntropy(0.2, weights)(logits, labels.float()), expected)
    each = torch.nn.BCEWithLogitsLoss(reduction="none")(logits, labels.float()).mean(1)
    assert BinaryCrossEntropy(0.0)(logits, labels.float(), images) == pytest.approx(
        float((each * images).mean())
    )


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_labels_are_those_of_one_label_per_image(kind):
    config = run_config({"augment": {kind: 1.0}}).augment
    images, labels = torch.rand(7, 1, 8, 8), torch.arange(7) % 3
    hot = torch.nn.functional.one_hot(labels, 3).float()
    (one, soft), (several, mixed) = (mix(images, own, 3, config, 5) for own in (labels, hot))
    assert torch.equal(one, several)
    torch.testing.assert_close(soft, mixed)


class Stopped(Exception):
    """What ends a run where a test wants it."""


def test_a_run_that_stops_inside_an_epoch_resumes_to_the_same_bytes(listed, study, tmp_path, monkeypatch):
    for name, value in (("SAVE_EVERY_SECONDS", 0.0), ("SAVE_SHARE", math.inf), ("SAVE_INSIDE_SECONDS", 0.0)):
        monkeypatch.setattr(trainer, name, value)
    begin = Classifier.on_train_batch_start

    def stop(module, batch, batch_idx):
        if module.global_step >= 20 and module.steps_taken:
            raise Stopped
        begin(module, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "coming_steps", lambda module: 1)
        patch.setattr(Classifier, "on_train_batch_start", stop)
        with pytest.raises(Stopped):
            measured(tmp_path, listed[0], {})
    measured(tmp_path, listed[0], {})
    for name in ("weights.safetensors", "history.csv", "training.json"):
        file = f"finetune/full/seed-0/{name}"
        assert (tmp_path / file).read_bytes() == (study / file).read_bytes(), name


def test_labelled_images_of_the_budget_choose_epoch_and_thresholds(listed, tmp_path):
    dataset = listed[0].dataset.model_copy(update={"fraction": 0.8, "selection": "within"})
    folder = measured(tmp_path, schema.Prepare(dataset=dataset), {"loss": {**BCE, "threshold": "per_class"}})
    training = read_json(folder / "finetune" / "full" / "seed-0" / "training.json")
    assert (training["selection"]["images"], training["selection"]["labelled"]) == (6, 29)
    metrics = read_json(folder / "evaluate" / "full" / "seed-0" / "metrics.json")
    rows = read_csv(folder / "finetune" / "full" / "seed-0" / "history.csv")
    values = [float(row["selection/mAP"]) for row in rows]
    assert values[training["best_epoch"]] == max(values)
    assert metrics["selection"]["mAP"] == pytest.approx(max(values))
    index = Index.read(folder / "data")
    rows = label_budget(index, dataset, 0).selection
    shares, truth = (
        shares_of(listed, folder / "finetune" / "full" / "seed-0", index, rows),
        index.labels[rows],
    )
    for k, threshold in enumerate(training["thresholds"]):
        if truth[:, k].any():
            best = max(f1_score(truth[:, k], shares[:, k] >= share) for share in shares[:, k])
            assert f1_score(truth[:, k], shares[:, k] >= threshold) == best
        else:
            assert threshold == 0.5

    last = schema.Prepare(dataset=dataset.model_copy(update={"selection": "last"}))
    folder = measured(tmp_path / "last", last, {})
    training = read_json(folder / "finetune" / "full" / "seed-0" / "training.json")
    assert training["thresholds"] == [0.5] * 3


def test_seeds_with_other_numbers_of_shots_are_one_configuration(listed, study):
    from frostline.tracking.run_tags import tags_of
    from frostline.training.run_info import run_info

    index = Index.read(study / "data")
    dataset = listed[0].dataset.model_copy(update={"shots": 4, "selection": "within"})
    runs = [configured(schema.Prepare(dataset=dataset), {"seed": seed}) for seed in range(6)]
    budgets = [label_budget(index, run.dataset, run.seed) for run in runs]
    assert len({len(budget.train) + len(budget.selection) for budget in budgets}) > 1
    pairs = zip(runs, budgets, strict=True)
    assert len({tags_of(run_info(run, index, budget), "", {})["setting"] for run, budget in pairs}) == 1
