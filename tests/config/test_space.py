"""What a sweep varies: combinations, draws that repeat, and keys that depend on others."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.config.space import Interval, Parameter, Space, Values, as_overrides
from frostline.console.errors import FrostlineError

FREEZE = Parameter("freeze", Values(("full", "gradual")))
RATE = Parameter("optimizer.lr", Interval(1e-4, 1e-1, log=True))
OPTIMIZER = Parameter("optimizer", Values(("sgd", "adamw")))
MOMENTUM = Parameter("optimizer.momentum", Values(("0.8", "0.9")), when={"optimizer": ("sgd",)})


def test_a_grid_is_every_combination_the_last_key_changing_fastest():
    seeds = Parameter("seed", Values(("0", "1")))
    assert Space((FREEZE, seeds)).combinations() == [
        {"freeze": "full", "seed": "0"},
        {"freeze": "full", "seed": "1"},
        {"freeze": "gradual", "seed": "0"},
        {"freeze": "gradual", "seed": "1"},
    ]


def test_a_key_that_depends_on_another_is_there_only_with_its_values():
    assert Space((OPTIMIZER, MOMENTUM)).combinations() == [
        {"optimizer": "sgd", "optimizer.momentum": "0.8"},
        {"optimizer": "sgd", "optimizer.momentum": "0.9"},
        {"optimizer": "adamw"},
    ]


def test_a_grid_takes_no_interval():
    with pytest.raises(FrostlineError, match=r"optimizer\.lr: a grid takes lists.*sweep=tpe or sweep=random"):
        Space((FREEZE, RATE)).combinations()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            (MOMENTUM, OPTIMIZER),
            r"^sweep\.space\.optimizer\.momentum\.when: 'optimizer' does not vary before",
        ),
        (
            (RATE, Parameter("x", Values(("1",)), when={"optimizer.lr": ("0.1",)})),
            r"^sweep\.space\.x\.when: optimizer\.lr has an interval",
        ),
        (
            (OPTIMIZER, Parameter("x", Values(("1",)), when={"optimizer": ("sdg",)})),
            r"^sweep\.space\.x\.when\.optimizer: did you mean 'sgd'",
        ),
    ],
)
def test_conditions_that_never_hold_are_refused(parameters, message):
    with pytest.raises(FrostlineError, match=message):
        Space(parameters)


@given(st.integers(0, 100), st.integers(0, 100))
def test_a_random_point_is_a_function_of_seed_and_number(seed, number):
    space = Space((OPTIMIZER, MOMENTUM, RATE, Parameter("depth", Interval(1, 4, whole=True))))
    point = space.random(seed, number)
    assert point == space.random(seed, number)
    assert ("optimizer.momentum" in point) == (point["optimizer"] == "sgd")
    assert 1e-4 <= point["optimizer.lr"] <= 1e-1
    assert point["depth"] in (1, 2, 3, 4)


def test_random_points_cover_the_space_logarithms_evenly():
    space = Space((FREEZE, RATE, Parameter("width", Interval(1, 8, log=True, whole=True))))
    points = [space.random(0, number) for number in range(2000)]
    small = sum(point["optimizer.lr"] < math.sqrt(1e-4 * 1e-1) for point in points)
    assert 900 < small < 1100
    assert 900 < sum(point["freeze"] == "full" for point in points) < 1100
    widths = [point["width"] for point in points]
    assert set(widths) == set(range(1, 9))
    # ln(1.5 / 0.5) of ln(8.5 / 0.5)
    assert 0.34 < widths.count(1) / len(widths) < 0.44


def test_the_first_point_is_one_of_the_space():
    assert Space((OPTIMIZER, MOMENTUM, RATE)).first() == {
        "optimizer": "sgd",
        "optimizer.momentum": "0.8",
        "optimizer.lr": 1e-4,
    }


@given(st.floats(1e-12, 1e12, allow_nan=False))
def test_numbers_are_written_so_that_they_read_the_same(value):
    ((_, _, text),) = [override.partition("=") for override in as_overrides({"optimizer.lr": value})]
    assert float(text) == value
