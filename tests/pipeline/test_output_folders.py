"""Output folders of runs and of trials."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.tiny import run_config

from frostline.pipeline.output_folders import PlannedRun, out_folder


def test_where_results_go():
    config = run_config()
    run = PlannedRun("finetune", "mlp·full·digits·s0", config)
    assert out_folder(run, "out") == Path("out")
    assert out_folder(run, "out", "freeze=full,seed=1") == Path("out/freeze=full,seed=1")
    one = out_folder(run, None)
    assert str(one).startswith("runs/finetune/mlp-full-digits-s0-")
    changed = replace(run, config=run_config({"trainer.epochs": 4}))
    assert one != out_folder(changed, None)


def test_draws_with_equal_labels_have_different_folders():
    runs = [PlannedRun("finetune", "n", run_config({"optimizer.lr": lr})) for lr in (0.00031622, 0.00031623)]
    label = "optimizer.lr=0.000316"
    one, other = (out_folder(run, "out", label, drawn=True) for run in runs)
    assert one != other
    assert one.name.startswith(f"{label}-")
    assert other.parent == Path("out")


@pytest.mark.parametrize("label", ["dataset.root='/a b/c'", "../../etc", "a/b", "ü" * 300, "x=" + "y" * 300])
def test_a_label_stays_one_folder_below_out(label):
    run = PlannedRun("finetune", "name", run_config())
    out = out_folder(run, "out", label)
    assert out.parent == Path("out")
    assert len(out.name.encode()) < 255
    assert out.resolve().is_relative_to(Path("out").resolve())
    other = out_folder(run, "out", label + "z")
    assert other != out
