"""The order of settings: by the mean over seeds, and no lucky seed first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.comparison.ranking import rank

SHARES = st.lists(st.integers(0, 64).map(lambda n: n / 64), min_size=1, max_size=6)


def ordered(metric, settings):
    most = max(map(len, settings))
    return sorted(settings, key=lambda values: rank(metric, values, most))


@pytest.mark.parametrize(
    ("metric", "settings", "first"),
    [
        ("val/accuracy", [[0.9, 0.5], [0.8, 0.8]], [0.8, 0.8]),
        ("val/loss", [[0.9, 0.5], [0.8, 0.8]], [0.9, 0.5]),
        ("val/accuracy", [[0.99], [0.8, 0.8, 0.8]], [0.8, 0.8, 0.8]),
        ("val/accuracy", [[0.99], [0.8, 0.8]], [0.8, 0.8]),
        ("val/accuracy", [[0.99, 0.97], [0.8, 0.8, 0.8]], [0.99, 0.97]),
        ("val/accuracy", [[0.8], [0.8, 0.8]], [0.8, 0.8]),
        ("val/accuracy", [[52 / 61, 52 / 61], [53 / 61, 51 / 61]], [52 / 61, 52 / 61]),
    ],
    ids=[
        "mean",
        "loss",
        "one lucky seed of three",
        "of two",
        "two of three",
        "a tie",
        "a tie but for rounding",
    ],
)
def test_which_setting_is_first(metric, settings, first):
    assert ordered(metric, settings)[0] == first


@given(st.lists(SHARES, min_size=1, max_size=8))
def test_all_with_enough_seeds_come_first_and_by_their_means(settings):
    most = max(map(len, settings))
    found = ordered("val/accuracy", settings)
    enough = [2 * len(values) > most for values in found]
    assert enough == sorted(enough, reverse=True)
    for part in (True, False):
        means = [sum(values) / len(values) for values, has in zip(found, enough, strict=True) if has == part]
        assert means == sorted(means, reverse=True)


def test_of_equals_the_earlier_one_stays_first():
    settings = [[0.5, 0.5], [0.25, 0.75], [0.5, 0.5]]
    assert ordered("val/accuracy", settings) == settings
