"""A sweep's records and folders: each trial has one of its own; what is gone or replaced is noticed."""

import os
import resource
import shutil
import unicodedata
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from tests.forks import FORKS
from tests.shell import TINY
from tests.sweeps.test_sweeper import COMPLETE, asked, rows, trials

from frostline.config import compose, stage_configs
from frostline.console.errors import OutOfResources
from frostline.pipeline import standalone
from frostline.pipeline.output_folders import out_folder, safe_name

WORDS = [*TINY, "weights=none", "-m"]


def epochs(folder):
    return yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["epochs"]


def test_names_that_a_file_system_may_take_for_one_are_not_shortened_to_one():
    names = ["a/b", "a b", "a:b", "a-b", "A-b", "a-b.", "a-b..", ".a-b", "x" * 300, "x" * 299, "x" * 301]
    names += [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")] + ["", ".", "..", "-", "\n", "…"]
    names += [safe_name(name) for name in names if safe_name(name) != name]
    for one, other in combinations(names, 2):
        assert safe_name(one).casefold() != safe_name(other).casefold(), (one, other)
    for name in map(safe_name, names):
        assert len(name.encode()) < 255
        assert not name.endswith(".")
        assert not name.startswith((".", "/"))
        assert "/" not in name
    assert safe_name("freeze=full,optimizer.lr=1e-3,seed=0") == "freeze=full,optimizer.lr=1e-3,seed=0"
    assert safe_name("lr=1e-3") != safe_name("lr=0.001")


def test_runs_from_different_pretrainings_have_folders_of_their_own():
    composed = [compose.experiment([*TINY, f"pretrain.trainer.epochs={n}"]) for n in (1, 2)]
    outs = set()
    for experiment, choices in composed:
        run = stage_configs.finetune_config(experiment, choices)
        outs.add(out_folder(run, None, pretraining=standalone.pretraining_config(experiment, choices)))
    assert len(outs) == 2


@pytest.mark.slow
def test_a_sweep_keeps_other_runs_in_its_folder_and_retries_trials_whose_runs_are_lost(shell):
    first = [*WORDS, "freeze=linear_probe", "seed=0,1,2", "out=sweep"]
    shell("finetune", *first)
    out, _ = shell("finetune", *first, "trainer.epochs=3")
    assert len({cells[-1] for cells in rows(out).values()}) == 3
    assert all(cells[-1].startswith("sweep/seed=") for cells in rows(out).values())
    assert [epochs(shell.folder / f"sweep/seed={seed}") for seed in (0, 1, 2)] == [2, 2, 2]
    assert {epochs(shell.folder / cells[-1]) for cells in rows(out).values()} == {3}

    shutil.rmtree(shell.folder / "sweep/seed=0")
    (shell.folder / "sweep/seed=1/weights.safetensors").unlink()
    other = shell.folder / next(cells[-1] for cells in rows(out).values() if "seed=2" in cells[-1])
    shutil.rmtree(shell.folder / "sweep/seed=2")
    other.rename(shell.folder / "sweep/seed=2")
    again, err = shell("finetune", *first)
    assert "trials that are retried, since their folders are gone or hold another run: 3" in err
    assert len(rows(again)) == 3
    for cells in rows(again).values():
        assert epochs(shell.folder / cells[-1]) == 2
        assert (shell.folder / cells[-1] / "weights.safetensors").is_file()
    assert epochs(shell.folder / "sweep/seed=2") == 3
    _, err = shell("finetune", *first)
    assert "retried" not in err


def test_a_sweep_by_intervals_retries_trials_whose_runs_are_lost(shell):
    words = [*WORDS, "sweep=random", "sweep.trials=3", "optimizer.lr=tag(log,interval(1e-3,1e-1))", "out=s"]
    out, _ = shell("finetune", *words)
    gone = next(iter(rows(out).values()))[-1]
    shutil.rmtree(shell.folder / gone)
    again, err = shell("finetune", *words)
    assert "folders are gone or hold another run: 1" in err
    assert {cells[-1] for cells in rows(again).values()} == {cells[-1] for cells in rows(out).values()}
    assert (shell.folder / gone / "metrics.json").is_file()


@pytest.mark.parametrize(
    "varied",
    [
        ["freeze=full", "seed=0,1,2", "trainer.epochs=30"],
        ["freeze=full", "optimizer.lr=0.1,1e-1,0.10"],
        ["freeze=linear_probe", "seed=0,1", "optimizer.lr=0.1,0.2"],
    ],
    ids=["one after the other", "the same values in other words", "heads at once"],
)
def test_two_commands_on_one_grid_both_end_well(varied, shell):
    commands = [shell.start("finetune", *WORDS, *varied) for _ in range(2)]
    outs = []
    for command in commands:
        with command:
            out, err = command.communicate(timeout=300)
        assert command.returncode == 0, err
        outs.append(rows(out))
    assert outs[0] == outs[1]
    assert {trial.state.name for trial in trials(shell.folder)} == {"COMPLETE"}
    assert asked(shell.folder, COMPLETE) == len(trials(shell.folder))


def in_a_small_space(folder, limit):
    os.chdir(folder)
    os.environ["FROSTLINE_TRACKING"] = "off"
    composed, choices = compose.experiment(
        # Without a notice about few labels: the limit is also that of the file that catches it.
        [*TINY, "weights=none", "freeze=full", "input.size=64", "dataset.selection=last"]
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        standalone.Job("finetune")(composed, choices)
    except OutOfResources as error:
        Path("said").write_text(str(error))


@pytest.mark.parametrize("limit", [100, 50_000], ids=["prepared data", "pixels or weights"])
def test_a_disk_that_is_full_anywhere_in_a_trial_is_known_as_that(limit, tmp_path):
    # A sweep's next command tries a trial again that ended so; tests/sweeps/test_study.py has that.
    process = FORKS.Process(target=in_a_small_space, args=(tmp_path, limit))
    process.start()
    process.join(200)
    assert process.exitcode == 0
    assert "the disk is full" in (tmp_path / "said").read_text()
