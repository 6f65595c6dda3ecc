"""Find exact and near duplicates in a data set."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.base.processes import processors

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

THUMBNAIL = 16
"""Side in pixels of the grey thumbnails for the search for near-duplicates."""

NEAR_MIN_SIDE = 65
"""Smaller images are compared by exact pixels only: different ones, such as digits, may be as similar."""

NEAR_CORRELATION = 0.99
"""Minimum correlation of two thumbnails: 99 % of copies at quality 50, or at half the size, reach it."""

_FLAT = 4.0
"""Minimum standard deviation in grey levels: blank pages and single colours would all match each other."""


DIGESTS = 2
"""Version of `pixel_digest`, in the key of cached digests."""

_SCALE = 257
"""65535 / 255: what 8 bits are scaled by to get 16."""


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


def pixel_digest(pixels: NDArray[np.unsignedinteger[Any]]) -> bytes:
    """Return the sha256 of an image's size and pixels, the same for all files that hold these pixels.

    A colour image whose channels are equal, as some formats store grey, has the digest of the grey one; 16
    bits that were scaled up from 8 have that of the 8 bits.

    Args:
        pixels: (H, W) grey or (H, W, C), uint8 or uint16.
    """
    if pixels.ndim == 3 and all(map(_is_grey, _few_then_all(pixels))):
        pixels = pixels[..., 0]
    if pixels.dtype == np.uint16 and not any((part % _SCALE).any() for part in _few_then_all(pixels)):
        pixels = (pixels // _SCALE).astype(np.uint8)
    height, width, channels = np.atleast_3d(pixels).shape
    mode = {1: "L", 3: "RGB"}.get(channels, str(channels)) + (";16" if pixels.dtype == np.uint16 else "")
    digest = hashlib.sha256(f"{mode} {width} {height} ".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def _few_then_all(pixels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a few pixels of an image, which usually decide a question about all, and all."""
    return pixels[::16, ::16], pixels


def _is_grey(pixels: NDArray[np.unsignedinteger[Any]]) -> bool:
    """Return whether an image, (H, W, C), has one channel, or three equal ones."""
    first, channels = pixels[..., 0], pixels.shape[2]
    return channels in (1, 3) and all((pixels[..., other] == first).all() for other in range(1, channels))


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
    same: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    *,
    ordered: bool = False,
) -> list[Pair]:
    """Return for each image of `later` the first of `earlier` that it looks like, ordered by the later one.

    Two centred thumbnails of length 1 that correlate by r are √(2 − 2r) apart. An orthonormal projection
    never lengthens a distance, so all pairs above the threshold are within that distance of each other in a
    few dimensions, too: those in which the thumbnails vary most. k-d trees find those pairs, and only they
    are compared: the search misses nothing, and does not compare all pairs.

    The first tree is small, each further one larger, and holds later images of `earlier`: an image that has a
    match is not searched for again. So the frames of one camera, of which each looks like all others, take
    no longer than different images. Memory grows with M + N only.

    Args:
        earlier: (M, 16, 16) thumbnails.
        later: (N, 16, 16) thumbnails.
        same: (M,) and (N,) numbers; pairs with equal numbers are no matches. None: any pair may be one.
        ordered: `earlier` and `later` are the same images; only those before an image are its matches.
    """
    from scipy.spatial import cKDTree

    axes = _main_axes(earlier)
    rows, points = _projected(earlier, axes)
    pending, other_points = _projected(later, axes)
    same = same or (np.zeros(len(earlier), dtype=np.int64), np.ones(len(later), dtype=np.int64))
    candidates = _Candidates(earlier, later, same)
    matches: list[Pair] = []
    start, length = 0, _FIRST_TREE
    while start < len(rows) and len(pending):
        tree = cKDTree(points[start : start + length])
        first_of = np.full(len(pending), -1)
        for part in _parts(tree, other_points):
            # Rounding of the last digits differs between machines: the distance only selects candidates.
            found = _neighbours(tree, other_points[part], return_sorted=True)
            for place, second, near in zip(part, pending[part].tolist(), found, strict=True):
                before = rows[start + np.array(near, dtype=np.int64)]
                first_of[place] = candidates.first(before[before < second] if ordered else before, second)
        matches += [
            Pair(first, second)
            for first, second in zip(first_of.tolist(), pending.tolist(), strict=True)
            if first >= 0
        ]
        pending, other_points = pending[first_of < 0], other_points[first_of < 0]
        start, length = start + length, length * _GROWTH
    return sorted(matches, key=lambda pair: pair.second)


_BLOCK = 4096
"""Thumbnails that are projected or searched for at once; limits memory."""

_FIRST_TREE, _GROWTH = 512, 8
"""Images in the first k-d tree, and how many times as many are in each further one."""

_MOST_CANDIDATES = 1 << 20
"""Candidates that are held at once, of one image at least; limits memory to about 40 MiB."""

_DIMENSIONS = 10
"""Axes of the projection: fewer give more candidates, more a slower tree."""

_RADIUS = math.sqrt(2 - 2 * NEAR_CORRELATION) + 1e-4


def _parts(tree: "cKDTree[None]", points: NDArray[np.float64]) -> Iterator[list[int]]:
    """Yield the places of the points, (N, 10), that have neighbours in the tree.

    Together, the points of a part have at most `_MOST_CANDIDATES` neighbours.
    """
    for block in range(0, len(points), _BLOCK):
        counts = _neighbours(tree, points[block : block + _BLOCK], return_length=True)
        part: list[int] = []
        total = 0
        for place in np.flatnonzero(counts).tolist():
            if part and total + counts[place] > _MOST_CANDIDATES:
                yield part
                part, total = [], 0
            part.append(block + place)
            total += counts[place]
        if part:
            yield part


def _neighbours(tree: "cKDTree[None]", points: NDArray[np.float64], **options: bool) -> NDArray[Any]:
    """Return the points of the tree within the radius of each of some points, (N, 10), as scipy does."""
    found: NDArray[Any] = tree.query_ball_point(points, _RADIUS, workers=processors(), **options)
    return found


def _uneven(thumbnails: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the rows of the thumbnails that are not blank, and them, (M, 256), centred and of length 1."""
    flat = thumbnails.reshape(len(thumbnails), THUMBNAIL**2).astype(np.float64)
    centred = flat - flat.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1)
    rows = np.flatnonzero(norms > _FLAT * THUMBNAIL)
    return rows, centred[rows] / norms[rows, None]


def _main_axes(thumbnails: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the orthonormal axes along which the thumbnails vary most, (256, 10), from a sample of them."""
    _, sample = _uneven(thumbnails[:: 1 + len(thumbnails) // _BLOCK])
    axes: NDArray[np.float64] = np.linalg.eigh(np.cov(sample.T) if len(sample) > 1 else np.eye(THUMBNAIL**2))[
        1
    ]
    return axes[:, -_DIMENSIONS:]


def _projected(
    thumbnails: NDArray[np.uint8], axes: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the rows of the thumbnails that are not blank, (M,), and their projections, (M, 10)."""
    rows, points = [np.empty(0, dtype=np.int64)], [np.empty((0, _DIMENSIONS))]
    for start in range(0, len(thumbnails), _BLOCK):
        uneven, unit = _uneven(thumbnails[start : start + _BLOCK])
        rows.append(start + uneven)
        points.append(unit @ axes)
    return np.concatenate(rows), np.concatenate(points)


class _Candidates:
    """Compares pairs of thumbnails of `near_matches`."""

    def __init__(
        self,
        earlier: NDArray[np.uint8],
        later: NDArray[np.uint8],
        same: tuple[NDArray[np.int64], NDArray[np.int64]],
    ) -> None:
        self._earlier, self._later = (each.reshape(len(each), THUMBNAIL**2) for each in (earlier, later))
        self._same = same

    def first(self, rows: NDArray[np.int64], second: int) -> int:
        """Return the first of some rows of `earlier` that looks like image `second` of `later`; −1: none."""
        rows = rows[self._same[0][rows] != self._same[1][second]]
        other = self._later[second]
        start, length = 0, 1
        while start < len(rows):
            part = rows[start : start + length]
            for row in part[_correlations(self._earlier[part], other) > NEAR_CORRELATION - 1e-6].tolist():
                if _near(self._earlier[row], other):
                    return row
            start, length = start + length, min(_BLOCK, length * _GROWTH)
        return -1


def _correlations(thumbnails: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the correlation of each thumbnail, (M, 256), with another one, (256,); none is blank."""
    # Sums of 256 products of bytes are below 2²⁴: exact in float32, in any order.
    x, y = thumbnails.astype(np.float32), other.astype(np.float32)
    n = len(y)
    sums, squares = (values.astype(np.float64) for values in (x.sum(1), np.einsum("mi,mi->m", x, x)))
    total, square = float(y.sum()), float(y @ y)
    covariances = n * (x @ y).astype(np.float64) - sums * total
    return covariances / np.sqrt((n * squares - sums**2) * (n * square - total**2))


def _near(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> bool:
    """Decide in integers, equal on every machine: r² ≥ t², with r = (n·Σab − Σa·Σb) / √(…a…·…b…)."""
    x, y = a.astype(np.int64), b.astype(np.int64)
    n = len(x)
    covariance = int(n * (x @ y) - x.sum() * y.sum())
    variances = int(n * (x @ x) - x.sum() ** 2) * int(n * (y @ y) - y.sum() ** 2)
    return covariance > 0 and covariance**2 >= NEAR_CORRELATION**2 * variances
