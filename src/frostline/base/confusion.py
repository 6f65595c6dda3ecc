"""How often each class is taken for which, for any number of classes."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Confusion:
    """Counts of the pairs of label and prediction that occur; the matrix of 10,000 classes takes 800 MB."""

    classes: int
    """K."""
    labels: NDArray[np.int64]
    """(P,): the labels of the pairs that occur, ascending."""
    predictions: NDArray[np.int64]
    """(P,): their predictions, ascending for the same label."""
    counts: NDArray[np.int64]
    """(P,)."""

    @classmethod
    def of(cls, labels: ArrayLike, predictions: ArrayLike, k: int) -> "Confusion":
        """Count pairs; `labels` and `predictions` are (N,) int64 in 0…k−1."""
        truth, guess = np.asarray(labels, dtype=np.int64), np.asarray(predictions, dtype=np.int64)
        pairs, counts = np.unique(truth * k + guess, return_counts=True)
        return cls(k, pairs // k, pairs % k, counts.astype(np.int64))

    @property
    def matrix(self) -> NDArray[np.int64]:
        """(K, K): row label, column prediction."""
        return self.reduced(self.classes)

    def reduced(self, side: int) -> NDArray[np.int64]:
        """Return the matrix, (side, side), summed over equal shares of neighbouring classes; side ≤ K."""
        table = np.zeros((side, side), dtype=np.int64)
        places = (each * side // self.classes for each in (self.labels, self.predictions))
        np.add.at(table, tuple(places), self.counts)
        return table

    @property
    def hits(self) -> NDArray[np.int64]:
        """(K,): images of the class whose prediction is right."""
        return self._summed(self.labels, self.labels == self.predictions)

    @property
    def labelled(self) -> NDArray[np.int64]:
        """(K,): images of the class."""
        return self._summed(self.labels)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """(K,): images that are predicted to be of the class."""
        return self._summed(self.predictions)

    @property
    def mistakes(self) -> list[tuple[int, int, int]]:
        """(label, prediction, count) of each kind of mistake, the most frequent first."""
        wrong = self.labels != self.predictions
        columns = (each[wrong].tolist() for each in (self.labels, self.predictions, self.counts))
        return sorted(zip(*columns, strict=True), key=lambda pair: (-pair[2], pair))

    def _summed(
        self, classes: NDArray[np.int64], among: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        counts = self.counts if among is None else self.counts * among
        # Sums of floats: exact below 2⁵³.
        return np.bincount(classes, weights=counts, minlength=self.classes).astype(np.int64)


@dataclass(frozen=True)
class LabelCounts:
    """Counts of one label among images with several."""

    hits: int
    """Images that have the label and are predicted to have it."""
    images: int
    """Images that have it."""
    predicted: int
    """Images that are predicted to have it."""

    @property
    def f1(self) -> float:
        """2·hits / (images + predicted), 0 where both are 0."""
        return 2 * self.hits / max(self.images + self.predicted, 1)


def label_counts(pairs: Iterable[tuple[set[str], set[str]]]) -> dict[str, LabelCounts]:
    """Return the counts of each label that occurs.

    Args:
        pairs: the labels of each image, and those predicted.
    """
    hits, images, predicted = Counter[str](), Counter[str](), Counter[str]()
    for own, guessed in pairs:
        hits.update(own & guessed)
        images.update(own)
        predicted.update(guessed)
    return {name: LabelCounts(hits[name], images[name], predicted[name]) for name in images | predicted}
