"""A sweep's pictures: what is drawn where, and that the same trials give the same bytes."""

import math

import pytest

from frostline.config.space import Interval, Parameter, Values
from frostline.plotting.canvas import png
from frostline.sweeps import plot
from frostline.sweeps.plot import PlottedTrial

RATE = Parameter("optimizer.lr", Interval(1e-4, 1e-1, log=True))
FREEZE = Parameter("freeze", Values(("full", "gradual", "linear_probe")))
MOMENTUM = Parameter("momentum", Interval(0.5, 0.9), when={"freeze": ("full",)})
TRIALS = [
    PlottedTrial(0, {"optimizer.lr": 1e-3, "freeze": "full", "momentum": 0.6}, 0.8),
    PlottedTrial(1, {"optimizer.lr": 1e-2, "freeze": "gradual"}, 0.9),
    PlottedTrial(2, {"optimizer.lr": 1e-1, "freeze": "full", "momentum": 0.9}, None),
]


@pytest.mark.parametrize(
    ("parameter", "value", "height"),
    [
        (RATE, 1e-4, 0.0),
        (RATE, math.sqrt(1e-5), 0.5),
        (MOMENTUM, 0.7, 0.5),
        (FREEZE, "gradual", 0.5),
        (Parameter("seed", Values(("0", "5", "10"))), "5", 0.5),
        (Parameter("lr", Values(("1e-3", "1e-2", "1e-1"))), "1e-2", 0.5),
        (Parameter("only", Values(("full",))), "full", 0.0),
        (Parameter("only", Values(("3",))), "3", 0.0),
    ],
)
def test_a_value_is_placed_by_its_scale(parameter, value, height):
    scale, names = plot._scale(parameter)
    assert scale(value) == pytest.approx(height)
    assert all(0 <= place <= 1.0001 for place, _ in names)


@pytest.mark.parametrize(
    "trials", [TRIALS, TRIALS[:1], TRIALS[2:], []], ids=["some", "one", "pruned", "none"]
)
def test_plots_are_drawn_and_reproducible(trials):
    def draw():
        history = plot.history(trials, "val/accuracy", maximize=True, render=png)
        return history, plot.parallel(trials, [RATE, FREEZE, MOMENTUM], "val/accuracy", render=png)

    pictures = draw()
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert draw() == pictures


def test_the_best_so_far_is_a_mean_over_all_seeds_of_a_configuration():
    settings = ({"freeze": "full"}, {"freeze": "gradual"})
    values = ((0, 0.5), (1, 0.9), (1, 0.5), (0, 0.7), (1, 0.1))
    trials = [PlottedTrial(number, settings[i], value) for number, (i, value) in enumerate(values)]
    nothing = [math.nan] * 3  # no configuration has all of its seeds yet
    assert plot._best_so_far(trials, max) == pytest.approx([*nothing, 0.6, 0.6], nan_ok=True)
    assert plot._best_so_far(trials, min) == pytest.approx([*nothing, 0.6, 0.5], nan_ok=True)
