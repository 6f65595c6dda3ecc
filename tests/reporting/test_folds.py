"""A study over folds and seeds: what its report says, and the correction for overlapping training sets."""

import json
import math

import pytest
from scipy.stats import t as student
from tests.reporting.study import DEFAULT, write_study

from frostline.pipeline.report.stage import write_report
from frostline.schema import Report

ARMS = ("scratch", "full")
FOLDS, SEEDS = [0, 1, 2, 3, 4], [0, 1]


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    root = tmp_path_factory.mktemp("folds")
    write_study(root / "artifacts", {arm: DEFAULT[arm] for arm in ARMS}, SEEDS, folds=FOLDS)
    config = Report(
        study="s", arms=list(ARMS), seeds=SEEDS, monitor="val/accuracy", gate={}, folds=FOLDS, dataset_folds=5
    )
    result = write_report(config, root / "artifacts", root / "report")
    return root, result


def test_intervals_are_those_of_the_corrected_resampled_t_test(reported):
    root, _ = reported
    numbers = json.loads((root / "report/report.json").read_text())
    measured = {
        arm: json.loads((root / f"artifacts/evaluate/{arm}/metrics.json").read_text())["folds"]
        for arm in ARMS
    }
    pairs = [
        measured["full"][str(fold)]["seeds"][str(seed)]["test"]["accuracy"]
        - measured["scratch"][str(fold)]["seeds"][str(seed)]["test"]["accuracy"]
        for fold in FOLDS
        for seed in SEEDS
    ]
    mean = sum(pairs) / 10
    spread = math.sqrt(sum((pair - mean) ** 2 for pair in pairs) / 9)
    half = student.ppf(0.975, 9) * spread * math.sqrt(1 / 10 + 1 / 4)
    gain = numbers["arms"]["full"]["gain"]
    assert gain["n"] == 10
    assert gain["mean"] == pytest.approx(mean)
    assert (gain["low"], gain["high"]) == pytest.approx((mean - half, mean + half))
    assert numbers["folds"]["overlap"] == 0.25
    assert numbers["arms"]["full"]["seeds"] == SEEDS


def test_the_report_says_that_its_intervals_are_over_folds_and_seeds(reported):
    root, result = reported
    assert "10 paired runs (5 folds × 2 seeds)" in result.sentence
    text = (root / "report/report.md").read_text()
    assert "Means over folds and seeds with 95 % intervals" in text
    assert "paired by fold and seed" in text
    assert (
        "Intervals and p-values are over 10 runs (5 folds × 2 seeds); since the folds' training images "
        "overlap, they are those of the corrected resampled t-test (Nadeau & Bengio 2003): the variance of a "
        "mean is (1/10 + 1/4)·s²." in text
    )
    page = (root / "report/index.html").read_text()
    assert "<dt>Folds</dt><dd>0, 1, 2, 3, 4 of 5</dd>" in page
    assert "One line per run" in page


def test_a_missing_run_is_named(reported, tmp_path):
    root, _ = reported
    config = Report(
        study="s",
        arms=list(ARMS),
        seeds=[*SEEDS, 9],
        monitor="val/accuracy",
        gate={},
        folds=[0, 1],
        dataset_folds=5,
    )
    write_report(config, root / "artifacts", tmp_path / "report")
    text = (tmp_path / "report/report.md").read_text()
    assert "full has 4 of 6 runs (without fold 0, seed 9; fold 1, seed 9)" in text
