"""The input size of a new study: that of its images' shape, if a square would cut off much of them."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.console.errors import FrostlineError
from frostline.data.loading.resize import WORTH_A_WARNING, lost_share
from frostline.data.reading.bands import decode_as
from frostline.data.reading.source import Source
from frostline.data.reading.sources import open_source
from frostline.schema import Dataset

SAMPLE = 48
"""Images whose shape is looked at; they are decoded, which takes up to a second."""
SIDES = range(16, 2049, 8)
"""The sides of an oblong input, pixels."""
SHAPE_WEIGHT = 2.0
"""How much a deviation from the images' shape counts, compared with one from the number of pixels."""


@dataclass(frozen=True)
class InputSize:
    """The keys of `input` that depend on the images' shape."""

    keys: dict[str, Any]
    why: str = ""
    """A comment; empty: a square is the usual choice."""


def input_size(target: Dataset, source: Dataset | None, side: int) -> InputSize:
    """Return the input of a study: a square, or if it would cut off much of the images, another.

    Args:
        target: the images to fine-tune on.
        source: those to pretrain on, whose input is the same; None: there are none.
        side: that of the square, whose number of pixels an oblong input has, too.
    """
    sizes = _sizes(target)
    others = sizes[:0] if source is None else _sizes(source)
    if not _cuts(sizes, side, side) and not _cuts(others, side, side):
        return InputSize({"size": side})
    if len(sizes):
        height, width = _oblong(float(np.exp(np.median(np.log(sizes[:, 0] / sizes[:, 1])))), side)
        if not _cuts(sizes, height, width) and not _cuts(others, height, width):
            why = "height, width: the shape of the images, so that nothing is cut off"
            return InputSize({"size": [height, width], "crop": 1}, why)
    return InputSize(
        {"size": side, "fit": "pad"}, "pad: nothing is cut off, since the shapes of images differ"
    )


def _sizes(dataset: Dataset) -> NDArray[np.int64]:
    """Return widths and heights of some images, (N, 2), up to a factor; unreadable ones are left out."""
    try:
        source = open_source(dataset)
    except FrostlineError:  # `prepare` reports it
        return np.zeros((0, 2), dtype=np.int64)
    if source.images is not None:
        height, width = source.images.shape[1:3]
        return np.array([[width, height]])
    places = np.linspace(0, len(source) - 1, min(SAMPLE, len(source))).round().astype(int)
    return np.array(list(_decoded_sizes(source, places.tolist())), dtype=np.int64).reshape(-1, 2)


def _decoded_sizes(source: Source, places: Sequence[int]) -> Iterator[tuple[int, int]]:
    assert source.store is not None
    for key in (source.rows.keys[place] for place in places):
        with suppress(FrostlineError, OSError):  # `prepare` reports it
            yield decode_as(source.store.read(key), key, at_least=SIDES.start).size


def _cuts(sizes: NDArray[np.int64], height: int, width: int) -> bool:
    """Return whether a centre crop to this shape would cause a warning for images, (N, 2)."""
    return len(sizes) > 0 and lost_share(sizes[:, 0], sizes[:, 1], (width, height)) > WORTH_A_WARNING


def _oblong(ratio: float, side: int) -> tuple[int, int]:
    """Return height and width of about side² pixels whose ratio, width / height, is about `ratio`.

    >>> _oblong(320 / 96, 64)
    (32, 112)
    """

    def deviation(sides: tuple[int, int]) -> float:
        height, width = sides
        shape, area = abs(math.log(width / height / ratio)), abs(math.log(width * height / side**2))
        return SHAPE_WEIGHT * shape + area

    pairs = ((height, width) for height in SIDES for width in SIDES if width * height <= 2 * side**2)
    return min(pairs, key=deviation)
