"""`frostline finetune -m`: the table of runs, and what failed ones make of the exit status."""

from contextlib import nullcontext
from pathlib import Path

import pytest
from tests.commands.test_training import RUN_FILES
from tests.shell import TINY

from frostline.commands.main import main
from frostline.commands.sweep_table import print_sweep
from frostline.config.compose import FailedJob
from frostline.console.errors import FrostlineError
from frostline.console.progress import LIBRARIES
from frostline.pipeline.standalone import Done
from frostline.probing import batched_finetune


def test_a_sweep_shares_its_pretraining_and_prints_a_table(shell):
    out, err = shell("finetune", *TINY, "out=sweep", "-m", "freeze=linear_probe,full", "seed=0,1")
    assert err.count("pretrain on digits: 1/1") == 1
    rows = [line.split() for line in out.splitlines() if line.startswith(" freeze=")]
    assert {row[0] for row in rows} == {
        f"freeze={f},seed={s}" for f in ("linear_probe", "full") for s in (0, 1)
    }
    accuracies = [float(row[1]) for row in rows]
    means = [float(row[2]) for row in rows]
    assert means == sorted(means, reverse=True)
    for first in (0, 2):  # both seeds of a setting, the better one first
        assert rows[first][0].split(",")[0] == rows[first + 1][0].split(",")[0]
        assert accuracies[first] >= accuracies[first + 1]
        assert (
            means[first]
            == means[first + 1]
            == pytest.approx(sum(accuracies[first : first + 2]) / 2, abs=1e-4)
        )
    assert all(row[-1] == f"sweep/{row[0]}" for row in rows)
    assert all({p.name for p in (shell.folder / row[-1]).iterdir()} == RUN_FILES for row in rows)
    assert "compare them: frostline compare; in the browser: frostline ui" in out


def test_a_sweep_of_linear_heads_names_what_it_waits_for(tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr(batched_finetune, "waiting", lambda text: nullcontext(waited.append(text)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROSTLINE_TRACKING", "off")
    assert main(["finetune", *TINY, "-m", "freeze=linear_probe", "seed=0,1"]) == 0
    assert waited == [LIBRARIES]


def test_paths_are_whole_however_narrow_the_terminal_is(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    metrics = {"val": {"accuracy": 0.5}, "test": {"accuracy": 0.5}}
    out = Path("runs", "a folder with a long name" * 8, "freeze=full")
    print_sweep([Done("freeze=full", out, metrics)])
    assert str(out) in capsys.readouterr().out


@pytest.mark.parametrize("objective", ["val/f1_macro", "val/loss"])
def test_the_table_shows_and_orders_by_what_the_sweep_optimizes(objective, capsys):
    split, _, name = objective.partition("/")
    values = {"a": 0.2, "b": 0.7} if name == "f1_macro" else {"a": 0.7, "b": 0.2}
    print_sweep(
        [
            Done(run, Path(run), {split: {"accuracy": accuracy, name: values[run]}}, run, objective)
            for run, accuracy in (("a", 0.9), ("b", 0.8))
        ]
    )
    header, *rows = capsys.readouterr().out.splitlines()
    assert f"{split} {name}" in header
    assert [row.split()[:2] for row in rows[:2]] == [[run, f"{values[run]:.4f}"] for run in "ba"]


def test_a_failed_run_has_no_mean(capsys, monkeypatch):
    """In a narrow terminal, where a row is a block of lines."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    metrics = {"val": {"accuracy": 0.5}}
    done = [Done(f"seed={seed}", Path("long" * 16), metrics, "both") for seed in (0, 1)]
    with pytest.raises(FrostlineError, match="1 of 3 runs failed"):
        print_sweep([*done, FailedJob("seed=2", FrostlineError("no memory"))])
    block = capsys.readouterr().out.partition(" seed=2\n")[2]
    assert block.splitlines()[0].split() == ["val", "accuracy", "failed"]
    assert "mean of runs" not in block


def test_a_job_that_fails_does_not_end_the_others(shell):
    words = [*TINY, "weights=none", "out=sweep", "-m", "optimizer.lr=0.01,1e30"]
    out, err = shell("finetune", *words, status=3)
    rows = [line.split() for line in out.splitlines() if line.startswith(" optimizer.lr=")]
    assert [row[1] == "failed" for row in rows] == [False, True]
    assert "frostline: error: 1 of 2 runs failed\noptimizer.lr=1e" in err
    assert "lower optimizer.lr" in err


def test_a_wrong_combination_is_refused_before_any_training(shell):
    error = shell.refused("finetune", *TINY, "-m", "optimizer.lr=0.01,oops")
    assert error == "optimizer.lr: found 'oops', must be a valid number"
    assert not (shell.folder / "runs").exists()
