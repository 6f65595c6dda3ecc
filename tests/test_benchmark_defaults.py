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
    for name in ("own", "imagenet"):
        assert table.markdown(table.by_cell(table.read(RUNS.with_name(f"defaults-cpu-{name}.jsonl")))) in page
    for name, setting in (("last", "last"), ("bn-eval", "bn eval")):
        changed = table.read(RUNS.with_name(f"defaults-cpu-{name}.jsonl"))
        for start in plan.STARTS:
            assert table.markdown(table.differences(changed, setting, start)) in page
    both = table.read(RUNS.with_name("defaults-cpu-last-bn-eval.jsonl"))
    assert table.markdown(table.differences(both, "last bn eval", "imagenet")) in page
    assert table.markdown(running_statistics.rows(RUNS.with_name("running-statistics.jsonl"))) in page


def result(target, setting, val, test, seed=0, **other):
    """Return one line of the results: `full` on five labels per class of a target."""
    arm = {"target": target, "shots": 5, "start": "own", "by": "frostline", "schedule": "full"}
    return json.dumps({**arm, "setting": setting, "seed": seed, "val": val, "test": test, **other})


def results(tmp_path, lines):
    file = tmp_path / "runs.jsonl"
    file.write_text("\n".join(lines))
    return table.read(file)


def test_the_search_chooses_on_validation_and_is_judged_on_test(tmp_path):
    lines = [
        result("digits", *run) for run in [("default", 0.5, 0.6), ("slow", 0.7, 0.65), ("fast", 0.6, 0.9)]
    ]
    broken = result("digits", "worse", 0, 0, error="Error: no")
    found = results(tmp_path, [*lines, broken])
    _, row = table.losses(found)
    # 5.0 points between 60 % and 65 % of 357 test images: 1.96 · √((60 · 40 + 65 · 35) / 357)
    assert row[:3] == ["full", "5.0", "5.0 ± 7.1 (digits, 5, own pretraining)"]
    header, best, *_ = table.accuracies(found)
    assert (header[1], best[:2]) == ("mean (1)", ["full, fast", "**90.0**"])


def test_a_mean_loss_has_an_interval_over_the_cells(tmp_path):
    better = {"digits": 0.65, "emoji": 0.7, "clothes": 0.75}
    lines = [result(target, "default", 0.6, 0.6) for target in better]
    lines += [result(target, "fast", accuracy, accuracy) for target, accuracy in better.items()]
    _, row = table.losses(results(tmp_path, lines))
    # losses of 5, 10 and 15 points: 10 ± 4.30 · 5/√3
    assert row[1] == "10.0 ± 12.4"


def test_several_seeds_choose_by_their_mean_and_are_compared_in_pairs(tmp_path):
    runs = {
        "default": [(0.6, 0.5), (0.6, 0.6), (0.6, 0.7)],
        "slow": [(0.7, 0.55), (0.7, 0.7), (0.7, 0.85)],  # the best on average
        "fast": [(0.9, 0.9), (0.5, 0.9), (0.6, 0.9)],  # the best of seed 0
    }
    lines = [
        result("digits", setting, *accuracies, seed)
        for setting, found in runs.items()
        for seed, accuracies in enumerate(found)
    ]
    lines.append(result("digits", "default", 1, 1, seed=3))  # no other arm has this seed
    found = results(tmp_path, lines)
    _, row = table.losses(found)
    # losses of 5, 10 and 15 points by seed: 10 ± 4.30 · 5/√3
    assert row[2] == "10.0 ± 12.4 (digits, 5, own pretraining)"
    header, digits, total = table.by_cell(found)
    assert header == ["cell", "seeds", "full", "full, slow", "full, fast", "chosen − full"]
    assert digits == ["digits, 5, own pretraining", "3", "60.0", "70.0", "**90.0**", "10.0 ± 12.4"]
    assert total == ["mean (1 cells)", "3", "60.0", "70.0", "**90.0**", "10.0"]


def test_the_standard_deviation_over_seeds_is_pooled_over_the_cells(tmp_path):
    losses = {"digits": (4, 6), "emoji": (7, 13), "clothes": (5,)}
    lines = [
        result(target, setting, val, 0.5 + val * loss / 100, seed)
        for target, found in losses.items()
        for seed, loss in enumerate(found)
        for setting, val in {"default": 0, "slow": 1}.items()
    ]
    lines += [result("stamps", setting, val, 0.5) for setting, val in {"default": 1, "slow": 0}.items()]
    _, *rows = table.by_cell(results(tmp_path, lines))
    # s² = (2 + 18) / 2; ± 4.30 · s / √(number of seeds)
    assert {row[0].split(",")[0]: row[-1] for row in rows} == {
        "clothes": "5.0 ± 13.6",
        "digits": "5.0 ± 9.6",
        "emoji": "10.0 ± 9.6",
        "stamps": "0.0",  # the search chose the default
        "mean (4 cells)": "5.0 ± 6.5",
    }
    assert [row[1] for row in rows] == ["1", "2", "2", "1", "1–2"]


def test_a_cell_that_was_cut_off_before_its_search_does_not_count(tmp_path):
    cells = [(target, shots) for target in plan.TARGETS for shots in (5, 10)]
    lines = [
        result(target, setting, accuracy, accuracy, shots=shots)
        for setting, accuracy in {"default": 0.6, "slow": 0.7}.items()
        for target, shots in cells
    ]
    lines.append(result("digits", "default", 0.6, 0.6, shots=50))
    found = results(tmp_path, lines)
    assert set(found[table.FULL]) == {(*cell, "own") for cell in cells}
    assert table.losses(found)[1][1] == "10.0 ± 0.0"


def test_a_setting_is_chosen_without_the_data_set_that_judges_it(tmp_path):
    lines = [result(target, "default", 0.6, 0.6) for target in ("digits", "emoji", "clothes")]
    lines += [result("digits", "fast", 0.9, 0.8), result("emoji", "fast", 0.5, 0.5)]
    lines += [result("clothes", "fast", 0.6, 0.7)]
    _, *rows = table.left_out(results(tmp_path, lines))
    assert rows == [
        ["clothes", "full, fast", "10.0"],
        ["digits", "full", "0.0"],  # without digits, `fast` is worse
        ["emoji", "full, fast", "-10.0"],
        ["mean (3 cells)", "", "0.0 ± 24.8"],
    ]


def test_on_one_data_set_no_setting_is_chosen_without_it(tmp_path):
    lines = [result("digits", "default", 0.6, 0.6), result("digits", "fast", 0.9, 0.8)]
    _, *rows = table.left_out(results(tmp_path, lines))
    assert rows == []


def test_runs_on_several_devices_are_not_averaged(tmp_path):
    lines = [
        result("digits", "default", 0.6, 0.6, seed, device=name) for seed, name in enumerate(("cpu", "cuda"))
    ]
    with pytest.raises(ValueError, match=r"runs\.jsonl: has runs on cpu and cuda, which are not compared"):
        results(tmp_path, lines)


def test_a_file_of_keys_selects_and_orders_the_runs(tmp_path, capsys):
    keys = [trial.key for trial in plan.trials(seeds=2) if "stamps" in trial.key][::-40]
    file = tmp_path / "some.txt"
    file.write_text("\n".join(keys))
    assert command.main(["--keys", str(file), "--seeds", "2", "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == keys
    with pytest.raises(SystemExit, match="2"):
        command.main(["--keys", str(file), "--seeds", "1", "--list"])
    assert f"no run has the key {keys[0]}" in capsys.readouterr().err


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
