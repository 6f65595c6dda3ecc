"""Output folders of runs and of trials."""

from pathlib import Path

import pytest
from tests.tiny import run_config

from frostline.pipeline.output_folders import out_folder


def test_where_results_go():
    config = run_config()
    assert out_folder(config, "out") == Path("out")
    assert out_folder(config, "out", "freeze=full,seed=1") == Path("out/freeze=full,seed=1")
    one = out_folder(config, None)
    assert str(one).startswith("runs/finetune/full-mlp-digits-s0-")
    changed = out_folder(run_config({"trainer.epochs": 4}), None)
    assert one != changed


def test_draws_with_equal_labels_have_different_folders():
    configs = [run_config({"optimizer.lr": lr}) for lr in (0.00031622, 0.00031623)]
    label = "optimizer.lr=0.000316"
    one, other = (out_folder(config, "out", label, drawn=True) for config in configs)
    assert one != other
    assert one.name.startswith(f"{label}-")
    assert other.parent == Path("out")


@pytest.mark.parametrize("label", ["dataset.root='/a b/c'", "../../etc", "a/b", "ü" * 300, "x=" + "y" * 300])
def test_a_label_stays_one_folder_below_out(label):
    out = out_folder(run_config(), "out", label)
    assert out.parent == Path("out")
    assert len(out.name.encode()) < 255
    assert out.resolve().is_relative_to(Path("out").resolve())
    other = out_folder(run_config(), "out", label + "z")
    assert other != out
