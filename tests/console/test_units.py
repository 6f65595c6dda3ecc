"""Amounts with units."""

import pytest

from frostline.console import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"),
        (0.042, "0.04 s"),
        (9.99, "9.99 s"),
        (9.996, "10.0 s"),
        (59.9, "59.9 s"),
        (59.96, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7199.6, "2 h 00 min"),
        (7440, "2 h 04 min"),
    ],
)
def test_seconds(value: float, text: str) -> None:
    assert units.seconds(value) == text


def test_counts() -> None:
    assert (units.counted(1, "seed"), units.counted(5, "seed")) == ("1 seed", "5 seeds")
