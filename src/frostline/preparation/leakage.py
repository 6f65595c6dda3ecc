"""Images of the source that the target is measured on: pretraining would have seen the answers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.console.errors import FrostlineError
from frostline.data.prepared.index import PreparedData
from frostline.data.reading.checks import some
from frostline.preparation.duplicates import NEAR_MIN_SIDE, THUMBNAIL, near_matches, pixel_digest, thumbnail

HASHES_FILE = "hashes.npy"
"""Hash of the pixels and thumbnail of each image, beside the index of a data set of files."""
_HASHES = np.dtype([("pixels", "S16"), ("thumbnail", "u1", (THUMBNAIL, THUMBNAIL))])


def hashes(digests: list[bytes], thumbnails: NDArray[np.uint8]) -> NDArray[Any]:
    """Return (N,) records of the first 16 bytes of each pixel hash, and of the thumbnail."""
    table = np.zeros(len(digests), dtype=_HASHES)
    # Hexadecimal would not fit; the last byte is made odd, since numpy drops zeros at the end of text.
    table["pixels"] = [digest[:15] + bytes([digest[15] | 1]) for digest in digests]
    table["thumbnail"] = thumbnails
    return table


def read_hashes(data: PreparedData) -> NDArray[Any]:
    """Return the records of a prepared data set; those of arrays are computed."""
    if data.index.storage == "files":
        path = data.folder / HASHES_FILE
        try:
            table: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            raise FrostlineError(f"{path} is missing or damaged: run prepare again") from None
        if len(table) != len(data.index) or table.dtype != _HASHES:
            raise FrostlineError(f"{path} doesn't belong to the index beside it: run prepare again")
        return table
    images = data.index.images(data.folder)
    searched = min(images.shape[1:3]) >= NEAR_MIN_SIDE
    thumbnails = np.zeros((len(images), THUMBNAIL, THUMBNAIL), dtype=np.uint8)
    if searched:
        for row, pixels in enumerate(images):
            thumbnails[row] = thumbnail(Image.fromarray(pixels))
    return hashes([pixel_digest(pixels) for pixels in images], thumbnails)


@dataclass(frozen=True)
class _Part:
    """Images of one data set that may have leaked, or that may have been seen."""

    data: PreparedData
    name: str
    rows: NDArray[np.int64]
    """Positions in the index."""
    keys: list[str]
    splits: list[str]
    table: NDArray[Any]


@dataclass(frozen=True)
class NearDuplicates:
    """Images on which the target is measured that look like images of the source."""

    warning: str
    """A sentence."""
    measured: PreparedData
    """The target, or a further test set."""
    pairs: list[tuple[int, int]]
    """Positions in the indexes of the source and of `measured`."""


def check_source(source: PreparedData, target: PreparedData) -> list[NearDuplicates]:
    """Compare what a pretraining reads with what the target is measured on.

    Source images in train must not be in the target's val, test or further test sets, and those in val not in
    its test and further test sets. The same images in both train splits are no leak.

    Returns:
        The near-duplicates, per data set and further test set that has any.

    Raises:
        FrostlineError: an image of the source is one that the target is measured on; names the images.
    """
    seen = _part(source, ("train", "val"))
    measured = [_part(target, ("val", "test"))]
    measured += [_part(data, ("test",), name) for name, data in target.test_sets().items()]
    found = []
    for part in measured:
        if same := list(_identical(seen, part)):
            what = "image that is" if len(same) == 1 else "images that are"
            raise FrostlineError(
                f"source: {source.index.name} has {len(same)} {what} also in {part.name}, on which the "
                f"target is measured: {some(same)}; remove them from the source, or choose another source"
            )
        if pairs := list(_alike(seen, part)):
            named = some(_named(seen, *pair, part, "≈") for pair in pairs)
            images = "image of" if len(pairs) == 1 else "images of"
            found.append(
                NearDuplicates(
                    f"{len(pairs)} {images} {part.name} look like one that the pretraining on "
                    f"{source.index.name} sees, which flatters the results: {named}",
                    part.data,
                    [(int(seen.rows[first]), int(part.rows[row])) for first, row in pairs],
                )
            )
    return found


def _part(data: PreparedData, splits: tuple[str, ...], name: str = "") -> _Part:
    rows = np.flatnonzero(np.isin(data.index.splits, splits))
    return _Part(
        data,
        f"the test set {name}" if name else data.index.name,
        rows,
        [data.index.keys[row] for row in rows.tolist()],
        data.index.splits[rows].tolist(),
        read_hashes(data)[rows],
    )


def _leaks(seen: str, measured: str) -> bool:
    """Return whether an image of these splits of source and target is a leak."""
    return seen == "train" or measured == "test"


def _identical(seen: _Part, measured: _Part) -> Iterator[str]:
    place = {digest: row for row, digest in reversed(list(enumerate(seen.table["pixels"].tolist())))}
    for row, digest in enumerate(measured.table["pixels"].tolist()):
        first = place.get(digest)
        if first is not None and _leaks(seen.splits[first], measured.splits[row]):
            yield _named(seen, first, row, measured, "=")


def _alike(seen: _Part, measured: _Part) -> Iterator[tuple[int, int]]:
    nothing = np.zeros(len(seen.keys), dtype=np.int64), np.ones(len(measured.keys), dtype=np.int64)
    for first, row in near_matches(seen.table["thumbnail"], measured.table["thumbnail"], nothing):
        if _leaks(seen.splits[first], measured.splits[row]):
            yield first, row


def _named(seen: _Part, first: int, row: int, measured: _Part, sign: str) -> str:
    return f"{seen.keys[first]} ({seen.splits[first]}) {sign} {measured.keys[row]} ({measured.splits[row]})"


def write_hashes(folder: Path, table: NDArray[Any]) -> None:
    """Write `hashes.npy` into the folder of a prepared data set."""
    np.save(folder / HASHES_FILE, table, allow_pickle=False)
