"""What a data set says about its images, as one column per property; the same for every kind of source."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Rows:
    """N images. Columns, since a million objects take ten times the memory."""

    keys: Sequence[str]
    """Name of each image: its path, with '/' between folders, or its zero-padded number."""
    labels: NDArray[np.integer]
    """(N,) int64, 0…C−1; with several labels per image (N, C) uint8, 1 where the image has the label."""
    splits: NDArray[np.str_]
    """(N,), 'train', 'val' or 'test'; all '' if the data set has no splits of its own."""
    groups: NDArray[np.str_] | None = None
    """(N,), names of groups; images of a group are never divided between splits."""
    folds: NDArray[np.int64] | None = None
    """(N,), numbers of folds from 0."""
    weights: NDArray[np.float64] | None = None
    """(N,), weights of the images in the training loss, ≥ 0."""

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, positions: NDArray[np.int64]) -> Self:
        """Return some of the rows, in the order of `positions`."""
        taken: dict[str, Any] = {"keys": [self.keys[place] for place in positions.tolist()]}
        for field in fields(self):
            if field.name not in taken:
                column = getattr(self, field.name)
                taken[field.name] = None if column is None else column[positions]
        return type(self)(**taken)


def numbered(count: int) -> list[str]:
    """Return the keys of images that have no names: zero-padded numbers from 0.

    >>> numbered(11)[-2:]
    ['09', '10']
    """
    digits = len(str(count - 1))
    return [f"{number:0{digits}}" for number in range(count)]
