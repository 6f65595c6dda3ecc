"""The order of settings and of their runs: a setting is all values but seeds and fold.

A setting's value is the mean over its seeds and folds.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from statistics import fmean
from typing import TypeVar

from frostline.base.metrics import MEAN_DIGITS, score

RunT = TypeVar("RunT")


def rank(metric: str, values: Sequence[float], most: int) -> tuple[bool, float, int]:
    """Return the sort key of a setting, best first; of equal ones, sorting keeps the earlier one first.

    Settings are ordered by their mean, to `MEAN_DIGITS` decimals. With equal means, the one with more seeds
    comes first. A setting with at most half of `most` seeds comes after all others, so that one lucky seed
    does not beat a mean of several.

    Args:
        metric: such as ``val/loss``; lower losses and higher accuracies are better.
        values: one per seed, at least one.
        most: the number of seeds of the setting that has the most.
    """
    return 2 * len(values) <= most, -round(score(metric, fmean(values)), MEAN_DIGITS), -len(values)


def preference(trial: int | None) -> tuple[bool, int]:
    """Return the sort key among equal runs: the trial with the lower number first, then other runs.

    A trial without a number was trained in a batch, and can't be repeated to the byte.
    """
    return trial is None, trial or 0


def run_rank(metric: str, value: float, trial: int | None) -> tuple[float, bool, int]:
    """Return the sort key of a run, best first; of equal runs by `preference`."""
    return -score(metric, value), *preference(trial)


def ordered(
    metric: str,
    settings: Iterable[Collection[RunT]],
    value: Callable[[RunT], float],
    trial: Callable[[RunT], int | None] = lambda run: None,
) -> list[list[RunT]]:
    """Return the settings by `rank`, the best first, each with its best run first.

    Of equal runs, the first is that of `preference`. Equal settings are ordered by their first runs in the
    same way. What remains equal keeps its order.

    Args:
        metric: such as ``val/loss``.
        settings: the runs of each, at least one.
        value: returns a run's value of the metric.
        trial: returns its number in the sweep; None: trained in a batch, or not in a sweep.
    """
    found = [sorted(runs, key=lambda run: run_rank(metric, value(run), trial(run))) for runs in settings]
    most = max(map(len, found), default=0)
    return sorted(
        found, key=lambda runs: (*rank(metric, [*map(value, runs)], most), *preference(trial(runs[0])))
    )
