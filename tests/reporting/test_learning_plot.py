"""The learning curves of each arm on the report's page."""

from pathlib import Path

from tests.reporting.study import Shape, write_study

from frostline.reporting.inputs import read_arms
from frostline.reporting.learning_plot import lowest_value
from frostline.reporting.repeats import Repeats


def test_the_axes_begin_below_the_lowest_point_of_all_arms(tmp_path: Path) -> None:
    repeats = Repeats((0, 1, 2))
    shapes = {"scratch": Shape(0.6, 0.2, 5.0, noise=0.1), "full": Shape(0.5, 0.9, 5.0)}
    arms = read_arms(write_study(tmp_path, shapes, repeats.seeds), list(shapes), repeats)
    lowest = min(min(run.val_curve) for arm in arms for run in arm.runs.values())
    assert lowest_value(arms) <= lowest < 0.2
    assert lowest_value(arms[1:]) > 0.3
