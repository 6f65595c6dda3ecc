"""Learning rates of a range test, and what it suggests: functions of rates and losses (Smith 2017)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from frostline.console.errors import FrostlineError

WINDOW = 1 / 50
"""Standard deviation of the smoothing window, as a share of the test's steps."""
DIVERGENCE = 4.0
"""The test stops once the smoothed loss exceeds the first and this multiple of the lowest."""
LEAST_FALL = 0.02
"""The smoothed loss has to fall by this share for a suggestion."""
AT_LOWEST = 0.01
"""Share of the whole fall within which a smoothed loss counts as the lowest: a loss near 0 stays there."""


@dataclass(frozen=True)
class Settings:
    """Learning rates of a range test."""

    low: float
    high: float
    steps: int
    """Optimizer steps, one per learning rate."""

    def check(self) -> None:
        """Raise an error if no test is possible with these learning rates."""
        if not 0 < self.low < self.high < math.inf:
            raise FrostlineError(
                f"--low, --high: found {self.low:g} and {self.high:g}; give the lower first, both above 0"
            )
        if self.steps < 10:
            raise FrostlineError(f"--steps: found {self.steps}; give at least 10")


@dataclass(frozen=True)
class Suggestion:
    """Two learning rates to choose from, with two significant digits."""

    steepest: float
    """Where the smoothed loss falls fastest per decade of the learning rate."""
    tenth: float
    """A tenth of the first learning rate with the lowest smoothed loss."""


def learning_rates(low: float, high: float, steps: int) -> list[float]:
    """Return `steps` learning rates from `low` to `high`, each larger than the last by the same factor."""
    growth = math.log(high / low) / (steps - 1)
    return [low * math.exp(growth * step) for step in range(steps)]


def smoothed(losses: Sequence[float], steps: int) -> list[float]:
    """Return the losses, smoothed by a Gaussian window centred on each step.

    A running average would lag behind and so suggest learning rates that are too high.

    Args:
        steps: of the whole test; `losses` may be those of its beginning.
    """
    values, places = np.asarray(losses, dtype=np.float64), np.arange(len(losses))
    width = max(WINDOW * steps, 0.5)
    weights = np.exp(-(((places[:, None] - places) / width) ** 2) / 2)
    means: list[float] = (weights @ values / weights.sum(1)).tolist()
    return means


def diverges(smooth: Sequence[float]) -> bool:
    """Return whether the last smoothed loss exceeds both the first and `DIVERGENCE` times the lowest."""
    return smooth[-1] > max(smooth[0], DIVERGENCE * min(smooth))


def suggest(rates: Sequence[float], smooth: Sequence[float]) -> Suggestion | None:
    """Return the suggestion; None: the loss falls at no learning rate.

    Args:
        rates: those of `learning_rates`.
        smooth: the smoothed loss at each.
    """
    values, fall = np.asarray(smooth, dtype=np.float64), smooth[0] - min(smooth)
    if fall <= 0 or fall < LEAST_FALL * abs(smooth[0]):
        return None
    lowest = int(np.flatnonzero(values <= values.min() + AT_LOWEST * fall)[0])
    # The learning rates are evenly spaced on a logarithmic scale.
    slopes = np.gradient(values)[: lowest + 1]
    return Suggestion(_rounded(rates[int(np.argmin(slopes))]), _rounded(rates[lowest] / 10))


def _rounded(rate: float) -> float:
    return float(f"{rate:.1e}")
