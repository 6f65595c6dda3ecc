"""What is written beside the curves of the report's plot."""

import pytest

from frostline.reporting.transfer_plot import _earlier_text


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
