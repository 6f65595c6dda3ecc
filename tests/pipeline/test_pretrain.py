import json

import pytest
from tests.tiny import RESNET, arm_of, files, run_config

from frostline.base.formats import read_csv
from frostline.base.hashes import sha256_of
from frostline.console.errors import FrostlineError
from frostline.models import weights
from frostline.pipeline.finetune.stage import finetune
from frostline.pipeline.pretrain.stage import train_once
from frostline.training.services import Services

PRETRAIN = {"stage": "pretrain", "dataset": {"shots": None}, "trainer.epochs": 4, "trainer.batch_size": 32}


@pytest.fixture(scope="module")
def pretrained(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    train_once(run_config(PRETRAIN), digits, folder / "out", Services(folder), folder / "timing.json")
    return folder


def test_a_pretraining_leaves_its_files_and_no_other(pretrained):
    assert sorted(files(pretrained / "out")) == [
        "config.yaml",
        "history.csv",
        "metrics.json",
        "predictions.csv",
        "training.json",
        "weights.safetensors",
    ]
    timing = json.loads((pretrained / "timing.json").read_text())["seeds"]["0"]
    assert timing.keys() == {"train_seconds", "epoch_seconds", "images_per_second"}
    assert len(timing["epoch_seconds"]) == 4


def test_its_metrics_are_of_the_best_epoch_and_repeat_what_training_saw(pretrained):
    metrics = json.loads((pretrained / "out" / "metrics.json").read_text())
    assert list(metrics) == ["test", "train", "val"]
    assert [metrics[split]["n"] for split in metrics] == [357, 1078, 362]
    history = read_csv(pretrained / "out" / "history.csv")
    best = max(history, key=lambda row: (float(row["val/accuracy"]), -float(row["val/loss"])))
    assert metrics["val"]["accuracy"] == float(best["val/accuracy"])
    assert metrics["val"]["loss"] == pytest.approx(float(best["val/loss"]), rel=1e-5)
    assert metrics["test"]["accuracy"] > 0.7


def test_its_predictions_are_the_test_images(pretrained):
    rows = read_csv(pretrained / "out" / "predictions.csv")
    metrics = json.loads((pretrained / "out" / "metrics.json").read_text())
    assert list(rows[0]) == ["id", "label", "prediction", "confidence"]
    assert len({row["id"] for row in rows}) == 357
    right = [row["label"] == row["prediction"] for row in rows]
    assert sum(right) / len(right) == metrics["test"]["accuracy"]
    assert all(0.1 <= float(row["confidence"]) <= 1 for row in rows)


def test_its_weights_say_what_they_were_made_with(pretrained):
    _, about = weights.load(pretrained / "out" / "weights.safetensors")
    assert about["classes"] == list("0123456789")
    assert about["input"] == {
        "size": 8,
        "channels": 1,
        "interpolation": "bicubic",
        "crop": 1.0,
        "mean": [0.0],
        "std": [1.0],
    }
    assert about["backbone"]["hidden"] == [16]
    training = json.loads((pretrained / "out" / "training.json").read_text())
    assert training["weights_sha256"] == sha256_of(pretrained / "out" / "weights.safetensors")


@pytest.mark.parametrize(("head", "loaded"), [("keep", 4), ("reset", 2)])
def test_a_fine_tuning_starts_from_it(head, loaded, pretrained, digits, tmp_path):
    path = str(pretrained / "out" / "weights.safetensors")
    config = run_config({"weights": {"kind": "pretrain", "path": path, "head": head}})
    finetune(arm_of(config), digits, tmp_path / "out", Services(tmp_path))
    report = json.loads((tmp_path / "out" / "seed-0" / "training.json").read_text())["load_report"]
    assert report["loaded"] == loaded
    assert report["reset"] == ([] if head == "keep" else ["head.bias", "head.weight"])
    first = read_csv(tmp_path / "out" / "seed-0" / "history.csv")[0]
    # With its head it knows digits before the first step; without, it guesses: its new head is all zero.
    accuracy = float(first["val/accuracy"])
    assert accuracy > 0.7 if head == "keep" else accuracy < 0.2


def test_weights_of_another_backbone_are_refused_before_any_training(pretrained, digits, tmp_path):
    path = str(pretrained / "out" / "weights.safetensors")
    config = run_config({"backbone": RESNET, "weights": {"kind": "pretrain", "path": path, "head": "keep"}})
    with pytest.raises(FrostlineError, match=r"weights\.safetensors: none of its 4 keys is in the network"):
        finetune(arm_of(config), digits, tmp_path / "out", Services(tmp_path))
    assert not (tmp_path / "out").exists()
