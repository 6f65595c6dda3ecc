"""Learning rates, smoothing and suggestions of a range test."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.lr_finder.suggestion import diverges, learning_rates, smoothed, suggest

RATES = learning_rates(1e-6, 10, 141)  # 20 for each factor of 10


def valley(rate, middle=1e-2, floor=0.3):
    """A loss that falls from 2 around `middle`, and diverges a hundred times above it."""
    fall = (2 - floor) / (1 + (rate / middle) ** 1.5)
    return floor + fall + (rate / (100 * middle)) ** 4


def test_learning_rates_grow_by_a_constant_factor():
    assert RATES[0] == 1e-6
    assert RATES[-1] == pytest.approx(10)
    assert {round(b / a, 9) for a, b in pairwise(RATES)} == {round(10 ** (1 / 20), 9)}


@given(st.floats(-5, -3.5), st.floats(0.01, 1))
def test_the_steepest_descent_is_found_to_a_sixth_of_a_decade(power, floor):
    middle = 10**power
    losses = [valley(rate, middle, floor) for rate in RATES]
    suggestion = suggest(RATES, smoothed(losses, len(losses)))
    assert abs(math.log10(suggestion.steepest / middle)) < 1 / 6
    assert middle / 10 < suggestion.tenth < 100 * middle


def test_a_loss_that_stays_near_zero_is_lowest_where_it_arrives():
    losses = [1 / (1 + (rate / 1e-4) ** 2) for rate in RATES]
    assert suggest(RATES, losses).tenth == pytest.approx(1e-4, rel=0.5)


@pytest.mark.parametrize("losses", [[2.0] * 141, [2 + rate for rate in RATES], [0.0] * 141])
def test_a_loss_that_never_falls_suggests_nothing(losses):
    assert suggest(RATES, losses) is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.integers(10, 1000))
def test_smoothing_stays_within_the_losses(losses, steps):
    smooth = smoothed(losses, steps)
    assert len(smooth) == len(losses)
    assert min(losses) - 1e-6 <= min(smooth) <= max(smooth) <= max(losses) + 1e-6


def test_smoothing_is_centred():
    """A running average would find this symmetric valley to the right of its middle."""
    losses = [abs(place - 50) for place in range(101)]
    smooth = smoothed(losses, 101)
    assert smooth.index(min(smooth)) == 50
    assert smooth == pytest.approx(smooth[::-1])


@pytest.mark.parametrize(
    ("smooth", "expected"),
    [
        ([2.0, 1.0, 3.9], False),
        ([2.0, 1.0, 4.1], True),
        ([2.0, 0.001, 0.5], False),  # four times almost nothing is not divergence
        ([1.0], False),
    ],
)
def test_divergence(smooth, expected):
    assert diverges(smooth) is expected
