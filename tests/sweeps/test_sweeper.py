"""Sweeps as commands run them: what they leave, how they go on, what they refuse."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import time

import pytest
import yaml
from tests.imports import SRC
from tests.photos import plant
from tests.shell import TINY, TINY_PRETRAIN

from frostline.base.formats import read_csv
from frostline.config import compose
from frostline.console.errors import FrostlineError
from frostline.sweeps import sweeper

WORDS = [*TINY, "weights=none", "-m"]
FILES = ("metrics.json", "weights.safetensors", "history.csv", "predictions.csv", "config.yaml")


def rows(out):
    """Of the table: what sets a trial apart → its cells."""
    lines = [line.split() for line in out.splitlines() if line.startswith(" ") and "=" in line]
    return {cells[0]: cells[1:] for cells in lines}


def trials(folder):
    from optuna import load_study

    (store,) = (folder / ".frostline/sweeps").iterdir()
    return load_study(study_name=store.stem, storage=f"sqlite:///{store}").get_trials(deepcopy=False)


def all_of(folder, query):
    """The first column of a query's rows from the study's store; empty while there is none."""
    for store in (folder / ".frostline/sweeps").glob("*.db"):
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(store)) as rows:
            return [cell for (cell, *_) in rows.execute(query)]
    return []


def asked(folder, query):
    """The first cell, None while there is nothing yet."""
    return next(iter(all_of(folder, query)), None)


COMPLETE = "SELECT count(*) FROM trials WHERE state = 'COMPLETE'"
PROCESS = """SELECT value_json FROM trial_user_attributes JOIN trials USING (trial_id)
    WHERE key = 'process' AND state = 'RUNNING'"""


@pytest.mark.slow
def test_the_same_command_resumes_and_repeats_nothing(shell):
    words = [*WORDS, "freeze=full", "optimizer.lr=0.01,0.1"]
    out, err = shell("finetune", *words)
    assert len(rows(out)) == 2
    assert err.count("2/2 val/accuracy") == 2
    again, err = shell("finetune", *words)
    assert rows(again) == rows(out)
    assert "val/accuracy" not in err
    more, err = shell("finetune", *words, "--fresh")
    assert rows(more) == rows(out)
    assert err.count("2/2 val/accuracy") == 2
    elsewhere, err = shell("finetune", *words, "out=elsewhere")
    assert {cells[-1].split("/")[0] for cells in rows(elsewhere).values()} == {"elsewhere"}
    assert len(list((shell.folder / "elsewhere").iterdir())) == 2


@pytest.mark.parametrize("sweep", ["random", "tpe"])
def test_intervals_are_searched(sweep, shell):
    words = [*WORDS, f"sweep={sweep}", "sweep.trials=5", "optimizer.lr=tag(log,interval(1e-3,1e-1))"]
    out, _ = shell("finetune", *words, "freeze=full,linear_probe")
    rates = [float(name.split(",")[0].partition("=")[2]) for name in rows(out)]
    assert len(rates) == 5
    assert all(1e-3 <= rate <= 1e-1 for rate in rates)
    assert len(set(rates)) == 5


def test_a_space_in_yaml_has_keys_that_depend_on_others(shell):
    conf = shell.folder / "conf"
    shutil.copytree(SRC.parent / "conf", conf)
    (conf / "sweep/mine.yaml").write_text(
        """
defaults: [random, _self_]
trials: 6
space:
  optimizer: [sgd, adamw]
  optimizer.momentum: {values: "interval(0.5, 0.9)", when: {optimizer: sgd}}
"""
    )
    out, _ = shell("finetune", *WORDS, "sweep=mine")
    assert len(trials := rows(out)) == 6
    assert all(("optimizer.momentum" in name) == ("optimizer=sgd" in name) for name in trials)
    assert {name.split(",")[0] for name in trials} == {"optimizer=sgd", "optimizer=adamw"}


def test_the_best_is_written_as_an_experiment_that_repeats_it_to_the_byte(shell):
    shutil.copytree(SRC.parent / "conf", shell.folder / "conf")
    words = [*WORDS, "sweep.name=mine", "freeze=full,linear_probe", "optimizer=sgd,adam", "seed=1,2"]
    out, err = shell("finetune", *words)
    assert "to repeat the best trial: frostline finetune experiment=mine-best" in err
    best = next(iter(rows(out).values()))[-1]
    shell("finetune", "experiment=mine-best", "out=again")
    for name in FILES:
        assert (shell.folder / "again" / name).read_bytes() == (shell.folder / best / name).read_bytes(), name
    config = yaml.safe_load((shell.folder / "again/config.yaml").read_text())
    assert config["study"] == "mine"
    left = shell.folder / "runs/sweeps/mine"
    names = {"trials.csv", "history.png", "parallel.png", "index.html"}
    assert {path.name for path in left.iterdir()} == names
    page = (left / "index.html").read_text()
    assert page.count("<svg") == 2  # eight trials say nothing about importance
    repeated = (shell.folder / "conf/experiment/mine-best.yaml").read_text()
    assert re.search(r"^# What the sweep varied: freeze=\w+ optimizer=\w+$", repeated, re.M)
    assert best in page
    table = read_csv(left / "trials.csv")
    assert [row["state"] for row in table] == ["complete"] * 8
    assert {row["out"] for row in table} == {cells[-1] for cells in rows(out).values()}
    means = {}
    for row in table:
        means.setdefault((row["freeze"], row["optimizer"]), []).append(float(row["val/accuracy"]))
    highest = max(sum(values) / 2 for values in means.values())
    assert float(next(iter(rows(out).values()))[1]) == pytest.approx(highest, abs=1e-4)


def test_the_best_says_what_differs_from_frostlines_own_options_and_repeats_the_trial(shell):
    (shell.folder / "conf/freeze").mkdir(parents=True)
    (shell.folder / "conf/freeze/mine.yaml").write_text(
        'groups: {head: head, rest: "*"}\nphases:\n  - {train: all, until: end}\n'
    )
    words = [*WORDS, "weights=none", "sweep.name=short", "freeze=mine", "optimizer.lr=0.001,0.01"]
    out, _ = shell("finetune", *words)
    text = (shell.folder / "conf/experiment/short-best.yaml").read_text()
    content = yaml.safe_load(text)
    assert content["defaults"] == [{"override /freeze": "mine"}, *content["defaults"][1:]]
    assert content["optimizer"] == {"lr": float(next(iter(rows(out))).partition("=")[2])}
    assert content["freeze"]["phases"][0]["train"] == "all"  # whole: the project may change its schedule
    assert not {"pretrain", "source", "loss", "seeds"} & content.keys()
    assert len(text.splitlines()) < 60
    best = next(iter(rows(out).values()))[-1]
    shell("finetune", "experiment=short-best", "out=again")
    for name in FILES:
        assert (shell.folder / "again" / name).read_bytes() == (shell.folder / best / name).read_bytes(), name


def test_the_best_of_batched_heads_is_repeated_to_the_byte_too(shell):
    shutil.copytree(SRC.parent / "conf", shell.folder / "conf")
    words = [*WORDS, "sweep.name=heads", "freeze=linear_probe", "optimizer.lr=0.001,0.01,0.1", "seed=1,2"]
    out, err = shell("finetune", *words)
    assert "6 runs train as batched linear heads: only their heads differ" in err
    assert err.count("2/2 val/accuracy") == 1
    table = rows(out)
    assert len(table) == len(trials(shell.folder)) == 6
    shell("finetune", "experiment=heads-best", "out=again")
    (best,) = (row for row in read_csv(shell.folder / "runs/sweeps/heads/trials.csv") if row["trial"] == "5")
    assert best["out"] == next(iter(table.values()))[-1]
    assert float(best["val/accuracy"]) >= float(next(iter(table.values()))[1])  # its setting's mean
    for name in FILES:
        before = (shell.folder / best["out"] / name).read_bytes()
        assert (shell.folder / "again" / name).read_bytes() == before, name


def test_hopeless_trials_are_pruned_and_marked_so(shell):
    words = [*WORDS, "trainer.epochs=6", "optimizer=sgd", "optimizer.lr=0.1,0.2,1e-6"]
    out, _ = shell("finetune", *words, "sweep.pruner.kind=median", "sweep.pruner.startup=2")
    assert rows(out)["optimizer.lr=1e-06"] == ["pruned"]
    assert [trial.state.name for trial in trials(shell.folder)] == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert not list((shell.folder / ".frostline/resume").glob("*/*.ckpt"))


def test_too_many_failures_of_a_kind_end_a_sweep(shell):
    words = [*WORDS, "sweep.failures=2", "optimizer.lr=1e30,1e31,0.01"]
    _, err = shell("finetune", *words, status=3)
    assert "the sweep stopped: 2 trials failed for the same reason" in err
    assert [trial.state.name for trial in trials(shell.folder)] == ["FAIL", "FAIL", "WAITING"]


def test_a_pretraining_is_no_part_of_the_trial_that_wants_it_first(shell):
    words = [*TINY, "freeze=full", "pretrain.trainer.epochs=3", "optimizer.lr=0.01,0.02", "-m"]
    out, _ = shell("finetune", *words, "sweep.pruner.kind=median")
    expected = [
        [float(row["val/accuracy"]) for row in read_csv(shell.folder / cells[-1] / "history.csv")][1:]
        for _, cells in sorted(rows(out).items())
    ]
    reported = [list(trial.intermediate_values.values()) for trial in trials(shell.folder)]
    assert reported == expected


def test_other_data_are_another_study(shell):
    plant(shell.folder / "photos")
    words = [*WORDS, "dataset=image_folder", "dataset.root=photos", "dataset.shots=null", "seed=0,1"]
    _, err = shell("finetune", *words)
    assert err.count("2/2 val/accuracy") == 2
    (shell.folder / "photos/cat/00.png").unlink()
    _, err = shell("finetune", *words)
    assert err.count("2/2 val/accuracy") == 2
    assert len(list((shell.folder / ".frostline/sweeps").iterdir())) == 2


@pytest.mark.parametrize("sweep", ["grid", "random"])
def test_an_option_edited_between_two_commands_is_trained_as_it_is_now(sweep, shell):
    mine = shell.folder / "conf/freeze/mine.yaml"
    mine.parent.mkdir(parents=True)
    schedule = 'groups: {head: head, rest: "*"}\nphases:\n  - {train: %s, until: end}\n'
    mine.write_text(schedule % "[head]")
    words = [*WORDS, f"sweep={sweep}", "sweep.trials=4", "sweep.seed=1", "freeze=full,mine"]
    out, _ = shell("finetune", *words)
    assert any("freeze=mine" in label for label in rows(out))
    mine.write_text(schedule % "all")
    out, _ = shell("finetune", *words)
    folders = {label: cells[-1] for label, cells in rows(out).items()}
    phases = [
        json.loads((shell.folder / folder / "training.json").read_text())["phases"][0]["train"]
        for label, folder in folders.items()
        if "freeze=mine" in label
    ]
    assert phases
    assert set(phases) == {"all"}


def test_more_trials_extend_a_grid(shell):
    words = [*WORDS, "freeze=full,linear_probe", "sweep.name=cut", "sweep.pruner.kind=patience"]
    out, err = shell("finetune", *words, "sweep.trials=1")
    assert (len(rows(out)), err.count("2/2 val/accuracy")) == (1, 1)
    out, err = shell("finetune", *words, "sweep.trials=2")
    assert (len(rows(out)), err.count("2/2 val/accuracy")) == (2, 1)
    assert [trial.state.name for trial in trials(shell.folder)] == ["COMPLETE", "COMPLETE"]


def test_a_grown_grid_trains_its_new_trials_only(shell):
    words = [*WORDS, "freeze=full", "dataset.selection=last"]
    first, _ = shell("finetune", *words, "optimizer.lr=0.01,0.1")
    grown, err = shell("finetune", *words, "optimizer.lr=0.01,0.1,0.2", "sweep.name=grown")
    assert (err.count("trained before"), err.count("2/2 val/accuracy")) == (2, 1)
    assert "finetune full · optimizer.lr=0.2 · seed 0: 2/2 val/accuracy" in err
    assert len(rows(grown)) == 3
    for label, cells in rows(first).items():
        earlier, now = (shell.folder / folder for folder in (cells[-1], rows(grown)[label][-1]))
        assert earlier != now
        for name in ("weights.safetensors", "history.csv", "metrics.json", "predictions.csv"):
            assert (earlier / name).read_bytes() == (now / name).read_bytes()
        config = yaml.safe_load((now / "config.yaml").read_text())
        assert config["study"] == "grown"
        assert config["study"] != yaml.safe_load((earlier / "config.yaml").read_text())["study"]
        shell("evaluate", str(now))  # refuses a config.yaml that training.json doesn't name
    finished = shell.folder / ".frostline/finished"
    assert len(list(finished.iterdir())) == 3
    shutil.rmtree(shell.folder / "runs")
    _, err = shell("finetune", *words, "optimizer.lr=0.01,0.3")
    assert (err.count("trained before"), err.count("2/2 val/accuracy")) == (0, 2)
    assert len(list(finished.iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("sweep=tpe seed=0", "nothing varies; give a key several values"),
        ("optimizer.lr=interval(0,1)", "optimizer.lr: a grid takes lists"),
        ("sweep=tpe optimizer.lr=tag(log,interval(0,1))", "optimizer.lr: found an interval from 0.0 to 1.0"),
        ("sweep=tpe,random seed=0,1", "sweep=tpe,random: says how to sweep, so it takes one value"),
        ("sweep=tep seed=0,1", "sweep: no option 'tep'; did you mean 'tpe'"),
        ("sweep.trails=3 seed=0,1", "sweep.trails: unknown key; did you mean 'sweep.trials'"),
        (
            "sweep.objectives=[test/accuracy] seed=0,1",
            "sweep.objectives.0: found 'test/accuracy'",
        ),
        ("sweep=random sweep.trials=null seed=0,1", "sweep: has no limit; set sweep.trials"),
        (
            "sweep=halving sweep.objectives=[val/ece] optimizer.lr=0.1,0.2",
            "sweep.pruner: val/ece is not measured after each epoch, but val/accuracy, val/balanced_accuracy,"
            " val/f1_macro and val/loss are",
        ),
        (
            "sweep.objectives=[val/mAP] seed=0,1",
            "sweep.objectives: val/mAP is not measured with loss.kind=cross_entropy; ",
        ),
    ],
)
def test_invalid_sweep_configs_are_errors_of_one_sentence(words, sentence, shell):
    assert shell.refused("finetune", *WORDS, *words.split()).startswith(sentence)
    assert not (shell.folder / "runs").exists()


def test_a_monitor_that_does_not_order_the_trials_is_noted(shell):
    words = [*WORDS, "freeze=full", "trainer.monitor=val/f1_macro", "optimizer.lr=0.01,0.1"]
    note = (
        "frostline: note: trainer.monitor=val/f1_macro selects the epochs, but val/accuracy orders the"
        " trials; to order them by it, set sweep.objectives=[val/f1_macro]\n"
    )
    assert note in shell("finetune", *words)[1]
    assert "note: trainer.monitor" not in shell("finetune", *words, "sweep.objectives=[val/f1_macro]")[1]


def test_a_sweep_of_pretrainings_is_ranked_by_what_they_measure():
    several = ["source=table", "source.file=a.csv", "source.task=multi_label", "pretrain.loss=bce"]
    (composed, _), settings = compose.experiment([*TINY, *several]), compose.space_of(["seed=0,1"])[2]
    fitted = sweeper._for_pretraining(settings, composed)
    assert (settings.objectives, fitted.objectives) == (["val/accuracy"], ["val/mAP"])
    sweeper.check_objectives(fitted, composed, "pretrain")
    chosen = settings.model_copy(update={"objectives": ["val/loss"]})
    assert sweeper._for_pretraining(chosen, composed) is chosen
    pruner = settings.pruner.model_copy(update={"kind": "median"})
    pruned = settings.model_copy(update={"objectives": ["val/f1_macro"], "pruner": pruner})
    sweeper.check_objectives(pruned, composed, "finetune")
    with pytest.raises(FrostlineError, match=r"val/f1_macro is not .*, but val/mAP and val/loss are; "):
        sweeper.check_objectives(pruned, composed, "pretrain")


def test_a_sweep_of_pretrainings_varies_their_own_keys(shell):
    shutil.copytree(SRC.parent / "conf", shell.folder / "conf")
    settings = "defaults: [random, _self_]\ntrials: 2\nspace: {{{}optimizer.lr: 'interval(0.1, 0.2)'}}"
    (shell.folder / "conf/sweep/mine.yaml").write_text(settings.format(""))
    error = "sweep.space: optimizer.lr: pretrain does not read this key; vary pretrain.optimizer.lr"
    assert shell.refused("pretrain", "-m", *TINY_PRETRAIN, "sweep=mine") == error
    (shell.folder / "conf/sweep/mine.yaml").write_text(settings.format("pretrain."))
    out, _ = shell("pretrain", "-m", *TINY_PRETRAIN, "sweep=mine")
    assert len(rows(out)) == 2
    shutil.rmtree(shell.folder / "runs")
    error = "optimizer, seed: pretrain does not read these keys; write pretrain.optimizer=sgd,adamw"
    words = ["optimizer=sgd,adamw", "seed=0,1"]
    assert shell.refused("pretrain", "-m", *TINY_PRETRAIN, *words) == f"{error} pretrain.seed=0,1"
    assert not (shell.folder / "runs").exists()


@pytest.mark.slow
def test_two_workers_share_the_trials(shell):
    words = [*WORDS, "sweep.workers=2", "optimizer.lr=0.01,0.02,0.03,0.04", "freeze=full"]
    out, _ = shell("finetune", *words)
    assert len(rows(out)) == 4
    assert len({trial.user_attrs["process"] for trial in trials(shell.folder)}) == 2


@pytest.mark.slow
@pytest.mark.parametrize("sweep", ["grid", "random"])
def test_a_sweep_that_is_killed_again_and_again_ends_as_one_that_was_not(sweep, shell):
    words = [
        *WORDS,
        "trainer.epochs=5",
        f"sweep={sweep}",
        "optimizer.lr=0.01,0.03,0.1,0.3",
        "freeze=full,linear_probe",
    ]
    words += ["sweep.trials=4"]
    whole, _ = shell("finetune", *words)
    shutil.rmtree(shell.folder / ".frostline/sweeps")
    shutil.rmtree(shell.folder / "runs")
    for done in (1, 2):
        process = shell.start("finetune", *words)
        while (asked(shell.folder, COMPLETE) or 0) < done or not (name := asked(shell.folder, PROCESS)):
            assert process.poll() is None
            time.sleep(0.01)
        # The fork that works, not the program that asked for it.
        os.kill(int(json.loads(name).partition("@")[0]), signal.SIGKILL)
        process.communicate()
    out, _ = shell("finetune", *words)
    assert rows(out) == rows(whole)
    states = [trial.state.name for trial in trials(shell.folder)]
    assert states.count("COMPLETE") == 4
    points = [json.dumps(trial.params) for trial in trials(shell.folder) if trial.state.name == "COMPLETE"]
    assert len(set(points)) == len(points) or sweep == "random"
