"""The commands as people type them: what they leave, what they print, and a sentence for each mistake."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tests.shell import TINY, Shell
from tests.study import environment

from frostline.base.formats import read_csv

SRC = Path(__file__).parents[2] / "src"
COMMANDS = (
    "compose",
    "prepare",
    "plan",
    "pretrain",
    "finetune",
    "probe",
    "evaluate",
    "report",
    "gate",
    "ui",
    "compare",
    "cache",
    "sync",
    "register",
    "predict",
    "export",
    "doctor",
)
RUN_FILES = {
    "metrics.json",
    "weights.safetensors",
    "config.yaml",
    "history.csv",
    "training.json",
    "predictions.csv",
}


@pytest.fixture(scope="module")
def finished(warm, tmp_path_factory) -> Shell:
    """A folder with a finished fine-tuning in `runs/one`."""
    shell = Shell(warm, tmp_path_factory.mktemp("finished"))
    shell("finetune", *TINY, "freeze=full", "out=runs/one")
    return shell


# ── help, and what it costs ─────────────────────────────────────────────────────────────────────────────


def test_every_command_has_help(shell):
    out, _ = shell("--help")
    listed = re.findall(r"^    (\w+) ", out, re.MULTILINE)
    assert tuple(listed) == COMMANDS
    for command in COMMANDS:
        assert shell(command, "--help")[0].startswith(f"usage: frostline {command}")
    assert re.fullmatch(r"frostline \d+\.\d+\.\d+\n", shell("--version")[0])


HEAVY = ("torch", "timm", "pytorch_lightning", "mlflow", "sklearn", "matplotlib")


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (["--help"], ()),
        (["finetune", "--help"], ()),
        (["finetune", "--cfg", "job"], ()),
        (["finetune", "-m", "freeze=nope,full"], ()),
        (["finetune", "seed=x"], ()),
        (["probe", "--help"], ()),
        (["probe", "seed=0,x"], ()),
        (["gate"], ()),
        (["ui", "--port", "0"], ()),
        (["cache"], ()),
        (["cache", "prune", "--to", "1GiB"], ()),
        (["cache", "clear"], ()),
        (["predict", "--help"], ()),
        (["register", "runs/nope"], ()),
        (["prepare", "dataset=digits"], ("sklearn",)),
    ],
    ids=" ".join,
)
def test_what_a_command_does_not_need_it_does_not_import(tmp_path, words, allowed):
    code = f"""
import sys
from frostline.commands.main import main
try:
    main({words!r})
except SystemExit:
    pass
print("imported:", *(name for name in {HEAVY!r} if name in sys.modules))
"""
    settings = environment(tmp_path / "x", PYTHONPATH=str(SRC))
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=settings, capture_output=True, text=True, check=True
    )
    assert set(result.stdout.splitlines()[-1].split()[1:]) <= set(allowed)


def test_the_composed_config_is_printed_as_yaml(shell):
    out, _ = shell("finetune", "--cfg", "job", "freeze=linear_probe", "optimizer.lr=0.5")
    config = yaml.safe_load(out)
    assert config["optimizer"]["lr"] == 0.5
    assert config["freeze"]["phases"] == [{"train": ["head"], "until": "end"}]
    assert "hydra" not in config


# ── one run ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_fine_tuning_leaves_what_the_contract_lists(finished):
    out = finished.folder / "runs" / "one"
    assert {path.name for path in out.iterdir()} == RUN_FILES
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics) == {"test", "val", "train"}
    for values in metrics.values():
        assert {"accuracy", "loss", "n"} <= values.keys()
        assert all(isinstance(value, float) for value in values.values())
    assert (out / "metrics.json").read_text() == json.dumps(metrics, indent=2, sort_keys=True) + "\n"
    assert metrics["train"]["n"] == 100
    history = read_csv(out / "history.csv")
    assert [row["epoch"] for row in history] == ["0", "1", "2"]
    predictions = read_csv(out / "predictions.csv")
    assert list(predictions[0]) == ["id", "label", "prediction", "confidence"]
    assert len(predictions) == metrics["test"]["n"]
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["freeze_name"], config["seeds"], config["arm"]) == ("full", [0], None)


def test_a_finished_run_can_be_measured_again(finished):
    before = (finished.folder / "runs/one/metrics.json").read_bytes()
    out, _ = finished("evaluate", "runs/one", "--out", "again")
    accuracy = json.loads(before)["test"]["accuracy"]
    assert out == f"again: test accuracy {accuracy:.4f}\n"
    assert (finished.folder / "again/metrics.json").read_bytes() == before
    assert {path.name for path in (finished.folder / "again").iterdir()} == {
        "metrics.json",
        "predictions.csv",
    }


def test_its_weights_are_a_start(finished):
    _out, _ = finished(
        "finetune",
        *TINY,
        "weights=file",
        "weights.path=runs/one/weights.safetensors",
        "weights.head=keep",
        "freeze=zero_shot",
        "out=two",
    )
    first, second = (
        json.loads((finished.folder / f"{name}/metrics.json").read_text()) for name in ("runs/one", "two")
    )
    assert second["test"] == first["test"]


def test_a_head_of_other_classes_is_refused_before_anything_trains(shell):
    rng = np.random.default_rng(0)
    for name in "xy":
        (shell.folder / "photos" / name).mkdir(parents=True)
        for number in range(12):
            image = Image.fromarray(rng.integers(0, 255, (9, 9), dtype=np.uint8))
            image.save(shell.folder / "photos" / name / f"{number}.png")
    words = [*TINY, "dataset=image_folder", "dataset.root=photos", "dataset.shots=3"]
    said = (
        "weights.head: reset, since the classes differ: only the data set has 'x', 'y' and only the weights"
    )
    assert said in shell("plan", *words)[0]
    said = shell.refused("finetune", *words, "weights.head=keep")
    assert said.startswith("weights.head: found keep for the source digits, but the classes differ:")
    assert said.endswith("set weights.head=reset")
    said = shell.refused("finetune", *words, "freeze=zero_shot")
    assert said.startswith("freeze: nothing trains, and the head would start anew")
    assert not (shell.folder / ".frostline" / "pretrain").exists()


def test_pretrain_and_prepare_and_a_folder_named_by_itself(shell):
    out, _ = shell("pretrain", *TINY)
    (folder,) = (shell.folder / "runs" / "pretrain").iterdir()
    assert re.fullmatch(r"mlp-pretrain-digits-s0-[0-9a-f]{8}", folder.name)
    assert out.startswith(f"runs/pretrain/{folder.name}: test accuracy 0.")
    assert {path.name for path in folder.iterdir()} == RUN_FILES
    out, _ = shell("prepare", "dataset=digits")
    assert out == "runs/prepare/digits: 1797 images of 10 classes (1078 train, 362 val, 357 test)\n"
    assert (shell.folder / "runs/prepare/digits/index.csv").is_file()


def test_a_study_by_hand(shell):
    """What dvc.yaml runs, without DVC."""
    params = {
        "experiment": "article_mlp",
        "source": "digits",
        "backbone": {"hidden": [16]},
        "input": {"size": 8},
        "seeds": [0, 1],
        "trainer": {"epochs": 2},
        "pretrain": {"trainer": {"epochs": 2}},
        "gate": {"arms.full.test.accuracy.mean": 0.999},
    }
    (shell.folder / "params.yaml").write_text(yaml.safe_dump(params))
    out, _ = shell("compose", "--arms", "scratch", "full")
    assert out == "artifacts/resolved: resolved for the arms scratch, full\n"
    resolved, data = "artifacts/resolved", "artifacts/data"
    for role in ("source", "target"):
        shell("prepare", "--resolved", f"{resolved}/prepare-{role}.yaml", "--out", f"{data}/{role}")
    words = [
        "--resolved",
        f"{resolved}/pretrain.yaml",
        "--data",
        f"{data}/source",
        "--out",
        "artifacts/pretrain",
    ]
    shell("pretrain", *words, "--timing", "artifacts/timing/pretrain.json")
    for arm in ("scratch", "full"):
        given = ["--data", f"{data}/target", "--pretrained", "artifacts/pretrain"]
        outs = ["--out", f"artifacts/finetune/{arm}", "--timing", f"artifacts/timing/{arm}.json"]
        shell("finetune", "--resolved", f"{resolved}/finetune-{arm}.yaml", *given, *outs)
        given = ["--data", f"{data}/target", "--finetuned", f"artifacts/finetune/{arm}"]
        shell(
            "evaluate",
            "--resolved",
            f"{resolved}/evaluate-{arm}.yaml",
            *given,
            "--out",
            f"artifacts/evaluate/{arm}",
        )
    out, _ = shell("report")
    assert "| full " in out
    assert out.endswith("artifacts/report/index.html\n")
    assert "below its bound 0.999" in shell.refused("gate", status=4)


def test_plan_says_what_would_train(shell):
    words = [
        "plan",
        "backbone=mlp",
        "backbone.hidden=[32,16]",
        "input.size=8",
        "freeze=gradual",
        "trainer.epochs=10",
    ]
    out, err = shell(*words, "--images", "100", "trainer.batch_size=20", "optimizer=adam")
    assert err == ""
    assert out.startswith(
        "freeze=gradual on mlp, 2,778 parameters;"
        " 100 images of digits in batches of 20: 10 epochs of 5 steps\n"
    )
    assert re.search(r"^top +stage:-1 +528 +19 % *$", out, re.M)
    assert re.search(r"^ +1 +2.4 +10 +698 +25\.1 % +head +0\.001 +0\.001 +0\.001 +none *$", out, re.M)
    assert (
        "phase 1 ends on time, since its patience of 3 epochs ends no sooner, and goes back to its best"
        in out
    )
    made = json.loads(shell(*words, "--format", "json", "dataset.shots=3")[0])
    assert made["images"] == 30
    assert [phase["trains"] for phase in made["phases"]] == [
        ["head"],
        ["head", "top"],
        ["head", "top", "rest"],
    ]
    assert sum(phase["steps"] for phase in made["phases"]) == 10
    assert shell("plan", "freeze=zero_shot", "backbone=mlp", "--images", "5")[0].count("nothing trains") == 1
    made = json.loads(shell("plan", "--stage", "pretrain", "--images", "64", "--format", "json", *TINY)[0])
    assert (made["epochs"], made["batch_size"], made["freeze"]) == (1, 64, "full")


# ── sweeps ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sweep_shares_its_pretraining_and_prints_a_table(shell):
    out, err = shell("finetune", *TINY, "out=sweep", "-m", "freeze=linear_probe,full", "seed=0,1")
    assert err.count("pretrain on digits") == 1
    rows = [line.split() for line in out.splitlines() if line.startswith(" freeze=")]
    assert {row[0] for row in rows} == {
        f"freeze={f},seed={s}" for f in ("linear_probe", "full") for s in (0, 1)
    }
    accuracies = [float(row[1]) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert all(row[3] == f"sweep/{row[0]}" for row in rows)
    assert all({p.name for p in (shell.folder / row[3]).iterdir()} == RUN_FILES for row in rows)
    assert "compare them: frostline compare; in the browser: frostline ui" in out


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


# ── mistakes ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("finetun", "no command 'finetun'; did you mean 'finetune'?"),
        ("", "the following arguments are required: COMMAND; see frostline --help"),
        ("finetune --nope", "unrecognized arguments: --nope"),
        ("finetune bakbone=mlp", "bakbone: unknown key; did you mean 'backbone'?"),
        ("finetune backbone=mpl", "backbone: no option 'mpl'; did you mean 'mlp'"),
        ("finetune seed=0,1", "seed: found several values, 0,1; add -m to run each"),
        ("finetune dataset=image_folder", "dataset.root: needs a value; add dataset.root=…"),
        ("finetune dataset=image_folder dataset.root=nowhere", "dataset.root"),
        ("finetune weights=file weights.path=nowhere.pt", "weights.path"),
        ("pretrain --resolved nowhere.yaml", "--resolved: needs --data and --out too"),
        ("pretrain --resolved nowhere.yaml --data d --out o", "nowhere.yaml can't be read"),
        ("evaluate", "evaluate: name the folder of a finished run"),
        ("evaluate nowhere", "nowhere: no finished run, config.yaml is missing"),
        ("evaluate --resolved x.yaml --data d", "--resolved: needs --finetuned and --out too"),
        ("compose", "params.yaml can't be read"),
        ("report", "artifacts/resolved/report.yaml can't be read"),
        ("gate", "artifacts/resolved/report.yaml can't be read"),
        ("plan --images 0", "argument --images: found 0; give at least 1"),
        ("plan freeze=gradual backbone=mlp --images 9", "freeze.groups.rest: empty"),
        ("ui --port 0", "--port: found 0; name one from 1 to 65535"),
        ("prepare out=/proc/nowhere", "/proc"),
    ],
)
def test_a_mistake_is_a_sentence(shell, words, sentence):
    assert sentence in shell.refused(*words.split())


@pytest.mark.parametrize("words", [["plan", f"backb{'a' * 5000}one=mlp"], ["pl" + "a" * 5000]])
def test_what_was_typed_is_repeated_as_far_as_it_helps(shell, words):
    sentence = shell.refused(*words)
    assert "aaa… (5,0" in sentence
    assert len(sentence) < 1000


def test_an_out_that_can_not_be(shell):
    (shell.folder / "taken").write_text("a file")
    assert shell.refused("finetune", *TINY, "out=taken") == "out: taken is a file; name a folder"
    assert shell.refused("finetune", *TINY, "out=taken/in").startswith("out: can't write into taken")
    assert shell.refused("finetune", *TINY, "out=/proc/nowhere").startswith("out: can't write into /proc")
    assert (shell.folder / "taken").read_text() == "a file"


def test_broken_training_exits_with_3(shell):
    error = shell.refused("finetune", *TINY, "weights=none", "optimizer.lr=1e30", status=3)
    assert "the loss became" in error
    assert not (shell.folder / "runs").exists() or not list((shell.folder / "runs").rglob("*.json"))


def test_a_traceback_is_there_for_those_who_ask(shell):
    with shell.start("finetune", "seed=x", FROSTLINE_TRACEBACK="1") as process:
        _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "Traceback" in err


def test_a_path_with_a_space_and_a_comma(shell):
    out, _ = shell("prepare", "dataset=digits", "out=a folder, or two")
    assert out.startswith("a folder, or two: 1797 images")
    assert (shell.folder / "a folder, or two" / "index.csv").is_file()


def test_interrupted(shell):
    with shell.start("finetune", *TINY, "weights=none", "trainer.epochs=100000", "out=out") as process:
        give_up = time.monotonic() + 60
        while not list(shell.folder.glob(".out.*")):
            assert process.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == (
        "frostline: interrupted; the same command resumes from its last checkpoint"
    )
    assert not (shell.folder / "out").exists()
    assert not list(shell.folder.glob(".out.*"))


def test_a_reader_that_leaves_gets_no_complaint(shell):
    settings = environment(shell.folder / "x", PYTHONPATH=str(SRC))
    read, write = os.pipe()
    os.close(read)
    command = [str(shell.python), "-m", "frostline", "finetune", "--cfg", "job"]
    result = subprocess.run(
        command, cwd=shell.folder, env=settings, stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (0, "")


# ── the articles' program ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_the_articles_program(shell):
    """MLP 784-64-10, Adam, batch 32, 10 epochs; a bare loop reaches 0.917 to 0.928 on MNIST-5k."""
    shell("pretrain", "experiment=article_mlp", "out=source")
    config = yaml.safe_load((shell.folder / "source/config.yaml").read_text())
    assert (config["optimizer"]["name"], config["trainer"]["batch_size"]) == ("adam", 32)
    assert (config["backbone"]["hidden"], config["trainer"]["epochs"]) == ([64], 10)
    metrics = json.loads((shell.folder / "source/metrics.json").read_text())
    assert metrics["test"]["accuracy"] >= 0.91
    # Then the copied weights on the target; two jobs share one pretraining.
    _, err = shell("finetune", "-m", "experiment=article_mlp", "freeze=zero_shot,full", "out=target")
    assert err.count("pretrain on mnist5k") == 1
    before, after = (
        json.loads((shell.folder / f"target/freeze={name}/metrics.json").read_text())["test"]["accuracy"]
        for name in ("zero_shot", "full")
    )
    assert after >= 0.93 > before
