"""A study in real stores: trials that wait, run, end, die with their process and come again."""

import gc
import os
import signal
import sqlite3
import time
from contextlib import closing

import pytest
from optuna.trial import TrialState
from tests.forks import FORKS

from frostline import schema
from frostline.config.space import Interval, Parameter, Space, Values
from frostline.console.errors import FrostlineError
from frostline.sweeps.trial import TRANSIENT

GRID = Space((Parameter("freeze", Values(("full", "gradual"))), Parameter("seed", Values(("0", "1", "2")))))
SEED = Parameter("seed", Values(("0", "1", "2")))
LINE = Space((Parameter("x", Interval(0.0, 1.0)),))
PRUNER = {
    "kind": "none",
    "startup": 2,
    "warmup": 0,
    "first": 1,
    "factor": 3,
    "patience": 2,
    "min_delta": 0.0,
}
SETTINGS = {
    "sampler": {"kind": "grid"},
    "pruner": PRUNER,
    "space": {},
    "objectives": ["val/accuracy"],
    "trials": None,
    "minutes": None,
    "seed": 0,
    "name": None,
    "store": None,
    "failures": 5,
    "workers": 1,
    "workers_per_device": 1,
}


def settings(**changes):
    return schema.Sweep.model_validate({**SETTINGS, **changes})


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "conf").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def study(space=GRID, worker=0, name="s", base=None, **changes):
    from frostline.sweeps.study import Study

    return Study(name, settings(**changes), space, base or {"lr": 1}, worker)


def begun(*arguments, **changes):
    made = study(*arguments, **changes)
    made.begin()
    made.enqueue_missing()
    return made


def states(made):
    return [trial.state for trial in made.trials()]


@pytest.mark.parametrize("store", [None, "trials.journal", "sqlite:///elsewhere.db"])
def test_the_points_of_a_grid_are_asked_for_once_in_their_order(store, place):
    made = begun(store=store)
    points = []
    while taken := made.ask():
        points.append(taken.point)
        taken.complete([0.5], {"label": "x"})
    assert points == GRID.combinations()
    assert states(made) == ["complete"] * 6
    assert all(trial.values == [0.5] and trial.user_attrs["label"] == "x" for trial in made.trials())
    again = begun(store=store)
    assert again.ask() is None
    assert len(again.trials()) == 6


def test_a_random_search_has_as_many_trials_as_it_may_and_the_same_whoever_draws_them(place):
    one = begun(LINE, name="one", sampler={"kind": "random"}, trials=4)
    expected = [LINE.random(0, number) for number in range(4)]
    points = []
    for worker in (0, 1, 0, 1):
        taken = begun(LINE, name="one", worker=worker, sampler={"kind": "random"}, trials=4).ask()
        points.append(taken.point)
        taken.complete([0.0], {})
    assert points == expected
    assert one.ask() is None


def test_two_commands_that_start_together_draw_different_points(place):
    config = {"sampler": {"kind": "tpe", "startup": 10, "multivariate": False}, "trials": 6}
    commands = [begun(LINE, name="one", **config) for _ in range(2)]
    points = [commands[number % 2].ask().point for number in range(6)]
    assert len({point["x"] for point in points}) == 6


def test_a_larger_number_of_trials_resumes_the_study(place):
    made = begun(LINE, sampler={"kind": "random"}, trials=2)
    while taken := made.ask():
        taken.complete([0.0], {})
    more = begun(LINE, sampler={"kind": "random"}, trials=3)
    assert more.ask().point == LINE.random(0, 2)


@pytest.mark.parametrize(
    "sampler",
    [
        {"kind": "tpe", "startup": 3, "multivariate": True},
        {"kind": "cmaes", "startup": 3},
        {"kind": "nsga2", "population": 4},
    ],
    ids=lambda sampler: sampler["kind"],
)
def test_adaptive_samplers_draw_inside_the_space_and_nothing_twice_when_resumed(sampler, place):
    space = Space(
        (
            Parameter("optimizer", Values(("sgd", "adamw"))),
            Parameter("momentum", Interval(0.5, 0.9), when={"optimizer": ("sgd",)}),
            Parameter("width", Interval(1, 9, whole=True)),
        )
    )
    points = []
    for _ in range(12):  # a process each
        taken = begun(space, sampler=sampler, trials=12).ask()
        points.append(taken.point)
        taken.complete([float(taken.point["width"])], {})
    assert begun(space, sampler=sampler, trials=12).ask() is None
    assert all(("momentum" in point) == (point["optimizer"] == "sgd") for point in points)
    assert all(1 <= point["width"] <= 9 and isinstance(point["width"], int) for point in points)
    assert len({str(point) for point in points}) > 6


@pytest.mark.parametrize("how", ["truncated", "garbage", "zeros within", "half"])
def test_a_damaged_store_is_set_aside_with_one_warning_and_made_again(how, place, capsys):
    made = begun()
    made.ask().complete([0.5], {})
    path = place / ".frostline/sweeps/s.db"
    del made
    gc.collect()
    whole = path.read_bytes()
    damaged = {
        "truncated": whole[:100],
        "garbage": b"garbage" * 1000,
        "zeros within": whole[:4096] + bytes(3 * 4096) + whole[4 * 4096 :],
        "half": whole[: len(whole) // 2],
    }
    path.write_bytes(damaged[how])
    assert states(begun()) == ["waiting"] * 6
    (warning,) = capsys.readouterr().err.splitlines()
    assert "sweeps/s.db is damaged (" in warning
    assert warning.endswith("it was set aside as s.db.damaged and is made again")
    assert path.with_name("s.db.damaged").read_bytes() == damaged[how]
    assert states(begun()) == ["waiting"] * 6
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "statement",
    ["UPDATE trial_values SET value = value + 1e-9", "UPDATE trial_params SET param_value = param_value / 2"],
)
def test_a_store_whose_trials_were_changed_is_set_aside_too(statement, place, capsys):
    made = begun(LINE, sampler={"kind": "random"}, trials=3)
    for value in (0.1, 0.2, 1 / 3):
        made.ask().complete([value], {})
    before = made.trials()
    made.close()
    begun(LINE, sampler={"kind": "random"}, trials=3).close()
    assert capsys.readouterr().err == ""
    path = place / ".frostline/sweeps/s.db"
    with closing(sqlite3.connect(path)) as store, store:
        assert store.execute(statement).rowcount == 3
    again = begun(LINE, sampler={"kind": "random"}, trials=3)
    (warning,) = capsys.readouterr().err.splitlines()
    assert (
        "sweeps/s.db is damaged (trial 0 does not match its hash); it was set aside as s.db.damaged"
        in warning
    )
    assert states(again) == []
    assert again.ask().point == before[0].point


def test_a_damaged_store_that_the_user_named_stays(place):
    (place / "mine.db").write_bytes(b"garbage" * 1000)
    with pytest.raises(FrostlineError, match=r"^sweep\.store: sqlite:///mine\.db can't be opened"):
        begun(store="sqlite:///mine.db")
    assert (place / "mine.db").read_bytes() == b"garbage" * 1000


def test_what_another_sweep_of_that_name_tried_is_not_mixed_in(place):
    begun()
    with pytest.raises(
        FrostlineError, match=r"^sweep\.name: the study 's' was created with another search space; add"
    ):
        begun(LINE, sampler={"kind": "grid"})
    with pytest.raises(FrostlineError, match=r"another config, data set or weights"):
        begun(base={"lr": 2})
    gc.collect()  # what was refused lives on in its error
    fresh = study(base={"lr": 2})
    fresh.begin(fresh=True)
    assert fresh.trials() == []


def test_a_sweep_that_began_with_other_code_says_so_and_keeps_its_trials(place, capsys):
    for code in ("a", "a", "b"):
        study().begin(code=code)
    said = [line for line in capsys.readouterr().err.splitlines() if "another version" in line]
    assert said == [
        "frostline: the sweep s began with another version of frostline, torch, timm or Lightning, and keeps"
        " its finished trials; --fresh runs all again"
    ]


def test_a_store_that_is_not_there_is_one_sentence(place):
    with pytest.raises(FrostlineError, match=r"^sweep\.store: postgresql.*can't be opened"):
        begun(store="postgresql+psycopg://127.0.0.1:1/none")


def test_many_processes_wait_for_each_other_longer_than_the_five_seconds_of_sqlite3(place):
    made = begun()
    with made._opened()._storage._backend.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 120_000


def test_a_complete_trial_of_a_point_is_found(place):
    made = begun()
    taken = made.ask()
    assert made.completed(taken.point) is None
    taken.complete([0.7], {"label": "l"})
    assert made.completed(taken.point).values == [0.7]


def test_trials_of_a_batch_are_added(place):
    made = study()
    made.begin()
    first, *others = made.missing_points()
    made.add_completed(first, [0.9], {"label": "l"})
    made.enqueue_missing()
    assert made.missing_points() == []
    assert states(made) == ["complete"] + ["waiting"] * 5
    assert made.ask().point == others[0]


@pytest.mark.timeout(60)  # of names, fANOVA tries every combination: 2⁴⁰ of them
def test_importances_are_computed_for_long_lists(place):
    rates = tuple(f"{rate / 10}" for rate in range(40))
    parameters = Parameter("lr", Values(rates)), Parameter("decay", Interval(0.0, 1.0)), SEED
    made = begun(Space(parameters), sampler={"kind": "random"}, trials=80)
    for number in range(80):
        point = made.space.random(0, number)
        made.add_completed(point, [float(point["lr"]) + point["decay"]], {})
    importances = made.importances()
    assert [*importances][:2] == ["lr", "decay"]
    assert importances["lr"] > 0.8
    assert "seed" not in importances
    assert sum(importances.values()) == pytest.approx(1)


def test_one_parameter_or_few_trials_say_nothing(place):
    made = begun(Space((SEED,)))
    assert made.importances() == {}
    for number in range(8):
        made.add_completed({"seed": str(number % 3)}, [number / 10], {})
    assert made.importances() == {}


def test_a_pruner_stops_what_is_worse_than_the_others_were(place):
    changes = {"pruner": {**PRUNER, "kind": "median"}}
    made = begun(**changes)
    for best in (0.8, 0.9):
        taken = made.ask()
        assert not any(taken.report(epoch, best * epoch / 3) for epoch in (1, 2, 3))
        taken.complete([best], {})
    hopeless = made.ask()
    assert hopeless.report(1, 0.1)
    hopeless.pruned()
    assert states(made)[:3] == ["complete", "complete", "pruned"]


@pytest.mark.parametrize("kind", ["median", "halving", "hyperband", "patience"])
def test_each_pruner_stops_what_is_hopeless_and_not_what_is_best(kind, place):
    pruner = {**PRUNER, "kind": kind}
    config = {"sampler": {"kind": "random"}, "trials": 40, "store": "s.journal", "pruner": pruner}
    made = begun(LINE, **config)
    for number in range(6):
        taken = made.ask()
        if any(taken.report(epoch, epoch / 10 + number / 1000) for epoch in range(1, 10)):
            taken.pruned()
        else:
            taken.complete([0.9 + number / 1000], {})
    other = study(LINE, worker=1, **config)  # as another process has it
    stopped = []
    for _ in range(4):
        hopeless = other.ask()
        stopped.append(any(hopeless.report(epoch, 0.01 / epoch) for epoch in range(1, 10)))
        hopeless.pruned()
    assert any(stopped)
    best = other.ask()
    assert not any(best.report(epoch, epoch / 5) for epoch in range(1, 10))


def test_a_trial_that_was_ended_as_dead_stays_so(place):
    made = begun()
    taken = [made.ask() for _ in range(3)]
    for running in taken:
        made._opened().tell(running.number, state=TrialState.FAIL)
    assert taken[0].report(1, 0.9)
    taken[0].pruned()
    taken[1].complete([0.9], {"label": "late"})
    taken[2].failed({"reason": "late"})
    assert states(made)[:3] == ["failed"] * 3
    assert not any("late" in trial.user_attrs.values() for trial in made.trials())


def failed_in_passing(trial):
    return trial.state == "failed" and bool(trial.user_attrs.get(TRANSIENT))


def test_failures_that_may_be_over_are_tried_once_more_by_the_next_command(place):
    made = begun()
    first, second = made.ask(), made.ask()
    first.failed({"reason": "the disk is full", TRANSIENT: True})
    second.failed({"reason": "the loss became nan", TRANSIENT: False})
    assert begun().retry(failed_in_passing) == 1
    again = begun()
    assert again.retry(failed_in_passing) == 0
    points = []
    while taken := again.ask():
        points.append(taken.point)
        taken.complete([0.5], {})
    assert points.count(first.point) == 1
    assert second.point not in points
    assert [trial.number for trial in made.trials() if trial.superseded] == [first.number]
    assert len(made.trials()) == 7


def test_a_study_with_running_trials_is_not_deleted(place):
    begun().ask()
    with pytest.raises(FrostlineError, match=r"^--fresh: the study s has running trials: 1; end the command"):
        study().begin(fresh=True)
    assert states(study()).count("running") == 1


def test_a_study_in_use_is_not_deleted_between_two_trials(place):
    one, other = begun(), begun()
    with pytest.raises(
        FrostlineError, match=r"^--fresh: the study s is in use by another command; end that command, or wait"
    ):
        study().begin(fresh=True)
    assert states(one) == states(other) == ["waiting"] * 6
    one.close()
    other.close()
    fresh = study()
    fresh.begin(fresh=True)
    assert states(fresh) == []
    assert states(begun()) == ["waiting"] * 6


# ── several processes ───────────────────────────────────────────────────────────────────────────────────────


def hold(ready):
    made = begun()
    taken = made.ask()
    ready.send(taken.point)
    time.sleep(60)


def work(number, out):
    made = begun(worker=number)
    mine = []
    while taken := made.ask():
        mine.append(taken.number)
        time.sleep(0.01)
        taken.complete([0.0], {})
    out.send(mine)


def test_a_point_whose_process_was_killed_is_run_again_by_the_next(place):
    mine, theirs = FORKS.Pipe()
    process = FORKS.Process(target=hold, args=(theirs,))
    process.start()
    point = mine.recv()
    made = begun()
    assert states(made).count("running") == 1
    assert made.ask().point != point  # its process lives
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    points = []
    while taken := made.ask():
        points.append(taken.point)
        taken.complete([0.0], {})
    assert points.count(point) == 1
    assert sum(trial.superseded for trial in made.trials()) == 1
    assert len(made.trials()) == 7


def test_four_processes_share_a_study_that_is_not_there_yet(place):
    pipes = [FORKS.Pipe() for _ in range(4)]
    processes = [FORKS.Process(target=work, args=(n, pipes[n][1])) for n in range(4)]
    for process in processes:
        process.start()
    taken = [number for mine, _ in pipes for number in mine.recv()]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(taken) == list(range(6))
