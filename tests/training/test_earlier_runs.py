"""Finished runs that are not trained again."""

import pytest
from tests.tiny import NOTHING, arm_of, files, run_config

from frostline.pipeline.finetune.stage import finetune
from frostline.pipeline.pretrain.stage import train_once
from frostline.training import earlier_runs
from frostline.training.earlier_runs import FinishedTrials, RunsOfStage
from frostline.training.services import Services

MLP = {"backbone": {"kind": "mlp", "hidden": [8], "activation": "tanh", "dropout": 0.0}, "trainer.epochs": 1}


@pytest.fixture
def said():
    return []


@pytest.fixture
def services(tmp_path, said):
    return Services(tmp_path / "scratch", say=said.append)


@pytest.fixture
def force(monkeypatch):
    return lambda: monkeypatch.setattr(earlier_runs, "forced_by_dvc", lambda: True)


def trained_before(said):
    lines = [line for line in said if "trained before" in line]
    said.clear()
    return len(lines)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_stage_that_ended_before_dvc_recorded_it_trains_nothing_again_unless_forced(
    stage, digits, tmp_path, services, said, force
):
    out, config = tmp_path / "out", run_config({**MLP, "stage": stage})

    def run():
        if stage == "pretrain":
            train_once(config, digits, out, services, earlier=RunsOfStage(services, out))
        else:
            finetune(arm_of(config, [0, 1]), digits, out, services)

    run()
    runs, first = 1 if stage == "pretrain" else 2, files(out)
    assert trained_before(said) == 0
    for _ in range(2):
        run()
        assert trained_before(said) == runs
        assert files(out) == first
    force()
    run()
    assert trained_before(said) == 0
    assert files(out) == first


def test_runs_that_a_stage_no_longer_has_are_not_kept(digits, tmp_path, services, said):
    for seeds, expected in (([0, 1], 0), ([1], 1), ([0, 1], 1)):
        finetune(arm_of(run_config(MLP), seeds), digits, tmp_path / "out", services)
        assert trained_before(said) == expected


def test_a_trial_is_found_by_what_its_result_depends_on(digits, tmp_path, services, said):
    def run(name, **keys):
        config = run_config({**MLP, **keys})
        train_once(config, digits, tmp_path / name, services, earlier=FinishedTrials(services))
        return trained_before(said)

    assert run("a", study="a") == 0
    assert run("b", study="b") == 1
    assert run("c", seed=1) == 0
    assert run("d", freeze=NOTHING) == 0
    assert (tmp_path / "a/weights.safetensors").samefile(tmp_path / "b/weights.safetensors")
    configs = [(tmp_path / name / "config.yaml").read_text() for name in "ab"]
    assert configs[0].replace("study: a\n", "study: b\n") == configs[1]
