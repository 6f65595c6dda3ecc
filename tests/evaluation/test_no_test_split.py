"""A data set without a test split: everything is told of validation, and nothing breaks."""

import json

import pytest
from tests.data.trees import plant_splits
from tests.shell import Shell
from tests.tiny import arm_of, run_config

from frostline.base.formats import read_csv
from frostline.pipeline.evaluate import stage
from frostline.pipeline.finetune.stage import finetune
from frostline.pipeline.report.stage import write_report
from frostline.preparation.stage import prepare
from frostline.schema import Evaluate, Prepare, Report
from frostline.stats import gate
from frostline.training.services import Services

SEEDS = [0, 1]
ARMS = ["scratch", "full"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two arms of two seeds on digits without a test split, evaluated."""
    root = tmp_path_factory.mktemp("study")
    services = Services(root / "scratch")
    split = {"val": 0.2, "test": None, "seed": 0}
    whole = run_config({"dataset": {"shots": None, "split": split}})
    prepare(Prepare(dataset=whole.dataset), root / "data")
    changes = {"dataset": {"split": split}}
    first = run_config({**changes, "trainer.epochs": 4})
    finetune(arm_of(first), root / "data", root / "first", services)
    start = {"kind": "file", "path": str(root / "first/seed-0/weights.safetensors"), "head": "keep"}
    for arm in ARMS:
        config = run_config({**changes, "arm": arm, **({"weights": start} if arm == "full" else {})})
        out = root / "finetune" / arm
        finetune(arm_of(config, SEEDS), root / "data", out, services, timing=root / "timing" / f"{arm}.json")
        wanted = Evaluate(study="t", arm=arm, dataset=config.dataset, seeds=SEEDS, trainer=config.trainer)
        stage.run(wanted, root / "data", out, root / "evaluate" / arm, services)
    return root


def test_an_evaluation_has_no_test(study):
    metrics = json.loads((study / "evaluate/full/metrics.json").read_text())
    assert set(metrics) == {"val", "train", "seeds", "soups"}
    assert set(metrics["seeds"]["0"]) == {"val", "train"}
    assert set(metrics["soups"]["greedy"]) == {"seeds", "val"}
    predictions = read_csv(study / "evaluate/full/seed-0/predictions.csv")
    right = sum(row["label"] == row["prediction"] for row in predictions) / len(predictions)
    assert right == pytest.approx(metrics["seeds"]["0"]["val"]["accuracy"])


def test_the_report_is_of_validation_and_says_so(study):
    config = Report(study="t", arms=ARMS, seeds=SEEDS, monitor="val/accuracy", gate={})
    result = write_report(config, study, study / "report")
    written = json.loads((study / "report/report.json").read_text())
    assert "points of validation accuracy" in written["verdict"]["sentence"] == result.sentence
    assert written["notes"][0].startswith("There is no test split: accuracies and gains are on validation")
    assert written["arms"]["full"]["test"] == {}
    metrics = json.loads((study / "report/metrics.json").read_text())
    val = [
        json.loads((study / f"evaluate/full/seed-{s}/metrics.json").read_text())["val"]["accuracy"]
        for s in SEEDS
    ]
    assert metrics["full.accuracy"] == pytest.approx(sum(val) / 2)
    assert written["arms"]["full"]["gain"]["mean"] == pytest.approx(
        metrics["full.accuracy"] - metrics["scratch.accuracy"]
    )
    page = (study / "report/index.html").read_text() + (study / "report/report.md").read_text()
    assert "validation accuracy" in page
    assert "test accuracy" not in page


def test_a_gate_on_test_names_what_there_is(study):
    write_report(
        Report(study="t", arms=ARMS, seeds=SEEDS, monitor="val/accuracy", gate={}), study, study / "report"
    )
    with pytest.raises(
        gate.GateFailed, match=r"test\.accuracy\.mean is not a metric .* 'arms\.full\.val\.accuracy"
    ):
        gate.run({"arms.full.test.accuracy.mean": 0.5}, study / "report/report.json")


@pytest.fixture(scope="module")
def shell(warm, tmp_path_factory) -> Shell:
    """A folder with images in train/ and val/."""
    folder = tmp_path_factory.mktemp("commands")
    plant_splits(folder / "photos", ("train", "val"))
    return Shell(warm, folder)


PHOTOS = [
    *("dataset=image_folder", "dataset.root=photos", "dataset.split.val=null", "dataset.split.test=null"),
    *("backbone=mlp", "backbone.hidden=[8]", "weights=none", "input.size=8", "input.channels=3"),
    *("trainer.epochs=1", "trainer.threads=1"),
]


def test_the_commands_tell_of_validation(shell):
    assert "(12 train, 12 val, no test)" in shell("prepare", *PHOTOS[:4], "out=p")[0]
    out, err = shell("finetune", *PHOTOS, "out=run")
    assert out.startswith("run: val accuracy ")
    # After one epoch, its accuracy is that of one of the two classes.
    assert [line for line in err.splitlines() if "warning" in line and "always predicting" not in line] == []
    assert shell("evaluate", "run")[0].startswith("run: val accuracy ")
    assert shell("predict", "run", "photos/val/cat")[0].count("\n") == 7
    shell("export", "run", "--format", "pt2", "--out", "exported.pt2")
    # Heads that are trained at once, and runs one after the other.
    heads = ["finetune", "-m", *PHOTOS, "freeze=linear_probe", "optimizer.lr=0.1,0.01,0.001"]
    for words in (heads, ["finetune", "-m", *PHOTOS, "trainer.batch_size=4,8"]):
        listed = [line.split() for line in shell(*words)[0].splitlines() if "runs/finetune/" in line]
        assert [len(line) for line in listed] == [3] * len(listed)  # Run, val accuracy, out.
    out, _ = shell("probe", *PHOTOS)
    assert "12 train, 12 val images" in out
    (probe,) = shell.folder.glob("runs/probe/*/probe.json")
    assert set(json.loads(probe.read_text())["ridge"]) == {"penalty", "val"}
