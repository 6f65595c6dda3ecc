"""The order of settings and of their runs: a setting is all values but seed and fold.

A setting's value is the mean over its seeds and folds.
"""

from collections.abc import Sequence
from statistics import fmean

from frostline.base.metrics import score


def rank(metric: str, values: Sequence[float], most: int) -> tuple[bool, float, int]:
    """Return the sort key of a setting, best first; of equal ones, sorting keeps the earlier one first.

    Settings are ordered by their mean. With equal means, the one with more seeds comes first. A setting with
    less than half of `most` seeds comes after all others, so that one lucky seed does not beat a mean of
    several.

    Args:
        metric: such as ``val/loss``; lower losses and higher accuracies are better.
        values: one per seed, at least one.
        most: the number of seeds of the setting that has the most.
    """
    return 2 * len(values) < most, -score(metric, fmean(values)), -len(values)


def rank_run(metric: str, value: float, trial: int | None = None) -> tuple[float, bool, int]:
    """Return the sort key of a run within its setting; the best run stands for the setting.

    Of equal runs, a trial of a sweep that was trained by itself comes before one of a batch, which can't be
    repeated to the byte; then the trial with the lower number comes first. What remains equal keeps its
    order. Equal settings are ordered by all but the value, too.

    Args:
        trial: the number in the sweep; None: trained in a batch, or not in a sweep.
    """
    return -score(metric, value), trial is None, trial or 0
