"""Find exact and near duplicates in a data set."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.base.processes import processors

THUMBNAIL = 16
"""Side in pixels of the grey thumbnails for the search for near-duplicates."""

NEAR_MIN_SIDE = 65
"""Smaller images are compared by exact pixels only: different ones, such as digits, may be as similar."""

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


def pixel_digest(pixels: NDArray[np.uint8]) -> bytes:
    """Return the sha256 of decoded pixels, (H, W) grey or (H, W, 3) RGB, and their size."""
    height, width = pixels.shape[:2]
    mode = "L" if pixels.ndim == 2 else "RGB"
    return hashlib.sha256(f"{mode} {width} {height} ".encode() + pixels.tobytes()).digest()


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
    first_of: dict[int, int] = {}
    for earlier, later in (("train", "val"), ("train", "test"), ("val", "test")):
        firsts, seconds = np.flatnonzero(splits == earlier), np.flatnonzero(splits == later)
        same = groups[firsts], groups[seconds]
        for first, second in near_matches(thumbnails[firsts], thumbnails[seconds], same):
            first_of.setdefault(int(seconds[second]), int(firsts[first]))
    return sorted(Pair(first, second) for second, first in first_of.items())


def near_pairs_over_folds(thumbnails: NDArray[np.uint8], fold_splits: NDArray[np.str_]) -> list[Pair]:
    """Find images that look like an earlier one which is in another split for at least one of the folds.

    Args:
        thumbnails: (N, 16, 16).
        fold_splits: (N, K), the splits for each fold as the test split. Exact copies have the same.

    Returns:
        For each such image the first one that it looks like; ascending.
    """
    same = np.zeros(len(fold_splits), dtype=np.int64)
    for splits in fold_splits.T:
        _, same = np.unique(3 * same + (splits == "val") + 2 * (splits == "test"), return_inverse=True)
    found = near_matches(thumbnails, thumbnails, (same, same), ordered=True)
    return sorted(found, key=lambda pair: (pair.second, pair.first))


def near_matches(
    earlier: NDArray[np.uint8],
    later: NDArray[np.uint8],
    same: tuple[NDArray[np.int64], NDArray[np.int64]],
    *,
    ordered: bool = False,
) -> Iterator[Pair]:
    """Yield for each image of `later` the first of `earlier` that it looks like, by position.

    Two centred thumbnails of length 1 that correlate by r are √(2 − 2r) apart. An orthonormal projection
    never lengthens a distance, so that all pairs above the threshold are within that distance of each other
    in a few dimensions, too; the lowest frequencies of the discrete cosine transform hold most of an image.
    A k-d tree finds those pairs, and only they are compared: the search misses nothing, and does not compare
    all pairs.

    Args:
        earlier: (M, 16, 16) thumbnails.
        later: (N, 16, 16) thumbnails.
        same: (M,) and (N,) numbers; pairs with equal numbers are no matches.
        ordered: `earlier` and `later` are the same images; only those before an image are its matches.
    """
    from scipy.spatial import cKDTree

    rows, points = _projected(earlier)
    other_rows, other_points = _projected(later)
    if not len(rows) or not len(other_rows):
        return
    tree = cKDTree(points)
    flat, other_flat = earlier.reshape(len(earlier), -1), later.reshape(len(later), -1)
    for start in range(0, len(other_rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        # Rounding of the last digits differs between machines: the distance only selects candidates.
        found = tree.query_ball_point(
            other_points[block], _DISTANCE + 1e-4, return_sorted=True, workers=processors()
        )
        for second, candidates in zip(other_rows[block].tolist(), found, strict=True):
            for first in rows[candidates].tolist():
                if ordered and first >= second:
                    break
                if same[0][first] != same[1][second] and _near(flat[first], other_flat[second]):
                    yield Pair(first, second)
                    break


_BLOCK = 4096
"""Thumbnails that are projected or searched for at once; limits memory."""

_DIMENSIONS = 10
"""Frequencies of the projection: fewer give more candidates, more a slower tree."""

_DISTANCE = math.sqrt(2 - 2 * NEAR_CORRELATION)


def _projected(thumbnails: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the rows of the thumbnails that are not blank, (M,), and their projections, (M, 10)."""
    rows, points = [np.empty(0, dtype=np.int64)], [np.empty((0, _DIMENSIONS))]
    for start in range(0, len(thumbnails), _BLOCK):
        flat = thumbnails[start : start + _BLOCK].reshape(-1, THUMBNAIL * THUMBNAIL).astype(np.float64)
        centred = flat - flat.mean(axis=1, keepdims=True)
        norms = np.linalg.norm(centred, axis=1)
        uneven = np.flatnonzero(norms > _FLAT * THUMBNAIL)
        rows.append(start + uneven)
        points.append(centred[uneven] / norms[uneven, None] @ _lowest_frequencies())
    return np.concatenate(rows), np.concatenate(points)


@cache
def _lowest_frequencies() -> NDArray[np.float64]:
    """Return the (256, 10) basis vectors of the two-dimensional DCT with the lowest frequencies but 0."""
    n = np.arange(THUMBNAIL)
    waves = np.cos(np.pi * (n[:, None] + 0.5) * n / THUMBNAIL) * np.sqrt(2 / THUMBNAIL)
    waves[:, 0] /= math.sqrt(2)
    order = sorted(((u, v) for u in range(6) for v in range(6)), key=lambda uv: (uv[0] + uv[1], uv))
    return np.stack(
        [np.outer(waves[:, u], waves[:, v]).ravel() for u, v in order[1 : _DIMENSIONS + 1]], axis=1
    )


def _near(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> bool:
    """Decide in integers, equal on every machine: r² ≥ t², with r = (n·Σab − Σa·Σb) / √(…a…·…b…)."""
    x, y = a.astype(np.int64), b.astype(np.int64)
    n = len(x)
    covariance = int(n * (x @ y) - x.sum() * y.sum())
    variances = int(n * (x @ x) - x.sum() ** 2) * int(n * (y @ y) - y.sum() ** 2)
    return covariance > 0 and covariance**2 >= NEAR_CORRELATION**2 * variances
