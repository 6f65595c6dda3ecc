"""A source of images, checked: what `prepare` reads, whatever kind of data set it is."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from frostline.base.names import nfc
from frostline.console.errors import FrostlineError
from frostline.data.reading.checks import (
    check_classes,
    check_columns,
    check_count,
    check_groups,
    check_images,
    check_keys,
    check_rows,
    check_split_names,
)
from frostline.data.reading.rows import Rows, numbered
from frostline.data.reading.stores import FolderStore, Store
from frostline.data.reading.walk import Problem


@dataclass(frozen=True)
class ArraySource:
    """A data set in memory, as a plug-in gives it."""

    images: NDArray[np.uint8]
    """(N, H, W) grey or (N, H, W, 3) RGB, 0…255."""
    labels: NDArray[np.integer]
    """(N,), 0…C−1; with `dataset.task=multi_label` (N, C), 1 where the image has the label, else 0."""
    classes: Sequence[str]
    """C names."""
    splits: NDArray[np.str_] | None = None
    """(N,) of 'train', 'val' and 'test', if the data set has splits of its own."""
    groups: NDArray[np.str_] | None = None
    """(N,), names of groups that are never divided between splits."""
    folds: NDArray[np.int64] | None = None
    """(N,), numbers of folds from 0."""
    weights: NDArray[np.float64] | None = None
    """(N,), weights of the images in the training loss, ≥ 0."""
    warnings: Sequence[str] = ()
    """Messages for the user, one sentence each."""


class FileEntry(NamedTuple):
    """An image file of a data set."""

    key: str
    """Path below the root, with '/' between folders."""
    label: int
    """Number of its class."""
    split: str
    """'train', 'val' or 'test' where the data set has splits of its own, else ''."""
    group: str = ""
    """Name of its group, which is never divided between splits; '' if the data set has no groups."""
    weight: float = 1.0
    """Its weight in the training loss, ≥ 0."""


@dataclass(frozen=True)
class FileSource:
    """A data set of image files, as a plug-in gives it."""

    root: Path
    """Folder that the files' keys are relative to."""
    classes: Sequence[str]
    """C names."""
    files: Sequence[FileEntry]
    problems: Sequence[Problem] = ()
    """Files that can't be used, and why."""
    warnings: Sequence[str] = ()
    """Messages for the user, one sentence each."""


@dataclass(frozen=True, eq=False)
class Source:
    """N images in C classes: their rows, and the arrays or the store that hold the images."""

    classes: Sequence[str]
    rows: Rows
    images: NDArray[np.uint8] | None = None
    """(N, H, W) grey or (N, H, W, 3) RGB, 0…255, of a data set in memory."""
    store: Store | None = None
    """The encoded images of any other data set."""
    problems: Sequence[Problem] = ()
    """Images that can't be used, and why; they are not among the rows."""
    warnings: Sequence[str] = ()
    """Messages for the user, one sentence each."""

    def __len__(self) -> int:
        return len(self.rows)

    def identity(self) -> str:
        """Return a hash of all that `prepare` reads: of arrays by content, of files by size and times."""
        rows = self.rows
        if self.images is not None:
            digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
            digest.update(np.ascontiguousarray(rows.labels).data)
            own = [split for split in rows.splits.tolist() if split]
            about: list[Any] = [self.images.shape, list(self.classes), own]
        else:
            assert self.store is not None
            digest = hashlib.sha256()
            columns = zip(rows.keys, rows.labels.tolist(), rows.splits.tolist(), strict=True)
            stamps = [[*row, *self.store.stamp(row[0])] for row in columns]
            about = [self.store.place, list(self.classes), stamps, list(self.problems), list(self.warnings)]
        extra = [column for column in (rows.groups, rows.folds, rows.weights) if column is not None]
        digest.update(json.dumps([*about, *(column.tolist() for column in extra)]).encode())
        return digest.hexdigest()


def checked(given: Any, place: str, *, several: bool = False, further_test: bool = False) -> Source:
    """Return what a kind of data set or a plug-in gives as a `Source`.

    Args:
        given: a `Source`, `FileSource` or `ArraySource`, or any object with the fields of the latter.
        place: names the data set.
        several: whether an image may have any number of labels.
        further_test: whether it is a further test set: one class is enough, and if it has a test split, the
            other splits are ignored.

    Raises:
        FrostlineError: it is not a data set; says what to change.
    """
    if isinstance(given, FileSource):
        source = _of_files(given)
    elif isinstance(given, Source):
        source = given
    else:
        source = _of_arrays(given, place, several=several)
    if further_test:
        source = _tests_of(source, place)
    try:
        check_count(source.classes, place, 1 if further_test else 2)
    except FrostlineError as error:
        if not source.problems:
            raise
        raise FrostlineError(f"{error}; also, {source.problems[0].key} {source.problems[0].reason}") from None
    if isinstance(source.warnings, str):
        raise FrostlineError(f"{place} has warnings {source.warnings!r}, a string; give a list of sentences")
    check_classes(source.classes, place)
    classes, rows = tuple(map(nfc, source.classes)), source.rows
    if further_test:
        classes, rows = _occurring(classes, rows)
    if source.store is not None:
        check_keys(rows.keys, place)
    # Missing classes are checked after problems are reported or skipped: they may explain each other.
    if not source.problems:
        check_rows(rows, classes, place)
    check_columns(rows, place)
    check_groups(rows, place)
    return Source(classes, rows, source.images, source.store, source.problems, source.warnings)


def _tests_of(source: Source, place: str) -> Source:
    """Return the test split of a further test set, or all of it, as a data set without splits."""
    check_split_names(source.rows.splits, place, further_test=True)
    tests = np.flatnonzero(source.rows.splits == "test")
    if len(tests):
        images = None if source.images is None else source.images[tests]
        source = replace(source, rows=source.rows.take(tests), images=images)
    return replace(source, rows=replace(source.rows, splits=np.full(len(source), "")))


def _occurring(classes: tuple[str, ...], rows: Rows) -> tuple[tuple[str, ...], Rows]:
    """Return the classes that occur, since a test set may lack some, and the rows with their numbers."""
    labels = rows.labels
    if labels.ndim == 2:
        present = np.flatnonzero(labels.any(axis=0))
        kept = labels[:, present]
    else:
        present, positions = np.unique(labels, return_inverse=True)
        kept = positions.astype(labels.dtype)
    out_of_range = labels.ndim == 1 and (not len(present) or present[0] < 0 or present[-1] >= len(classes))
    if out_of_range:  # `check_rows` says so
        return classes, rows
    return tuple(classes[number] for number in present.tolist()), replace(rows, labels=kept)


def _of_files(given: FileSource) -> Source:
    files = list(given.files)
    grouped, weighted = any(entry.group for entry in files), any(entry.weight != 1 for entry in files)
    rows = Rows(
        keys=[entry.key for entry in files],
        labels=np.array([entry.label for entry in files], dtype=np.int64),
        splits=np.array([entry.split for entry in files], dtype=np.str_),
        groups=np.array([entry.group for entry in files], dtype=np.str_) if grouped else None,
        weights=np.array([entry.weight for entry in files], dtype=np.float64) if weighted else None,
    )
    store = FolderStore(Path(given.root))
    return Source(given.classes, rows, None, store, given.problems, given.warnings)


def _column(name: str, given: NDArray[Any], kind: type[Any], place: str) -> NDArray[Any]:
    """Return a column of an `ArraySource` as `kind`; a group that is NaN is '', which stands for none."""
    found = given.dtype.kind
    numbers = {np.int64: "iu", np.float64: "iuf"}.get(kind)
    if found in "OV" or (numbers is not None and found not in numbers):
        wanted = {np.int64: "whole numbers", np.float64: "numbers"}.get(kind, "text or numbers")
        raise FrostlineError(f"{place} has {name} of type {given.dtype}; give {wanted}")
    column: NDArray[Any] = given.astype(kind)
    if numbers is None and found == "f":
        column[np.isnan(given)] = ""
    return column


_COLUMNS = {"splits": np.str_, "groups": np.str_, "folds": np.int64, "weights": np.float64}


def _of_arrays(given: Any, place: str, *, several: bool) -> Source:
    if missing := [name for name in ("images", "labels", "classes") if not hasattr(given, name)]:
        raise FrostlineError(
            f"{place} gave a {type(given).__name__} without {', '.join(missing)}; give an ArraySource or a "
            "FileSource of frostline.data.reading.sources"
        )
    images, labels = np.asarray(given.images), np.asarray(given.labels)
    classes = tuple(str(name) for name in given.classes)
    check_images(images, place)
    expected = (len(images), len(classes)) if several else images.shape[:1]
    if labels.shape != expected or labels.dtype.kind not in "iu" or (several and labels.max() > 1):
        wanted = "0 or 1 per image and class" if several else "one integer per image"
        raise FrostlineError(
            f"{place} has {len(images)} images and labels of shape {labels.shape} and type {labels.dtype}; "
            f"give {wanted}"
        )
    columns: dict[str, Any] = {"splits": np.full(len(labels), "")}
    for name, kind in _COLUMNS.items():
        if (column := getattr(given, name, None)) is not None:
            columns[name] = _column(name, np.asarray(column), kind, place)
            if columns[name].shape != images.shape[:1]:
                raise FrostlineError(
                    f"{place} has {len(images)} images and {name} of shape {columns[name].shape}; give one "
                    "per image"
                )
    labels = labels.astype(np.uint8 if several else np.int64)
    rows = Rows(numbered(len(labels)), labels, **columns)
    return Source(classes, rows, images, warnings=getattr(given, "warnings", ()))
