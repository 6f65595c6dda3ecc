"""What a worker does with each trial, and when it stops taking them."""

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass

import optuna
import pytest
from tests.sweeps.test_study import PRUNER, settings

from frostline.config.space import Parameter, Space, Values
from frostline.console.errors import FrostlineError, OutOfResources, Pruned, ResourceLocked, TrainingFailed
from frostline.sweeps.best import best_of
from frostline.sweeps.study import Study
from frostline.sweeps.trial import BATCHED, RunningTrial, Trial
from frostline.sweeps.worker import Worker, failure_kind, label_of, objectives_of, repeated_failure

FIXED = ("dataset=digits", "backbone=mlp", "weights=none")
SEEDS = Space((Parameter("seed", Values(("0", "1", "2", "3"))),))


@dataclass
class Done:
    name: str = "a run"
    out: str = "runs/one"
    metrics: dict = None


def measured(accuracy):
    return Done(metrics={"val": {"accuracy": accuracy, "loss": 1 - accuracy}, "test": {"accuracy": 0.5}})


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Let a worker run all of a study's trials with some function, and return them."""
    monkeypatch.chdir(tmp_path)

    def work(run, space=SEEDS, until=None, **changes):
        config = settings(**changes)
        study = Study("s", config, space, {})
        study.begin()
        study.enqueue_missing()
        Worker(run, "s", config, space, FIXED, {}, until)()
        return study

    return work


def test_a_trial_is_run_with_its_parameters_and_stored_with_its_results(work):
    seen = []

    def run(composed, choices, label, watch, tags):
        seen.append((composed.seed, choices["backbone"], label, tags))
        return measured(composed.seed / 10)

    trials = work(run).trials()
    sweep = {"trial.state": "running", "sweep.keys": "", "sweep.objective": "val/accuracy"}
    running = [{"trial.number": str(number), **sweep} for number in range(4)]
    assert seen == [(seed, "mlp", f"seed={seed}", running[seed]) for seed in range(4)]
    assert [trial.values for trial in trials] == [[0.0], [0.1], [0.2], [0.3]]
    assert trials[1].user_attrs["metrics"]["test"] == {"accuracy": 0.5}
    assert trials[1].user_attrs["out"] == "runs/one"


def test_a_store_that_another_process_holds_for_too_long_is_one_sentence(work, tmp_path, monkeypatch):
    monkeypatch.setattr("frostline.sweeps.storage.WAIT_SECONDS", 0.1)
    with closing(sqlite3.connect(tmp_path / "held.db", isolation_level=None)) as other:

        def run(*_):
            other.execute("BEGIN EXCLUSIVE")
            return measured(0.5)

        sentence = r"^sweep\.store: failed \(.*database is locked\); check that it can .* resumes the sweep$"
        with pytest.raises(FrostlineError, match=sentence):
            work(run, store="sqlite:///held.db")


def test_a_store_that_is_briefly_unreachable_misses_one_heartbeat(work, monkeypatch):
    beats = []

    def beat(taken):
        beats.append(taken.number)
        if len(beats) == 2:  # the first one is of the process that takes the trial
            raise OSError("the store is unreachable")

    monkeypatch.setattr(RunningTrial, "beat", beat)
    monkeypatch.setattr("frostline.sweeps.worker.BEAT_SECONDS", 0.01)

    def run(*_):
        give_up = time.monotonic() + 20
        while len(beats) < 4 and time.monotonic() < give_up:
            time.sleep(0.01)
        return measured(0.5)

    work(run, space=Space((Parameter("seed", Values(("0",))),)))
    assert len(beats) >= 4


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (OutOfResources("out of memory"), True),
        (ResourceLocked("out: another run is writing to x"), True),
        (TrainingFailed("the loss became nan"), False),
    ],
)
def test_what_may_be_over_is_noted(error, passing, work):
    def run(*_):
        raise error

    assert [trial.user_attrs["passing"] for trial in work(run).trials()] == [passing] * 4


def test_a_trial_that_repeats_a_dead_ones_names_it(work):
    seen = []

    def run(composed, choices, label, watch, tags):
        if composed.seed == 0 and not seen:
            seen.append(tags)
            raise KeyboardInterrupt
        seen.append(tags)
        return measured(0.5)

    with pytest.raises(KeyboardInterrupt):
        work(run)
    study = Study("s", settings(), SEEDS, {})
    for trial in study._opened().get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study._opened()._storage.set_trial_user_attr(trial._trial_id, "process", "1@1.0")
    Worker(run, "s", settings(), SEEDS, FIXED, {})()
    again = [tags.get("trial.again") for tags in seen]
    assert again == [None, None, None, None, "0"]


def test_failures_and_bugs_are_stored_and_the_other_trials_run(work, capsys):
    def run(composed, *rest):
        if composed.seed == 1:
            raise TrainingFailed("the loss became nan at step 3")
        if composed.seed == 2:
            raise ZeroDivisionError("division by zero")
        return measured(0.5)

    trials = work(run).trials()
    assert [trial.state for trial in trials] == ["complete", "failed", "failed", "complete"]
    assert trials[1].user_attrs["reason"] == "the loss became nan at step 3"
    assert trials[2].user_attrs["reason"] == "ZeroDivisionError: division by zero"
    assert "in run" in trials[2].user_attrs["traceback"]
    said = capsys.readouterr().err
    assert "frostline: trial 1, seed=1: the loss became nan at step 3; the sweep continues" in said


def test_failures_of_one_kind_stop_it_and_of_several_kinds_don_t(work):
    def run(composed, *rest):
        raise TrainingFailed(f"the loss became nan at step {composed.seed}")

    study = work(run, failures=2)
    assert [trial.state for trial in study.trials()] == ["failed", "failed", "waiting", "waiting"]
    assert repeated_failure(study, 2) == "TrainingFailed: the loss became nan at step #"
    assert repeated_failure(study, 3) is None


def test_a_trial_that_falls_behind_is_pruned(work):
    def run(composed, choices, label, watch, tags):
        for epoch in range(4):
            watch({"epoch": epoch, "val/accuracy": 0.1 * epoch / (1 + composed.seed)})
        return measured(0.3)

    trials = work(run, pruner={**PRUNER, "kind": "median"}).trials()
    assert [trial.state for trial in trials] == ["complete", "complete", "pruned", "pruned"]


def test_with_several_objectives_nothing_is_pruned(work):
    def run(composed, choices, label, watch, tags):
        watch({"epoch": 1, "val/accuracy": 0.1})
        return measured(0.25)

    trials = work(run, objectives=["val/accuracy", "val/loss"]).trials()
    assert [trial.values for trial in trials] == [[0.25, 0.75]] * 4


def test_when_time_is_up_no_trial_begins(work):
    study = work(lambda *job: pytest.fail("it ran"), until=time.time() - 1)
    assert [trial.state for trial in study.trials()] == ["waiting"] * 4


def test_a_point_that_was_run_is_not_run_again(work):
    ran = []

    def run(composed, *rest):
        ran.append(composed.seed)
        return measured(composed.seed / 10)

    study = work(run, sampler={"kind": "random"}, trials=12)
    assert sorted(ran) == sorted(set(ran))
    assert [trial.state for trial in study.trials()] == ["complete"] * 12
    assert all(trial.values == [int(trial.point["seed"]) / 10] for trial in study.trials())


def test_interruptions_leave_the_trial_to_the_next(work):
    def run(composed, *rest):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(run)


def test_labels_are_short_and_kinds_leave_numbers_out():
    assert label_of({"dataset@source": "digits", "optimizer.lr": 0.000316227766, "seed": "1"}) == (
        "source=digits,optimizer.lr=0.000316,seed=1"
    )
    errors = (TrainingFailed(f"val/loss is nan after epoch {epoch}") for epoch in (3, 12))
    assert len({failure_kind(error) for error in errors}) == 1
    assert failure_kind(Pruned("x")) != failure_kind(ValueError("x"))


def test_objectives_are_read_from_validation():
    config = settings(objectives=["val/loss", "val/accuracy"])
    assert objectives_of(measured(0.75).metrics, config) == [0.25, 0.75]


@pytest.mark.parametrize(("objective", "best"), [("val/accuracy", 1), ("val/loss", 0)])
def test_the_best_is_by_the_first_objective_and_of_equals_the_earliest(objective, best):
    values = [[0.2, 9.0], [0.8, 0.0], [0.8, 5.0]]
    trials = [Trial(number, {"lr": number}, "complete", value) for number, value in enumerate(values)]
    trials += [Trial(3, {"lr": 3}, "pruned"), Trial(4, {"lr": 4}, "failed")]
    config = settings(objectives=[objective, "val/ece"])
    assert best_of(trials, config).number == best
    assert best_of(trials[3:], config) is None


def test_of_equals_the_best_is_one_that_can_be_repeated_to_the_byte():
    at_once = [
        Trial(number, {"lr": number}, "complete", [0.9], user_attrs={BATCHED: True}) for number in (0, 1)
    ]
    alone = [Trial(number, {"lr": number}, "complete", [0.9]) for number in (2, 3)]
    assert best_of([*at_once, *alone], settings()).number == 2
    assert best_of(at_once, settings()).number == 0
