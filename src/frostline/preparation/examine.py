"""Read every image of a data set once: its properties, or why it can't be used."""

import hashlib
import sys
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.base.parallel import in_order
from frostline.console.errors import OutOfResources
from frostline.console.progress import Advance, Progress, no_progress
from frostline.data.prepared.index import Index
from frostline.data.reading.bands import PLAIN, PixelFormat, decode_as
from frostline.data.reading.checks import some
from frostline.data.reading.decode import BadImage, DecodedImage, Note, printable
from frostline.data.reading.label_sets import text_of
from frostline.data.reading.source import Source
from frostline.data.reading.splits import SPLITS
from frostline.data.reading.stores import Store
from frostline.data.reading.walk import Problem
from frostline.duplicates.search import (
    NEAR_MIN_SIDE,
    THUMBNAIL,
    groups_of,
    pixel_digest,
    repeated,
    thumbnail,
)


@dataclass(frozen=True, slots=True)
class _Image:
    """An image that can be used."""

    sha256: str
    """Hash of the bytes of the file, or of the array row."""
    digest: bytes
    """Hash of the decoded pixels."""
    width: int
    height: int
    mode: str
    thumbnail: NDArray[np.uint8] | None
    """(16, 16) grey; None for images that are too small to search for near-duplicates."""
    format: str = ""
    """Pillow's name of the file's format."""
    notes: tuple[Note, ...] = ()
    """Conversions of a file's image that its owner should know about."""


class Reading:
    """The images of a source that can be used, as columns, and why others can't."""

    def __init__(self, source: Source, wanted: PixelFormat) -> None:
        self.source, self.wanted = source, wanted
        """The source, and what its files are decoded to."""
        self.rows = source.rows
        """N rows, in the source's order."""
        self.positions: NDArray[np.int64] = np.arange(len(source))
        """(N,) positions of the images in their source."""
        self.sha256: list[str] = []
        """Hashes of the bytes of the files, or of the array rows."""
        self.digests: list[bytes] = []
        """Hashes of the decoded pixels."""
        self.widths, self.heights, self.modes = array("i"), array("i"), list[str]()
        self.thumbnails: NDArray[np.uint8] = np.zeros((len(source), THUMBNAIL, THUMBNAIL), dtype=np.uint8)
        """(N, 16, 16) grey; zeros for images that are too small to search for near-duplicates."""
        self.problems: list[Problem] = list(source.problems)
        self.warnings: list[str] = list(source.warnings)

    def collect(self, results: Iterator[_Image | Problem], advance: Advance) -> None:
        """Add the results of all images of the source, in order."""
        usable, named = array("q"), defaultdict[Note, list[str]](list)
        for position, result in enumerate(results):
            advance(1)
            if isinstance(result, Problem):
                self.problems.append(result)
                continue
            key = self.rows.keys[position]
            for note in result.notes:
                named[note].append(f"{key} ({result.format})" if note == "renamed" else key)
            if result.thumbnail is not None:
                self.thumbnails[len(usable)] = result.thumbnail
            usable.append(position)
            self.sha256.append(result.sha256)
            self.digests.append(result.digest)
            self.widths.append(result.width)
            self.heights.append(result.height)
            self.modes.append(sys.intern(result.mode))
        self.thumbnails = self.thumbnails[: len(usable)]
        self._set_positions(np.array(usable, dtype=np.int64))
        for note in _SENTENCES:
            self.warnings += noted(note, named[note])

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Leave out images, by key, and record the reasons."""
        if not reasons:
            return
        kept = [i for i, key in enumerate(self.rows.keys) if key not in reasons]
        self.sha256 = [self.sha256[i] for i in kept]
        self.digests = [self.digests[i] for i in kept]
        self.modes = [self.modes[i] for i in kept]
        self.widths = array("i", [self.widths[i] for i in kept])
        self.heights = array("i", [self.heights[i] for i in kept])
        self.thumbnails = self.thumbnails[kept]
        self._set_positions(self.positions[kept])
        self.problems += [Problem(key, reason) for key, reason in reasons.items()]

    def _set_positions(self, positions: NDArray[np.int64]) -> None:
        self.positions, rows = positions, self.source.rows
        self.rows = rows if len(positions) == len(rows) else rows.take(positions)

    def picture(self, row: int) -> Image.Image:
        """Return an image to show to people."""
        if self.source.images is not None:
            return Image.fromarray(self.source.images[self.positions[row]])
        assert self.source.store is not None
        key = self.rows.keys[row]
        return decode_as(self.source.store.read(key), key, self.wanted).picture

    def index(self, name: str, kind: str, splits: NDArray[np.str_], **others: Any) -> Index:
        """Return the index of the images; `others`: further fields, and those that are not the source's."""
        rows = self.rows
        fields = {
            "classes": tuple(self.source.classes),
            "labels": rows.labels,
            "warnings": tuple(self.warnings),
        }
        return Index(
            name=name,
            kind=kind,
            storage="files" if self.source.images is None else "arrays",
            keys=list(rows.keys),
            splits=splits,
            sha256=self.sha256,
            widths=self.widths.tolist(),
            heights=self.heights.tolist(),
            modes=self.modes,
            skipped=tuple(self.problems),
            **(fields | others),
        )


def examine(
    source: Source, name: str, progress: Progress = no_progress, wanted: PixelFormat = PLAIN
) -> Reading:
    """Read and check all images of a source.

    Args:
        name: name of the data set, for `progress`.
        wanted: channels and bits that files are decoded to.
    """
    reading = Reading(source, wanted)
    if source.images is not None:
        results: Iterator[_Image | Problem] = map(_array_image, source.images)
    else:
        assert source.store is not None
        results = in_order(partial(_stored_image, source.store, wanted), source.rows.keys)
    with progress(f"reading {name}", len(source)) as advance:
        reading.collect(results, advance)
    reading.leave_out(dict(_contradictions(reading)))
    reading.problems.sort()
    return reading


def _array_image(pixels: NDArray[np.uint8]) -> _Image:
    height, width = pixels.shape[:2]
    return _Image(
        sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
        digest=pixel_digest(pixels),
        width=width,
        height=height,
        mode="L" if pixels.ndim == 2 else "RGB",
        thumbnail=thumbnail(Image.fromarray(pixels)) if min(height, width) >= NEAR_MIN_SIDE else None,
    )


def _stored_image(store: Store, wanted: PixelFormat, key: str) -> _Image | Problem:
    try:
        content = store.read(key)
        return _decoded_image(content, decode_as(content, key, wanted))
    except BadImage as bad:
        return Problem(key, bad.reason)
    except MemoryError:
        raise OutOfResources(
            f"{key}: there is no memory to examine it; close other programs, or shrink it, and run again"
        ) from None


def _decoded_image(content: bytes, decoded: DecodedImage) -> _Image:
    width, height = decoded.size
    return _Image(
        sha256=hashlib.sha256(content).hexdigest(),
        digest=pixel_digest(np.asarray(decoded.image)),
        width=width,
        height=height,
        mode=decoded.mode,
        thumbnail=thumbnail(decoded.picture) if min(width, height) >= NEAR_MIN_SIDE else None,
        format=decoded.format,
        notes=decoded.notes,
    )


def _contradictions(reading: Reading) -> Iterator[tuple[str, str]]:
    """Yield (key, reason) of images that occur with two labels, or in two given splits or folds.

    All copies with two labels are problems, since the right label is unknown. Of copies in two splits, those
    in test stay if there are any, else those in val; of copies in two folds, those in the first.
    """
    rows, classes = reading.rows, reading.source.classes
    folds = rows.folds

    def part(row: int) -> str:
        return str(rows.splits[row]) if folds is None else f"fold {folds[row]}"

    def place(row: int) -> int:
        if folds is not None:
            return -int(folds[row])
        return SPLITS.index(rows.splits[row]) if rows.splits[row] else 0

    def about(row: int) -> str:
        kind = "labels" if rows.labels.ndim == 2 else "class"
        return f"({kind} {printable(text_of(rows.labels[row], classes))!r})"

    for positions in repeated(groups_of(reading.digests)):
        copies = sorted(positions, key=place)
        last = copies[-1]
        own = part(last)
        labels = {row: rows.labels[row].tobytes() for row in copies}
        if len(set(labels.values())) > 1:
            for row in copies:
                other = next(copy for copy in copies if labels[copy] != labels[row])
                yield (
                    rows.keys[row],
                    f"{about(row)} is the same image as {rows.keys[other]} {about(other)}: keep the one with "
                    "the right label",
                )
            continue
        for row in copies:
            if part(row) != own:
                reason = f"({part(row)}) is the same image as {rows.keys[last]} ({own}): remove one of them"
                yield rows.keys[row], reason


def noted(note: Note, names: Sequence[str]) -> Iterator[str]:
    """Say in one sentence how the images `names` were converted; nothing if there are none."""
    if names:
        yield f"{len(names)} {_SENTENCES[note][len(names) > 1]}: {some(names)}"


_SENTENCES: dict[Note, tuple[str, str]] = {
    "renamed": ("image is of another format than its name says", "images are of another format than named"),
    "16-bit": (
        "image has more than 8 bits per channel, scaled to 8",
        "images have more than 8 bits per channel, scaled to 8",
    ),
    "dim": (
        "16-bit image uses less than an eighth of its range, so that 8 bits keep fewer than 32 levels "
        "(12-bit values? multiply them by 16)",
        "16-bit images use less than an eighth of their range, so that 8 bits keep fewer than 32 levels "
        "(12-bit values? multiply them by 16)",
    ),
    "opaque": (
        "image has no transparency, so that its fourth channel is 255 everywhere",
        "images have no transparency, so that their fourth channel is 255 everywhere",
    ),
    "cmyk": ("image is CMYK, converted to RGB", "images are CMYK, converted to RGB"),
}
