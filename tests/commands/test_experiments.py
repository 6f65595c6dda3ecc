"""The table of DVC's experiments: what differs, the arms' results, and a width that fits a terminal."""

import re
import subprocess
from dataclasses import replace

import pytest

from frostline.commands import experiments
from frostline.commands import main as cli
from frostline.commands.experiments import metric_of, print_table, read_rows, table
from frostline.console import tables

PARAMS = {
    "experiment": "mnist_to_digits",
    "freeze": "gradual",
    "seeds": None,
    "optimizer": {"lr": None, "weight_decay": None},
    "pretrain": {"trainer": {"epochs": None}},
}
ARMS = ("scratch", "zero_shot", "linear_probe", "full")


def revision(rev, freeze, lr=None, **more):
    """A revision as `dvc exp show --json` prints it."""
    params = {**PARAMS, "freeze": freeze, "optimizer": {"lr": lr, "weight_decay": None}}
    metrics = {f"{arm}.accuracy": 0.9123 for arm in (*ARMS, freeze)}
    metrics |= {f"{arm}.gain": -0.0512 for arm in (*ARMS[1:], freeze)}
    data = {
        "params": {"params.yaml": {"data": params}},
        "metrics": {"artifacts/report/metrics.json": {"data": metrics}},
        "deps": {f"src/frostline/{number}": {} for number in range(50)},
    }
    return {"rev": rev, "name": None, "data": data, **more}


def experiment(name, *arguments, **more):
    return {"name": name, "revs": [revision("0" * 40, *arguments)], "executor": None, **more}


SHOWN = [
    revision("workspace", "gradual"),
    revision("f" * 40, "gradual", name="main", experiments=[
        experiment("basal-lick", "lp_ft"),
        experiment("guest-clay", "gradual", 0.003, executor={"state": "queued"}),
    ]),
]  # fmt: skip


def test_a_row_has_what_differs_and_the_results_of_its_arms():
    headers, cells = table(read_rows(SHOWN))
    assert headers == ["experiment", "freeze", "optimizer.lr", *ARMS, "gradual", "lp_ft"]
    assert [row[0] for row in cells] == ["workspace", "main", "  basal-lick", "  guest-clay (queued)"]
    assert cells[2] == ["  basal-lick", "lp_ft", "", "91.2", *["91.2 −5.1"] * 3, "", "91.2 −5.1"]
    assert cells[3][1:3] == ["gradual", "0.003"]


def test_the_metric_is_that_of_the_results():
    (row,) = read_rows(SHOWN[:1])
    assert metric_of(row) == "accuracy"
    assert metric_of(replace(row, metrics={"full.mAP": 0.9, "full.gain": 0.1})) == "mAP"


def test_a_revision_that_dvc_cannot_read_is_a_row_too():
    broken = {"rev": "workspace", "name": None, "data": None, "error": {"msg": "dvc.lock validation failed"}}
    headers, cells = table(read_rows([broken, revision("a" * 40, "full")]))
    assert cells[0] == ["workspace (unreadable)", *[""] * (len(headers) - 1)]
    assert "freeze" not in headers  # nothing differs among those that can be read


def without_results(rev):
    return revision(rev, "gradual") | {"data": {"params": {"params.yaml": {"data": PARAMS}}}}


def test_a_commit_without_results_is_left_out_unless_it_has_experiments():
    later = without_results("b" * 40) | {"experiments": [experiment("basal-lick", "lp_ft")]}
    rows = read_rows([without_results("workspace"), without_results("a" * 40), later])
    assert [row.name for row in rows] == ["bbbbbbb", "  basal-lick"]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with two commits, and an experiment that begins at each; the commits' hashes."""
    monkeypatch.chdir(tmp_path)

    def git(*words):
        own = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", *words]
        return subprocess.run(own, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    commits = []
    for name in ("first", "second"):
        git("commit", "-q", "--allow-empty", "-m", name)
        commits.append(git("rev-parse", "HEAD"))
        git("update-ref", f"refs/exps/{commits[-1][:2]}/{commits[-1][2:]}/of-{name}", "HEAD")
    git("update-ref", "refs/exps/exec/EXEC_BASELINE", "HEAD")  # one of DVC's own
    return commits


@pytest.mark.parametrize("rows", [0, 1])
def test_experiments_of_other_commits_are_counted_and_an_empty_table_says_why(
    repository, monkeypatch, capsys, rows
):
    new = revision(repository[1], "full") if rows else without_results(repository[1])
    monkeypatch.setattr(experiments, "_shown_by_dvc", lambda extra: [new])
    assert cli.main(["experiments"]) == 0
    out = capsys.readouterr().out
    assert "1 experiment of other commits: frostline experiments -A shows them\n" in out
    assert ("no experiment of this commit has results: dvc repro runs the study" in out) == (not rows)
    assert cli.main(["experiments", "-A"]) == 0
    out = capsys.readouterr().out
    assert "of other commits" not in out
    assert ("no commit has results: dvc repro runs the study" in out) == (not rows)


def test_two_schedules_and_a_learning_rate_fit_into_120_columns(capsys, monkeypatch):
    monkeypatch.setattr(tables, "WIDTH", 40)
    print_table(read_rows(SHOWN))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 4
    assert lines[0].split() == ["optimizer."]
    assert lines[1].split()[:3] == ["experiment", "freeze", "lr"]
    assert max(map(len, lines)) <= 120


def test_without_a_study_dvcs_reason_is_the_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["experiments"]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"frostline: error: experiments: DVC says: you are not inside of a DVC repo.*\n", error
    )


@pytest.mark.parametrize("arms", [0, 1])
def test_no_experiment_and_no_result_is_a_table_as_well(arms):
    headers, cells = table(read_rows(SHOWN[:arms]))
    assert len(cells) == arms
    assert headers[0] == "experiment"
