"""A run that was stopped and goes on ends as the run that was never stopped: weights, optimizer, history."""

import functools
import math
import os
import signal

import pytest
import pytorch_lightning as pl
import torch
from tests.shell import RESUMABLE
from tests.tiny import ALL, RESNET, SGD, Bench, in_process, same, scripted, tensors

from frostline.console import signals
from frostline.training import trainer

GROUPS = {"head": "head", "top": "stage:-1", "rest": "*"}
MLP = {"backbone": {"kind": "mlp", "hidden": [6, 5], "activation": "tanh", "dropout": 0.2}}
NET = {"backbone": {**RESNET, "drop_rate": 0.1}, "input.size": 16}
OPTIMIZERS = {
    "sgd": SGD,
    "adamw": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1},
    "lamb": {"name": "lamb", "lr": 0.01, "weight_decay": 0.1},
}
IMAGES, EPOCHS = 60, 5
LOSSES = [9, 5, 3, 4, 4, 2]
"""Of validation: stalls for two epochs after the second."""
AVERAGING = [{"kind": "ema", "decay": 0.9, "warmup": True}, {"kind": "swa", "start": 0.5}]

SCHEDULES = {
    "boundaries in and between epochs, groups freeze again": [
        {"train": ["head"], "until": {"steps": 4}},
        {"train": ["head", "top"], "until": {"epochs": 1}, "lr": {"top": 0.5}},
        {"train": "all", "until": {"steps": 2}, "bn": "eval", "dropout": 0.5},
        {"train": ["rest"], "until": {"steps": 1}, "bn": "train"},
        {"train": ["rest", "head"], "until": "end", "lr": {"layer_decay": 0.7}},
    ],
    "a plateau, back to the best": [
        {"train": ["head"], "until": {"steps": 2}},
        {
            "train": "all",
            "until": {"plateau": "val/loss", "patience": 2, "max": {"epochs": 4}},
            "restore": "best",
        },
        {"train": ["top", "rest"], "until": "end", "restore": "none"},
    ],
    "a value that is reached": [
        {"train": ["head", "top"], "until": {"reaches": "val/loss", "value": 3, "max": {"epochs": 4}}},
        {"train": "all", "until": "end", "restore": "best"},
    ],
    "batches of another size": [
        {"train": ["head"], "until": {"epochs": 1}},
        {
            "train": "all",
            "until": {"plateau": "val/loss", "patience": 1, "max": {"epochs": 3}},
            "batch_size": 12,
        },
        {"train": ["rest"], "until": "end", "batch_size": 30, "restore": "best"},
    ],
    "settings of the optimizer": [
        {"train": "all", "until": {"steps": 5}, "weight_decay": 0.3},
        {
            "train": "all",
            "until": "end",
            "weight_decay": 0.05,
            "schedule": {"kind": "one_cycle", "warmup": 0.3, "final": 0.0, "momentum": [0.95, 0.85]},
        },
    ],
}
STATISTICS = [
    {"train": ["head"], "until": {"epochs": 1}},
    {"train": ["head", "top"], "until": {"steps": 4}, "bn": "recalibrate"},
    {"train": "all", "until": {"epochs": 1}, "bn": "recalibrate"},
    {"train": "all", "until": "end", "bn": "train"},
]


class Stopped(Exception):
    """What ends a run where a test wants it."""


class Run:
    """A run that may be stopped before a step, and what it leaves."""

    def __init__(self, changes, folder, stop=None):
        outer = self
        self.steps, self.optimizer = [], None

        class Stopping(scripted(LOSSES)):
            def on_train_batch_start(self, batch, batch_idx):
                if self.global_step == stop:
                    raise Stopped
                outer.steps.append(self.global_step)
                super().on_train_batch_start(batch, batch_idx)

            def on_train_end(self):
                outer.optimizer = self.optimizers().optimizer.state_dict()

        bench = Bench({**changes, "trainer.epochs": EPOCHS}, kind=Stopping, train=IMAGES)
        try:
            self.fit = bench.fit(folder)
        except Stopped:
            self.fit = None
        self.weights, self.scaler = tensors(bench.network), bench.classifier.scaler

    def assert_same(self, other):
        assert self.fit.history == other.fit.history
        assert self.fit.starts == other.fit.starts
        assert (self.fit.images, self.fit.best_epoch) == (other.fit.images, other.fit.best_epoch)
        assert same(self.fit.best_state, other.fit.best_state)
        assert same(self.weights, other.weights)
        assert alike(self.optimizer, other.optimizer)


def alike(a, b):
    """Whether two trees, of an optimizer's state, are equal bit by bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(alike, a, b))
    return a == b


def config(schedule, optimizer, net=MLP):
    return {
        **net,
        "augment": {"rotate": 10.0},
        "optimizer": OPTIMIZERS[optimizer],
        "freeze": {"groups": GROUPS, "phases": schedule},
    }


@pytest.fixture
def keep(monkeypatch):
    """Choose how often checkpoints are saved: at every step, or at every epoch's end."""

    def choose(points):
        monkeypatch.setattr(trainer, "SAVE_EVERY_SECONDS", 0.0)
        monkeypatch.setattr(trainer, "SAVE_SHARE", math.inf)
        monkeypatch.setattr(trainer, "SAVE_INSIDE_SECONDS", 0.0 if points == "steps" else math.inf)

    return choose


def last_point(points, history, stop):
    """The step that a run begins with again when it was stopped before `stop`."""
    return stop if points == "steps" else max(row["step"] for row in history if row["step"] <= stop)


def check_every_stop_in_turn(changes, points, folder):
    """Stop a run before its first step, go on, stop it before its second, …, and compare the end."""
    whole = Run(changes, folder / "whole")
    steps, history = whole.steps, whole.fit.history
    assert steps == list(range(history[-1]["step"]))
    begin = 0
    for stop in steps:
        assert Run(changes, folder / "parts", stop).steps == list(range(begin, stop))
        begin = last_point(points, history, stop)
    resumed = Run(changes, folder / "parts")
    assert resumed.steps == list(range(begin, len(steps)))
    resumed.assert_same(whole)
    return whole


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_may_be_stopped_before_every_step(name, optimizer, keep, tmp_path):
    keep("steps")
    check_every_stop_in_turn(config(SCHEDULES[name], optimizer), "steps", tmp_path)


@pytest.mark.parametrize(
    ("name", "optimizer"), [*zip(SCHEDULES, ["sgd", "adamw", "lamb", "sgd", "adamw"], strict=True)]
)
def test_a_part_of_an_epoch_is_trained_again(name, optimizer, keep, tmp_path):
    keep("epochs")
    check_every_stop_in_turn(config(SCHEDULES[name], optimizer), "epochs", tmp_path)


def test_the_scale_of_float16_losses_resumes(keep, tmp_path, monkeypatch):
    keep("steps")
    monkeypatch.setattr(torch.amp, "GradScaler", functools.partial(torch.amp.GradScaler, growth_interval=2))
    changes = {**config(ALL["phases"], "sgd"), "freeze": ALL, "trainer.precision": "fp16"}
    whole = Run(changes, tmp_path / "whole")
    assert Run(changes, tmp_path / "parts", 7).fit is None
    resumed = Run(changes, tmp_path / "parts")
    resumed.assert_same(whole)
    assert resumed.scaler.state_dict() == whole.scaler.state_dict()
    assert whole.scaler.get_scale() > 2.0**16


@pytest.mark.parametrize("points", ["steps", "epochs"])
def test_running_statistics_go_on_too(points, keep, tmp_path):
    keep(points)
    check_every_stop_in_turn(config(STATISTICS, "sgd", NET), points, tmp_path)


@pytest.mark.parametrize("points", ["steps", "epochs"])
@pytest.mark.parametrize("averaging", AVERAGING, ids=lambda averaging: averaging["kind"])
def test_averages_of_weights_go_on_too(averaging, points, keep, tmp_path):
    keep(points)
    changes = config(SCHEDULES["a plateau, back to the best"], "adamw")
    check_every_stop_in_turn({**changes, "averaging": averaging}, points, tmp_path)


def test_a_run_that_resumes_once_trains_to_its_end(keep, tmp_path):
    keep("steps")
    changes = config(SCHEDULES["a plateau, back to the best"], "sgd")
    whole = Run(changes, tmp_path / "whole")
    assert whole.fit.starts == (0, 2, 12)  # the third phase begins early, with the second epoch's weights
    for stop in whole.steps:
        folder = tmp_path / str(stop)
        Run(changes, folder, stop)
        Run(changes, folder).assert_same(whole)


def test_a_run_resumes_between_steps_that_were_to_be_taken_at_once(keep, tmp_path):
    keep("steps")
    changes = config(SCHEDULES["boundaries in and between epochs, groups freeze again"], "adamw")
    whole = Run(changes, tmp_path / "whole")
    folder = tmp_path / "parts"
    assert Run({**changes, "trainer.steps_per_execution": 2}, folder, stop=8).fit is None
    resumed = Run({**changes, "trainer.steps_per_execution": 5}, folder)
    assert resumed.steps[0] in (6, 8)
    resumed.assert_same(whole)


def test_no_checkpoint_is_saved_at_an_epochs_last_step_but_after_its_validation(keep, tmp_path, monkeypatch):
    keep("steps")
    kept = []
    save = pl.Trainer.save_checkpoint

    def noted(self, *arguments, **options):
        kept.append((self.global_step, len(self.callback_metrics)))
        save(self, *arguments, **options)

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", noted)
    Run(config(SCHEDULES["settings of the optimizer"], "sgd"), tmp_path)
    assert [step for step, _ in kept] == list(range(1, 3 * EPOCHS))  # none after the last
    measured = [name for name in trainer.history_columns("accuracy") if name.startswith(("train/", "val/"))]
    assert {metrics for step, metrics in kept if step % 3 == 0} == {len(measured)}


def test_short_epochs_are_saved_only_at_their_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(trainer, "SAVE_SHARE", math.inf)
    monkeypatch.setattr(signals._State, "sentence", signals.SENTENCE)
    Run(config(SCHEDULES["settings of the optimizer"], "sgd"), tmp_path, stop=2)
    assert signals._State.sentence == signals.SENTENCE  # no checkpoint is promised
    Run(config(SCHEDULES["settings of the optimizer"], "sgd"), tmp_path, stop=5)
    assert signals._State.sentence == RESUMABLE
    assert Run(config(SCHEDULES["settings of the optimizer"], "sgd"), tmp_path).steps[0] == 3


# ── real kills ──────────────────────────────────────────────────────────────────────────────────────────────


def killed_in_an_epoch(changes, folder, step, where):
    trainer.SAVE_EVERY_SECONDS = trainer.SAVE_INSIDE_SECONDS = 0.0
    trainer.SAVE_SHARE = math.inf
    save = pl.Trainer.save_checkpoint

    def kill(self):
        if self.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def saved(self, *arguments, **options):
        if where == "before saving":
            kill(self)
        save(self, *arguments, **options)
        if where == "half saved":
            kill(self)

    pl.Trainer.save_checkpoint = saved
    Run(changes, folder)


@pytest.mark.parametrize(("step", "where"), [(8, "half saved"), (11, "before saving")])
def test_a_run_may_be_killed_in_the_middle_of_an_epoch(step, where, keep, tmp_path):
    changes = config(SCHEDULES["a plateau, back to the best"], "adamw")
    status = in_process(killed_in_an_epoch, changes, tmp_path / "killed", step, where)
    assert status == (-signal.SIGKILL, "")
    keep("epochs")
    resumed = Run(changes, tmp_path / "killed")
    assert resumed.steps[0] == step - 1
    resumed.assert_same(Run(changes, tmp_path / "whole"))


def test_random_crops_policies_and_erasing(keep, tmp_path):
    """What a step draws depends on the seed and the step, not on the steps before it in this process."""
    keep("steps")
    drawn = {"flip": 0.5, "resized_crop": 0.4, "policy": "rand", "magnitude": 12, "blur": 0.5, "erase": 0.5}
    changes = {**NET, "augment": drawn}
    whole = Run(changes, tmp_path / "whole")
    Run(changes, tmp_path / "parts", stop=7)
    parts = Run(changes, tmp_path / "parts")
    assert parts.steps[0] == 7
    whole.assert_same(parts)
