"""The order of settings: a setting is all values but seed and fold; its value is the mean over these."""

from collections.abc import Sequence
from statistics import fmean

from frostline.base.metrics import score

REPEATED = ("seed", "dataset.fold")
"""The keys that distinguish the runs of one setting; they are no hyperparameters."""


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
