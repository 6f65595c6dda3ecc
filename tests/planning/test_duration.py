"""`frostline plan --time`: the estimate of how long a run trains."""

import json
from itertools import count

import pytest
from tests.tiny import RESNET

from frostline.commands import main as cli
from frostline.planning import duration

WORDS = [
    "plan",
    "--time",
    "experiment=null",
    "dataset=digits",
    "dataset.shots=20",
    "input.size=8",
    "trainer.epochs=10",
    "trainer.batch_size=20",
    "trainer.threads=1",
]
MLP = [*WORDS, "backbone=mlp", "backbone.hidden=[32,16]"]
NETWORK = [*WORDS, "backbone=timm", f"backbone.name={RESNET['name']}", "input.size=32"]


@pytest.fixture
def ticking(monkeypatch):
    """A clock that shows a second more at each look: a step takes one, and so does a forward pass."""
    monkeypatch.setattr(duration.time, "perf_counter", count().__next__)


@pytest.fixture
def plan(capsys):
    def call(*words):
        assert cli.main([*words, "--format", "json"]) == 0
        return json.loads(capsys.readouterr().out)

    return call


def test_steps_and_validations_are_multiplied(ticking, plan):
    made = plan(*MLP, "freeze=full", "features=off", "weights=none")
    # Per class, 16 of the 20 labels are trained on, and 4 select the best epoch: 160 images in 8 steps.
    assert (made["images"], made["steps_per_epoch"]) == (160, 8)
    assert (made["duration"]["threads"], made["duration"]["runs"]) == (1, 5)
    (seconds,) = made["duration"]["phases"]
    validated = seconds - 10 * 8  # each of the 10 epochs measures the val split and 40 selection images
    assert validated > 10
    more = plan(*MLP, "freeze=full", "features=off", "trainer.epochs=20", "weights=none")
    assert more["duration"]["phases"] == [pytest.approx(2 * seconds)]


def test_frozen_layers_are_counted_once_if_features_are_reused(ticking, plan):
    """A forward pass of the clock takes a second, of the whole network and of the layers after the split."""
    words = [*NETWORK, "weights=none", "trainer.eval_batch_size=20"]
    made = plan(*words, "freeze=linear_probe")
    assert made["phases"][0]["features"]["at"]
    (reused,) = made["duration"]["phases"]
    (whole,) = plan(*words, "freeze=linear_probe", "features=off")["duration"]["phases"]
    # The 80 steps and the validations of 10 epochs are the same; the features of 160 training images, and of
    # as many as a validation has, come on top.
    validated = 20 * (whole - 80) / 10
    assert reused - whole == pytest.approx((160 + validated) / 20)


def test_each_phase_is_measured(ticking, plan):
    made = plan(*NETWORK, "freeze=gradual", "weights=none")
    assert len(made["duration"]["phases"]) == len(made["phases"]) == 3
    assert all(
        seconds >= phase["steps"]
        for seconds, phase in zip(made["duration"]["phases"], made["phases"], strict=True)
    )


def test_a_pretraining_is_not_needed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*MLP, "source=digits", "weights=pretrain", "freeze=full"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("training takes about ")
    assert " s on this machine's cpu with 1 thread" in last
    assert not any((tmp_path / name).exists() for name in ("runs", "mlflow.db"))


def test_what_trains_nothing_takes_no_time(plan):
    assert plan(*MLP, "source=digits", "weights=pretrain", "freeze=zero_shot")["duration"] is None


def test_the_runs_of_an_arm_are_those_of_its_folds_and_seeds(plan):
    made = plan(*MLP, "freeze=full", "weights=none", "dataset.folds=3", "dataset.fold=0")
    assert made["duration"]["runs"] == 3 * 5


def test_images_have_the_size_that_a_file_of_weights_was_trained_with(tmp_path, monkeypatch, plan, capsys):
    monkeypatch.chdir(tmp_path)
    small = [word for word in NETWORK if word not in ("plan", "--time")]
    assert cli.main(["finetune", *small, "weights=none", "freeze=full", "trainer.epochs=1", "out=run"]) == 0
    capsys.readouterr()
    file = ["weights=file", "weights.path=run/weights.safetensors", "freeze=full"]
    made = plan(*(word for word in NETWORK if not word.startswith("input")), *file)
    assert made["input"] == [3, 32, 32]
    assert made["duration"]["phases"]


def test_images_are_needed(capsys):
    assert cli.main([*MLP, "--images", "100"]) == 2
    assert capsys.readouterr().err == (
        "frostline: error: plan: --time trains on the images of a data set; leave out --images\n"
    )
