"""Notes of a comparison."""

from dataclasses import replace

import pytest
from tests.comparison.test_statistics import METRICS, result

from frostline.comparison import page
from frostline.comparison.statistics import compare

WITHOUT = "test_without_tta/accuracy"


@pytest.mark.parametrize(("augmented", "who"), [("ab", "all"), ("b", "b"), ("", None)])
def test_test_time_augmentation_is_said(augmented, who):
    runs = [result(name, 0, 0.9 if name == "a" else 0.8) for name in "ab"]
    runs = [
        replace(run, metrics={**run.metrics, WITHOUT: 0.7}) if run.configuration in augmented else run
        for run in runs
    ]
    said = [note for note in page.notes(compare(runs, METRICS, METRICS[1])) if "augmentation" in note]
    expected = f"Measured with test-time augmentation: {who}. Without it: --metric {WITHOUT}."
    assert said == ([expected] if who else [])
