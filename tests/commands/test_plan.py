"""`frostline plan`: its table and its JSON."""

import json
import re

from tests.shell import TINY_PRETRAIN

from frostline.commands import main
from frostline.console import progress


def test_a_watched_plan_names_what_it_waits_for(monkeypatch, capsys):
    monkeypatch.setattr(progress, "WAITING_SECONDS", 0.0)
    monkeypatch.setattr(progress, "is_watched", lambda: True)
    assert main.main(["plan", "backbone=mlp", "input.size=8", "freeze=full", "--images", "100"]) == 0
    assert capsys.readouterr().err == "loading PyTorch and building the network …\n"


def test_an_error_says_that_the_study_of_params_yaml_was_planned(tmp_path, monkeypatch, capsys):
    """Keys that nobody typed may be to blame."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf/experiment").mkdir(parents=True)
    data = "defaults: [{override /dataset: image_folder}]\ndataset: {root: away}\n"
    (tmp_path / "conf/experiment/mine.yaml").write_text(f"# @package _global_\n{data}")
    (tmp_path / "params.yaml").write_text("experiment: mine\n")
    assert main.main(["plan", "freeze=full"]) == 2
    assert capsys.readouterr().err.endswith(
        " (with the study of params.yaml; experiment=null plans without it)\n"
    )
    assert main.main(["plan", "experiment=mine", "freeze=full"]) == 2
    assert "params.yaml" not in capsys.readouterr().err


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
    assert re.search(r"^ top +stage:-1 +528 +19 % *$", out, re.M)
    assert re.search(r"^ +1 +2.4 +10 +698 +25\.1 % +head +0\.001 +0\.001 +0\.001 +none *$", out, re.M)
    assert (
        "phase 1 ends on time, since its patience of 3 epochs is too long to end it early,"
        " and restores its best epoch" in out
    )
    made = json.loads(shell(*words, "--format", "json", "dataset.shots=3")[0])
    assert made["images"] == 20
    assert made["selection"] == "30 labelled images: 20 for training, 10 select the best epoch"
    assert [phase["trains"] for phase in made["phases"]] == [
        ["head"],
        ["head", "top"],
        ["head", "top", "rest"],
    ]
    assert sum(phase["steps"] for phase in made["phases"]) == 10
    assert shell("plan", "freeze=zero_shot", "backbone=mlp", "--images", "5")[0].count("nothing trains") == 1
    words = ["plan", "--stage", "pretrain", "--images", "64", "--format", "json"]
    made = json.loads(shell(*words, *TINY_PRETRAIN)[0])
    assert (made["epochs"], made["batch_size"], made["freeze"]) == (1, 64, "full")
