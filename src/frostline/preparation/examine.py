"""Read every image of a data set once: its properties, or why it can't be used."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.base.names import locate
from frostline.base.parallel import in_order
from frostline.console.errors import OutOfResources
from frostline.console.progress import Progress, no_progress
from frostline.data.reading.checks import some
from frostline.data.reading.decode import BadImage, DecodedImage, Note, decode, printable, read_bytes
from frostline.data.reading.folder import FileEntry
from frostline.data.reading.sources import ArraySource, Source
from frostline.data.reading.splits import SPLITS
from frostline.data.reading.walk import Problem
from frostline.preparation.duplicates import NEAR_MIN_SIDE, groups_of, repeated, thumbnail


@dataclass(frozen=True, slots=True)
class Row:
    """An image that can be used."""

    position: int
    """Position of the image in its source."""
    key: str
    label: int
    split: str
    """Split of the data set's own, else ''."""
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


@dataclass(frozen=True)
class Reading:
    """The images of a source, each as a row or a problem."""

    rows: list[Row]
    """In the source's order."""
    problems: list[Problem]
    """By key."""
    warnings: list[str]


def examine(source: Source, name: str, progress: Progress = no_progress) -> Reading:
    """Read and check all images of a source; `progress` shows them under the data set's `name`."""
    if isinstance(source, ArraySource):
        results: Iterator[Row | Problem] = _array_rows(source)
        problems, warnings = list[Problem](), list[str]()
    else:
        results = in_order(partial(_file_row, source.root), list(enumerate(source.files)))
        problems, warnings = list(source.problems), list(source.warnings)
    rows = []
    with progress(f"reading {name}", len(source)) as advance:
        for result in results:
            if isinstance(result, Row):
                rows.append(result)
            else:
                problems.append(result)
            advance(1)
    twice = dict(_contradictions(rows, source.classes))
    rows = [row for row in rows if row.key not in twice]
    problems += [Problem(key, reason) for key, reason in twice.items()]
    return Reading(rows, sorted(problems), [*warnings, *_notes(rows)])


def _array_rows(source: ArraySource) -> Iterator[Row]:
    count, height, width = source.images.shape[:3]
    mode = "L" if source.images.ndim == 3 else "RGB"
    digits = len(str(count - 1))
    splits = np.full(count, "") if source.splits is None else source.splits
    for i, (pixels, label, split) in enumerate(
        zip(source.images, source.labels.tolist(), splits.tolist(), strict=True)
    ):
        digest = hashlib.sha256(pixels.tobytes())
        yield Row(
            position=i,
            key=f"{i:0{digits}}",
            label=label,
            split=split,
            sha256=digest.hexdigest(),
            digest=digest.digest(),
            width=width,
            height=height,
            mode=mode,
            thumbnail=thumbnail(Image.fromarray(pixels)) if min(height, width) >= NEAR_MIN_SIDE else None,
        )


def _file_row(root: Path, numbered: tuple[int, FileEntry]) -> Row | Problem:
    position, entry = numbered
    key = entry.key
    try:
        content = read_bytes(locate(root, key), key)
        return _row(position, entry, content, decode(content, key))
    except BadImage as bad:
        return Problem(key, bad.reason)
    except MemoryError:
        raise OutOfResources(
            f"{key}: there is no memory to examine it; close other programs, or shrink it, and run again"
        ) from None


def _row(position: int, entry: FileEntry, content: bytes, decoded: DecodedImage) -> Row:
    image = decoded.image
    width, height = image.size
    return Row(
        position=position,
        key=entry.key,
        label=entry.label,
        split=entry.split,
        sha256=hashlib.sha256(content).hexdigest(),
        digest=hashlib.sha256(f"{image.mode} {width} {height} ".encode() + image.tobytes()).digest(),
        width=width,
        height=height,
        mode=decoded.mode,
        thumbnail=thumbnail(image) if min(width, height) >= NEAR_MIN_SIDE else None,
        format=decoded.format,
        notes=decoded.notes,
    )


def _contradictions(rows: Sequence[Row], classes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield (key, reason) of images that occur with two labels, or in two splits of the data set's own.

    All copies with two labels are problems, since the right label is unknown. Of copies in two splits, those
    in the last split stay: test before val, val before train.
    """
    for positions in repeated(groups_of([row.digest for row in rows])):
        copies = sorted(
            (rows[i] for i in positions), key=lambda row: SPLITS.index(row.split) if row.split else 0
        )
        first, last = copies[0], copies[-1]
        if len({row.label for row in copies}) > 1:
            for row in copies:
                other = next(copy for copy in copies if copy.label != row.label)
                yield (
                    row.key,
                    f"(class {printable(classes[row.label])!r}) is the same image as {other.key} "
                    f"(class {printable(classes[other.label])!r}): keep the one with the right label",
                )
        elif first.split != last.split:
            for row in copies:
                if row.split != last.split:
                    yield (
                        row.key,
                        f"({row.split}) is the same image as {last.key} ({last.split}): remove one of them",
                    )


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one sentence per kind of note."""
    renamed = {row.key: f"{row.key} ({row.format})" for row in rows if "renamed" in row.notes}
    for note in _SENTENCES:
        names = [row.key for row in rows if note in row.notes]
        yield from noted(note, [renamed[name] for name in names] if note == "renamed" else names)


def noted(note: Note, names: Sequence[str]) -> Iterator[str]:
    """Say in one sentence how the images `names` were converted; nothing if there are none."""
    if names:
        yield f"{len(names)} {_SENTENCES[note][len(names) > 1]}: {some(names)}"


_SENTENCES: dict[Note, tuple[str, str]] = {
    "renamed": ("image is of another format than its name says", "images are of another format than named"),
    "16-bit": (
        "image has more than 8 bits a channel, scaled to 8",
        "images have more than 8 bits a channel, scaled to 8",
    ),
    "dim": (
        "16-bit image reaches no eighth of its range, so that 8 bits keep fewer than 32 levels of it "
        "(12-bit values? multiply them by 16)",
        "16-bit images reach no eighth of their range, so that 8 bits keep fewer than 32 levels of them "
        "(12-bit values? multiply them by 16)",
    ),
    "cmyk": ("image is CMYK, converted to RGB", "images are CMYK, converted to RGB"),
}
