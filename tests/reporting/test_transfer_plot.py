"""What is written beside the curves of the report's plot."""

from pathlib import Path

import pytest
from tests.reporting.study import MONITOR, Shape, write_study

from frostline.plotting.canvas import new_figure
from frostline.reporting.inputs import read_arms
from frostline.reporting.repeats import Repeats
from frostline.reporting.summary import summarize
from frostline.reporting.transfer_plot import FACT, _curves, _earlier_text, _landscape


@pytest.mark.parametrize(
    ("earlier", "own", "number"),
    [
        (3.0, 12.0, "3 instead of 12 epochs"),
        (1.0, 1.0, "1 epoch"),
        (14.5, 12.0, "14.5 instead of 12 epochs"),
        (3.0, None, "3 epochs"),
        (None, 12.0, "never"),
    ],
)
def test_epochs_to_the_baselines_best_are_compared_only_where_they_differ(
    earlier: float | None, own: float | None, number: str
) -> None:
    assert _earlier_text("full", earlier, own, "")[0] == number


def test_seeds_that_never_reach_the_baselines_best_are_counted() -> None:
    text = _earlier_text("full", 20.0, 18.0, "1 of 3 seeds")
    assert text == (
        "20 instead of 18 epochs",
        "until full matches the baseline's best, but not in 1 of 3 seeds",
    )


def test_the_intervals_of_the_baseline_and_the_chosen_arm_are_drawn_whole(tmp_path: Path) -> None:
    ends = {"scratch": 0.5, "full": 0.6, "gradual": 0.3}
    shapes = {arm: Shape(0.2, end, 5.0, noise=0.1) for arm, end in ends.items()}
    repeats = Repeats((0, 1, 2))
    artifacts = write_study(tmp_path, shapes, repeats.seeds)
    study = summarize("study", MONITOR, repeats, read_arms(artifacts, list(shapes), repeats))
    with new_figure(12, 5.5) as figure:
        axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
        layout = _landscape(study, 5.5, above=1.0)
        _curves(axes, study, layout)
        bands = [band.get_paths()[0].get_extents() for band in axes.collections]
        low, high = axes.get_ylim()
    assert layout.curves_title == "Mean validation accuracy, and 95 % interval for scratch and full"
    assert len(bands) == 2
    assert max(band.height for band in bands) > 0.3
    assert all(low <= max(0.0, band.y0) and min(1.0, band.y1) <= high for band in bands)


def test_the_numbers_beside_the_curves_stand_clear_of_a_baseline_at_the_bottom(tmp_path: Path) -> None:
    shapes = {"scratch": Shape(0.18, 0.19, 5.0, noise=0.004), "full": Shape(0.18, 0.9, 3.0, noise=0.01)}
    repeats = Repeats((0, 1, 2))
    artifacts = write_study(tmp_path, shapes, repeats.seeds)
    study = summarize("study", MONITOR, repeats, read_arms(artifacts, list(shapes), repeats))
    with new_figure(12, 5.5) as figure:
        axes = figure.add_axes((0.05, 0.1, 0.4, 0.7))
        _curves(axes, study, _landscape(study, 5.5, above=1.0))
        low, high = axes.get_ylim()
        heights = [text.get_position()[1] for text in axes.texts if text.get_ha() == "right"]
    level = (study.baseline_best - low) / (high - low)
    assert level < FACT / 5.5  # where the numbers stand otherwise
    assert len(heights) == 4
    assert level < min(heights) < max(heights) < 0.6
