"""Whether a network has learned more than to predict the most frequent class."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, Protocol

from frostline.base.metrics import ACCURACY, BALANCED
from frostline.reporting import words
from frostline.reporting.inputs import Scores
from frostline.stats import transfer

ROUNDING = 1e-9
"""Means of the same accuracies over different runs differ by less."""


Learning = Literal["clear", "unclear", "none"]
"""Whether runs are better than always predicting one class; unclear: the mean is, but not the interval."""


class Measured(Protocol):
    """A run's metrics, and the labels of the images that they are measured on."""

    @property
    def scores(self) -> Scores:
        """Metrics by split."""
        ...

    @property
    def labels(self) -> list[str]:
        """Of the test split, or of val if there is none."""
        ...


@dataclass(frozen=True)
class Majority:
    """The accuracy of always predicting the most frequent class."""

    split: str
    """test, or validation where there is no test split."""
    name: str
    """The class; of equally frequent classes, the first."""
    rate: float
    """Its share of the split's images, 0…1; over folds, the mean."""

    def is_beaten_by(self, accuracy: float) -> bool:
        """Return whether an accuracy is above the rate."""
        return accuracy > self.rate + ROUNDING

    @property
    def sentence(self) -> str:
        """The accuracy as a sentence."""
        return (
            f"Always predicting the most frequent class of the {self.split} split, {self.name}, is right for"
            f" {words.percent(self.rate)} of its images."
        )


def majority_class(held_out: str, labels: Iterable[Sequence[str]]) -> Majority:
    """Return the majority class.

    Args:
        held_out: the split, test or val.
        labels: the labels of its images, for each fold.
    """
    parts = list(labels)
    counts = Counter(label for part in parts for label in part)
    name = min(counts, key=lambda label: (-counts[label], label))
    split = "test" if held_out == "test" else "validation"
    return Majority(split, name, fmean(part.count(name) / len(part) for part in parts))


def learning(
    runs: Sequence[Measured], held_out: str, majority: Majority | None, overlap: float = 0.0
) -> Learning:
    """Return whether runs are better than always predicting one class.

    Balanced accuracy counts, too: with weighted classes, accuracy may be below the majority class's share.

    Args:
        held_out: the split that they are measured on, test or val.
        majority: None with several labels per image, where nothing is checked.
        overlap: as for `stats.transfer.estimate`.
    """
    accuracies, balanced = (_values(runs, held_out, name) for name in (ACCURACY, BALANCED))
    if majority is None:
        return "clear"
    chance = fmean(1 / len(set(run.labels)) for run in runs)
    if balanced and _low(balanced, overlap) > chance + ROUNDING:
        return "clear"
    if majority.is_beaten_by(_low(accuracies, overlap)):
        return "clear"
    return "unclear" if majority.is_beaten_by(fmean(accuracies)) else "none"


def _low(shares: Sequence[float], overlap: float) -> float:
    """Return the lower end of the mean's interval; of a single share, itself."""
    own = transfer.estimate(shares, bounds=(0.0, 1.0), overlap=overlap)
    return own.mean if own.low is None else own.low


def _values(runs: Sequence[Measured], split: str, metric: str) -> list[float]:
    values = [getattr(run.scores, split).get(metric) for run in runs]
    return [value for value in values if value is not None]
