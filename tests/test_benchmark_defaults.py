import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.defaults import __main__ as command
from benchmarks.defaults import plan, running_statistics, table

from frostline.config import compose, stage_configs

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "benchmarks" / "results" / "defaults.jsonl"


def test_every_arm_is_a_valid_run(tmp_path):
    arms = {}
    for trial in plan.trials(seeds=1):
        arms.setdefault((trial.by, trial.schedule, trial.setting, trial.start), trial)
    for trial in arms.values():
        composed, choices = compose.experiment([*trial.overrides("data", "pretrained", "cpu"), "out=x"])
        run = stage_configs.finetune_config(composed, choices)
        assert (run.dataset.shots, run.trainer.epochs, run.trainer.batch_size) == (trial.shots, 20, 32)
    assert {by for by, *_ in arms} == {"frostline", "fastai", "timm"}


def test_seeds_come_one_after_the_other_and_no_key_twice():
    trials = list(plan.trials(seeds=2))
    assert [trial.seed for trial in trials] == sorted(trial.seed for trial in trials)
    assert len({trial.key for trial in trials}) == len(trials)


def test_the_docs_have_the_recorded_tables():
    results = table.read(RUNS)
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert table.markdown(table.accuracies(results)) in page
    assert table.markdown(table.losses(results)) in page
    assert table.markdown(running_statistics.rows(RUNS.with_name("running-statistics.jsonl"))) in page


def test_the_search_chooses_on_validation_and_is_judged_on_test(tmp_path):
    def line(setting, val, test, shots=5):
        arm = {"target": "digits", "shots": shots, "start": "own", "by": "frostline", "schedule": "full"}
        return json.dumps({**arm, "setting": setting, "seed": 0, "val": val, "test": test})

    file = tmp_path / "runs.jsonl"
    lines = [line("default", 0.5, 0.6), line("slow", 0.7, 0.65), line("fast", 0.6, 0.9)]
    broken = json.dumps({**json.loads(line("worse", 0, 0)), "error": "Error: no"})
    file.write_text("\n".join([*lines, broken]))
    _, row = table.losses(table.read(file))
    # 5.0 points between 60 % and 65 % of 357 test images: 1.96 · √((60 · 40 + 65 · 35) / 357)
    assert row[:3] == ["full", "5.0", "5.0 ± 7.1 (digits, 5, own pretraining)"]
    header, best, *_ = table.accuracies(table.read(file))
    assert (header[1], best[:2]) == ("mean (1)", ["full, fast", "**90.0**"])


def test_a_mean_loss_has_an_interval_over_the_cells(tmp_path):
    def line(setting, accuracy, target):
        arm = {"target": target, "shots": 5, "start": "own", "by": "frostline", "schedule": "full"}
        return json.dumps({**arm, "setting": setting, "seed": 0, "val": accuracy, "test": accuracy})

    file = tmp_path / "runs.jsonl"
    better = {"digits": 0.65, "emoji": 0.7, "clothes": 0.75}
    lines = [line("default", 0.6, target) for target in better]
    lines += [line("fast", accuracy, target) for target, accuracy in better.items()]
    file.write_text("\n".join(lines))
    _, row = table.losses(table.read(file))
    # losses of 5, 10 and 15 points: 10 ± 4.30 · 5/√3
    assert row[1] == "10.0 ± 12.4"


def test_each_class_has_enough_images_for_the_most_labels():
    by_target = {}
    for trial in plan.trials(seeds=1):
        by_target.setdefault(trial.target, set()).add(trial.shots)
    assert by_target["emoji"] == {5, 10, 40}
    assert by_target["stamps"] == {5, 10}
    assert by_target["digits"] == by_target["clothes"] == by_target["glyphs"] == {5, 10, 50}


def test_estimates_forget_the_source_at_different_paces():
    batches = [torch.full((1,), value) for value in (2.0, 4.0, 6.0)]
    means = {}
    for name, momentum in running_statistics.ESTIMATES.items():
        found = [(torch.full((1,), 100.0), torch.ones(1))]
        for step, mean in enumerate(batches, 1):
            found = running_statistics.moved(found, [(mean, torch.ones(1))], momentum(step))
        means[name] = round(found[0][0].item(), 3)
    assert means == {"moving average": 74.022, "first batch": 2.58, "ten batches": 4.0}


@pytest.mark.slow
def test_runs_are_appended_and_not_repeated(tmp_path):
    draw = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = draw.integers(0, 100, (90, 16, 16, 3)) + 70 * labels[:, None, None, None]
    (tmp_path / "data").mkdir()
    names = np.array(["a", "b", "c"])[labels]
    np.savez(tmp_path / "data" / "stamps.npz", images=images.astype(np.uint8), labels=names)
    words = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--seeds", "1"]
    words += ["--only", "stamps", "5", "imagenet", "linear_probe"]

    def lines():
        command_line = [sys.executable, "-m", "benchmarks.defaults", *words]
        done = subprocess.run(command_line, cwd=ROOT, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout, (tmp_path / "out" / command.RESULTS).read_text().splitlines()

    said, first = lines()
    assert "2 runs, 0 there already" in said
    assert {json.loads(line)["setting"] for line in first} == {"default", "lr1e-2"}
    assert all(json.loads(line)["test"] > 0.5 for line in first)
    said, again = lines()
    assert "0 runs, 2 there already" in said
    assert again == first
