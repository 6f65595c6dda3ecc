"""What is shown of a sweep while it runs."""

import io
import time

import pytest
from rich.console import Console
from tests.sweeps.test_study import settings

from frostline.config.space import Parameter, Space, Values
from frostline.sweeps import live
from frostline.sweeps.study import Study
from frostline.sweeps.trial import Trial

NOW = 1_000_000.0


def trial(number, state, value=None, seconds=10.0, ended=NOW, reported=None):
    values = () if value is None else (value,)
    return Trial(number, {"lr": str(number)}, state, values, seconds, ended, reported)


DONE = [trial(0, "complete", 0.9), trial(1, "complete", 0.7, 20.0), trial(2, "pruned", None, 6.0)]
RUNNING = [*DONE, trial(3, "running")]
FAILED = [*DONE, trial(3, "failed", None, 12.0)]


@pytest.mark.parametrize(
    ("trials", "total", "until", "workers", "said"),
    [
        ([], 8, None, 1, "0 of 8 ended"),
        (DONE, 11, None, 1, "3 of 11 ended, 1 pruned, best val/accuracy 0.9000, 96 s left"),
        (DONE, 11, None, 4, "3 of 11 ended, 1 pruned, best val/accuracy 0.9000, 24 s left"),
        (
            [*DONE, trial(3, "running")],
            11,
            None,
            2,
            "3 of 11 ended, 1 running, 1 pruned, best val/accuracy 0.9000, 43 s left",
        ),
        (
            [*DONE, trial(3, "failed", None, 12.0)],
            4,
            None,
            1,
            "4 of 4 ended, 1 pruned, 1 failed, best val/accuracy 0.9000, 0 s left",
        ),
        (
            [trial(0, "complete", 0.9, 600.0)],
            51,
            None,
            2,
            "1 of 51 ended, best val/accuracy 0.9000, 4.2 h left",
        ),
        (
            [trial(0, "complete", 0.9, ended=NOW - 9e5)],
            5,
            None,
            1,
            "1 of 5 ended, best val/accuracy 0.9000",
        ),  # by an earlier command
    ],
)
def test_how_far_it_is(trials, total, until, workers, said):
    assert live.status(trials, live.Budget(total, until, NOW - 100, workers), "val/accuracy") == said


def test_the_least_loss_is_the_best_and_time_is_a_limit():
    said = live.status(DONE, live.Budget(None, time.time() + 59.9, NOW - 100, 1), "val/loss")
    assert said in (
        "3 ended, 1 pruned, best val/loss 0.7000, 60 s left",
        "3 ended, 1 pruned, best val/loss 0.7000, 59 s left",
    )


def test_the_best_setting_is_the_one_with_the_best_mean_over_its_seeds():
    points = {("a", 0): 0.9, ("a", 1): 0.5, ("b", 0): 0.8, ("b", 1): 0.8}
    trials = [
        Trial(number, {"freeze": freeze, "seed": str(seed)}, "complete", (value,))
        for number, ((freeze, seed), value) in enumerate(points.items())
    ]
    said = live.status(trials, live.Budget(8, None, NOW, 1), "val/accuracy")
    assert said == "4 of 8 ended, best val/accuracy 0.8000 (mean of 2 runs)"


def test_the_table_has_all_that_run_and_the_latest_that_ended():
    ended = [trial(i, "complete", i / 10, ended=NOW - i) for i in range(9)]
    made = live.table([*ended, trial(9, "running", reported=(3, 0.25))], "title", "val/accuracy")
    stream = io.StringIO()
    Console(file=stream, width=100).print(made)
    rows = [line.split() for line in stream.getvalue().splitlines()[2:]]
    assert rows[0] == ["9", "lr=9", "running", "3", "0.2500", "10"]
    assert [row[0] for row in rows[1:]] == ["4", "3", "2", "1", "0"]
    assert rows[1] == ["4", "lr=4", "complete", "0.4000", "10"]


def test_lines_where_there_is_no_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(live, "LINE_SECONDS", 0.05)
    study = Study("s", settings(), Space((Parameter("seed", Values(("0", "1"))),)), {})
    study.begin()
    study.enqueue_missing()
    with live.shown(study, 2, None):
        taken = study.ask()
        taken.report(2, 0.5)
        time.sleep(0.5)
        assert [trial.reported for trial in study.trials() if trial.state == "running"] == [(2, 0.5)]
        taken.complete([0.75], {})
        time.sleep(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert "s: 0 of 2 ended, 1 running" in lines
    assert lines[-1].startswith("s: 1 of 2 ended, best val/accuracy 0.7500, ")
