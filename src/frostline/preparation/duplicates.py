"""Find exact and near duplicates in a data set."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.data.reading.splits import SPLITS

THUMBNAIL = 16
"""Side in pixels of the grey thumbnails for the search for near-duplicates."""

NEAR_MIN_SIDE = 32
"""Smaller images are not searched: different ones, such as handwritten digits, may be as similar."""

NEAR_MAX_IMAGES = 100_000
"""Larger data sets are not searched: the search compares all pairs across splits."""

NEAR_CORRELATION = 0.99
"""Minimum correlation of two thumbnails: 99 % of copies at quality 50, or at half the size, reach it."""

_FLAT = 4.0
"""Minimum standard deviation in grey levels: blank pages and single colours would all match each other."""


class Pair(NamedTuple):
    """Two images, by position, the one in an earlier split first."""

    first: int
    second: int


def groups_of(digests: Sequence[bytes]) -> NDArray[np.int64]:
    """Return (N,) group numbers; two images have the same number when their digests are equal."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(digest, len(numbers)) for digest in digests], dtype=np.int64)


def repeated(groups: NDArray[np.int64]) -> Iterator[list[int]]:
    """Yield the positions of each group of two or more, in order."""
    positions: dict[int, list[int]] = defaultdict(list)
    counts = np.bincount(groups)
    for position in np.flatnonzero(counts[groups] > 1).tolist():
        positions[int(groups[position])].append(position)
    yield from positions.values()


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """Return (16, 16) grey levels of a decoded image."""
    return np.asarray(
        image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR, reducing_gap=3.0)
    )


def near_pairs(
    thumbnails: NDArray[np.uint8], splits: NDArray[np.str_], groups: NDArray[np.int64]
) -> list[Pair]:
    """Find images that look like one in an earlier split: their thumbnails correlate by at least 0.99.

    Correlation does not depend on brightness and contrast; blank images never match.

    Args:
        thumbnails: (N, 16, 16).
        splits: (N,).
        groups: (N,); exact copies, which have the same number, are excluded.

    Returns:
        For each such image the first one that it looks like; ascending.
    """
    flat = thumbnails.reshape(len(thumbnails), -1)
    centred = flat.astype(np.float32) - flat.mean(axis=1, dtype=np.float32, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    uneven = norms[:, 0] > _FLAT * THUMBNAIL
    unit = centred / np.maximum(norms, 1)
    rows = {split: np.flatnonzero((splits == split) & uneven) for split in SPLITS}
    first_of: dict[int, int] = {}
    for earlier, later in (("train", "val"), ("train", "test"), ("val", "test")):
        for start in range(0, len(rows[later]), _BLOCK):
            block = rows[later][start : start + _BLOCK]
            # The product is fast, but its last digits depend on the machine: it only selects candidates.
            alike = unit[rows[earlier]] @ unit[block].T > NEAR_CORRELATION - 1e-4
            for column in np.flatnonzero(alike.any(axis=0)).tolist():
                second = int(block[column])
                for first in rows[earlier][alike[:, column]].tolist():
                    if groups[first] != groups[second] and _near(flat[first], flat[second]):
                        first_of.setdefault(second, first)
                        break
    return sorted(Pair(first, second) for second, first in first_of.items())


_BLOCK = 256
"""Rows that are compared with a whole split at once; limits memory to 1 KiB per image."""


def _near(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> bool:
    """Decide in integers, equal on every machine: r² ≥ t², with r = (n·Σab − Σa·Σb) / √(…a…·…b…)."""
    x, y = a.astype(np.int64), b.astype(np.int64)
    n = len(x)
    covariance = int(n * (x @ y) - x.sum() * y.sum())
    variances = int(n * (x @ x) - x.sum() ** 2) * int(n * (y @ y) - y.sum() ** 2)
    return covariance > 0 and covariance**2 >= NEAR_CORRELATION**2 * variances
