"""`frostline pretrain` and `frostline finetune`: one run, what it writes and what it refuses."""

import json
import re
import signal
import time

import numpy as np
import pytest
import yaml
from PIL import Image
from tests.shell import RESUMABLE, TINY, TINY_PRETRAIN

from frostline.base.formats import read_csv
from frostline.commands.main import main
from frostline.console import signals

RUN_FILES = {
    "metrics.json",
    "weights.safetensors",
    "config.yaml",
    "history.csv",
    "training.json",
    "predictions.csv",
}


def test_the_composed_config_is_printed_as_yaml(shell):
    out, _ = shell("finetune", "--cfg", "job", "freeze=linear_probe", "optimizer.lr=0.5")
    config = yaml.safe_load(out)
    assert config["optimizer"]["lr"] == 0.5
    assert config["freeze"]["phases"] == [{"train": ["head"], "until": "end"}]
    assert "hydra" not in config


def test_a_fine_tuning_writes_the_files_that_the_contract_lists(finished):
    out = finished.folder / "runs" / "one"
    assert {path.name for path in out.iterdir()} == RUN_FILES
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics) == {"test", "val", "train", "selection"}
    for values in metrics.values():
        assert {"accuracy", "loss", "n"} <= values.keys()
        assert all(isinstance(value, float) for value in values.values())
    assert (out / "metrics.json").read_text() == json.dumps(metrics, indent=2, sort_keys=True) + "\n"
    assert (metrics["train"]["n"], metrics["selection"]["n"]) == (80, 20)
    history = read_csv(out / "history.csv")
    assert [row["epoch"] for row in history] == ["0", "1", "2"]
    predictions = read_csv(out / "predictions.csv")
    assert list(predictions[0]) == ["id", "label", "prediction", "confidence"]
    assert len(predictions) == metrics["test"]["n"]
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["freeze_name"], config["seed"], config["arm"]) == ("full", 0, None)


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
    out, _ = shell("pretrain", *TINY_PRETRAIN)
    (folder,) = (shell.folder / "runs" / "pretrain").iterdir()
    assert re.fullmatch(r"pretrain-mlp-digits-s0-[0-9a-f]{8}", folder.name)
    assert out.startswith(f"runs/pretrain/{folder.name}: test accuracy 0.")
    assert {path.name for path in folder.iterdir()} == RUN_FILES
    out, _ = shell("prepare", "dataset=digits")
    assert out == "runs/prepare/digits: 1797 images of 10 classes (1078 train, 362 val, 357 test)\n"
    assert (shell.folder / "runs/prepare/digits/index.csv").is_file()


@pytest.mark.parametrize("words", [["seed=0"], ["dataset.shots=5"], ["-m", "seed=0,1"]])
def test_a_run_without_the_experiment_of_params_yaml_says_so(words, tmp_path, monkeypatch, capsys):
    """In a project, `frostline finetune freeze=full` would train on the default study's data set."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("experiment: mnist_to_digits\n")
    tiny = ["backbone=mlp", "backbone.hidden=[8]", "weights=none", "input.size=8", "trainer.threads=1"]
    words = ["finetune", *words, *tiny, "trainer.epochs=1"]
    assert main(words) == 0
    note = "frostline: note: experiment=mnist_to_digits, which params.yaml selects, is not read here;"
    assert capsys.readouterr().err.count(note) == 1
    assert main([*words, "dataset=digits"]) == 0
    assert note not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["dataset.selection=held_out"], "best val/accuracy"),
        (["trainer.monitor=val/loss", "dataset.selection=held_out"], "best val/loss"),
        (["dataset.selection=within"], "best selection/accuracy"),
        (["dataset.selection=last"], "the last"),
        (["freeze=zero_shot", "weights=pretrain"], None),
    ],
)
def test_the_result_says_which_epoch_was_saved(words, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROSTLINE_TRACKING", "off")
    assert main(["finetune", *TINY, "weights=none", "out=out", *words]) == 0
    record = json.loads((tmp_path / "out/training.json").read_text())
    saved = f"; epoch {record['best_epoch']} of 2 ({reason})" if reason else ""
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("out: test accuracy 0.")
    assert line.partition("; ")[2] == saved.removeprefix("; ")


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
    saved = list(shell.folder.glob(".frostline/resume/*/*.ckpt"))
    assert err.splitlines()[-1] == (RESUMABLE if saved else signals.SENTENCE)
    assert not (shell.folder / "out").exists()
    assert not list(shell.folder.glob(".out.*"))


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
    assert err.count("pretrain on mnist5k: 10/10") == 1
    before, after = (
        json.loads((shell.folder / f"target/freeze={name}/metrics.json").read_text())["test"]["accuracy"]
        for name in ("zero_shot", "full")
    )
    assert after >= 0.93 > before
