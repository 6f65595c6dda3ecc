"""The index of a prepared data set: key, label, split and hash of each image."""

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline import schema
from frostline.base.files import write_bytes, write_text
from frostline.base.formats import canonical_json, csv_rows, csv_text, read_json
from frostline.base.names import LABEL_SEPARATOR
from frostline.console.errors import FrostlineError
from frostline.data.reading.bands import PLAIN, PixelFormat, decode_as
from frostline.data.reading.checks import check_keys
from frostline.data.reading.decode import DecodedImage
from frostline.data.reading.label_sets import matrix, text_of
from frostline.data.reading.sources import store_of
from frostline.data.reading.splits import SPLITS, take_fraction, take_shots
from frostline.data.reading.test_sets import further_tests
from frostline.data.reading.walk import Problem

FORMAT = 1
"""Version of the files; a stage refuses an index of another version."""

MULTI_LABEL = "multi_label"
"""`task` in dataset.json, if an image may have any number of labels."""
INDEX_FILE, SUMMARY_FILE, IMAGES_FILE = "index.csv", "dataset.json", "images.npy"
TEST_SETS = "test_sets"
"""Folder of the further test sets' indexes, one folder each, beside the index of their data set."""
_COLUMNS = ("key", "label", "split", "sha256", "width", "height", "mode")
_DISTINCT = ("key", "sha256")
"""Columns whose cells are mostly distinct."""
_BLOCK = 1 << 14
"""Rows that are hashed at once; limits memory."""


@dataclass(frozen=True, eq=False)
class Index:
    """A prepared data set: N images in C classes."""

    name: str
    kind: str
    """The kind of its config: mnist5k, image_folder, …"""
    storage: Literal["arrays", "files"]
    """arrays: row i of images.npy beside the index is image i; files: image files below the root."""
    classes: tuple[str, ...]
    keys: list[str]
    """Path below the root, with '/' between folders, or the zero-padded row number in the source."""
    labels: NDArray[np.integer]
    """(N,) int64, 0…C−1; with several labels per image (N, C) uint8, 1 where the image has the label."""
    splits: NDArray[np.str_]
    """(N,), 'train', 'val' or 'test'."""
    sha256: list[str]
    """Hash of the bytes of the file, or of the array row."""
    widths: list[int]
    """Pixels, after the EXIF rotation."""
    heights: list[int]
    """Pixels, after the EXIF rotation."""
    modes: list[str]
    """Pillow's mode of the stored pixels."""
    warnings: tuple[str, ...]
    """One sentence each."""
    skipped: tuple[Problem, ...]
    """Images that `on_bad_image: skip` left out."""
    weights: NDArray[np.float64] | None = None
    """(N,), weights of the images in the training loss; None: all 1."""
    groups: NDArray[np.str_] | None = None
    """(N,), names of groups that no split divides."""
    fold_splits: NDArray[np.str_] | None = None
    """(N, K), split of each image for each fold as the test split; None: no folds."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def several_labels(self) -> bool:
        """Whether an image may have any number of labels."""
        return self.labels.ndim == 2

    def strata(self, dataset: schema.Dataset) -> NDArray[np.int64]:
        """Return the classes that a label budget is drawn from, (N,); with several labels, for shots (N, C).

        With several labels, shots are drawn for each label, but a fraction is one of all images.
        """
        if self.several_labels and dataset.shots is None:
            return np.zeros(len(self), dtype=np.int64)
        return self.labels.astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the content: sha256 of keys, labels, splits, hashes, classes and skipped keys."""
        splits = self.splits if self.fold_splits is None else self.fold_splits[:, 0]  # equal for all folds
        hashed = hashlib.sha256()
        # The JSON of [classes, rows, skipped, a list per optional column], in blocks: a million rows fit.
        hashed.update(f"[{_json(self.classes)},[".encode())
        for start in range(0, len(self), _BLOCK):
            block = slice(start, start + _BLOCK)
            parts = self.keys[block], self.labels[block].tolist(), splits[block].tolist(), self.sha256[block]
            hashed.update(("," * (start > 0) + _json(list(zip(*parts, strict=True)))[1:-1]).encode())
        hashed.update(f"],{_json([problem.key for problem in self.skipped])}".encode())
        for _, values in self._optional_columns():
            hashed.update(f",{_json(values)}".encode())
        hashed.update(b"]")
        return hashed.hexdigest()

    @cached_property
    def held_out(self) -> str:
        """The split for reported results: test, or val if there is no test split."""
        return "test" if (self.splits == "test").any() else "val"

    def digest(self, rows: NDArray[np.int64]) -> str:
        """Return the sha256 of the keys, classes and contents of some images, in their order."""
        names = [text_of(labels, self.classes) for labels in self.labels[rows]]
        content = [(self.keys[row], name, self.sha256[row]) for row, name in zip(rows, names, strict=True)]
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()

    def rows(self, split: str) -> NDArray[np.int64]:
        """Return the positions of a split's images, ascending."""
        assert split in SPLITS
        return np.flatnonzero(self.splits == split)

    def at_fold(self, fold: int | None) -> "Index":
        """Return the index with the splits that have a fold as the test split; None: as they are."""
        if fold is None:
            return self
        assert self.fold_splits is not None
        return replace(self, splits=self.fold_splits[:, fold].copy())

    def counts(self) -> dict[str, dict[str, int]]:
        """Return split → class → number of images."""
        if self.several_labels:
            sums = {split: self.labels[self.rows(split)].sum(axis=0, dtype=np.int64) for split in SPLITS}
            return {split: dict(zip(self.classes, sums[split].tolist(), strict=True)) for split in SPLITS}
        tally = Counter(zip(self.splits.tolist(), self.labels.tolist(), strict=True))
        return {split: {name: tally[split, i] for i, name in enumerate(self.classes)} for split in SPLITS}

    def write(self, folder: Path, images: NDArray[np.uint8] | None = None) -> None:
        """Write index.csv, dataset.json and, for arrays, images.npy; equal indexes give equal bytes.

        Args:
            images: (N, H, W) or (N, H, W, 3), in the order of the index; None if `storage` is files.
        """
        assert (images is not None) == (self.storage == "arrays")
        more = self._optional_columns()
        rows = zip(
            *(self.keys, self._label_cells(), self.splits.tolist(), self.sha256),
            *(self.widths, self.heights, self.modes),
            *(values for _, values in more),
            strict=True,
        )
        write_text(folder / INDEX_FILE, csv_text([*_COLUMNS, *(name for name, _ in more)], rows))
        write_text(folder / SUMMARY_FILE, canonical_json(self._summary()))
        if images is not None:
            stream = io.BytesIO()
            np.save(stream, np.ascontiguousarray(images), allow_pickle=False)
            write_bytes(folder / IMAGES_FILE, stream.getvalue())

    def _label_cells(self) -> list[Any]:
        """Return the column `label`: numbers of classes, or their lists as in ``0;3``."""
        if self.several_labels:
            return [LABEL_SEPARATOR.join(map(str, np.flatnonzero(row).tolist())) for row in self.labels]
        return self.labels.tolist()

    def _optional_columns(self) -> list[tuple[str, list[Any]]]:
        """Return name and values of the columns that not every data set has."""
        columns: list[tuple[str, list[Any]]] = []
        if self.weights is not None:
            columns.append(("weight", self.weights.tolist()))
        if self.groups is not None:
            columns.append(("group", self.groups.tolist()))
        if self.fold_splits is not None:
            columns += [(f"fold_{k}", splits.tolist()) for k, splits in enumerate(self.fold_splits.T)]
        return columns

    def _summary(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "kind": self.kind,
            "storage": self.storage,
            "classes": self.classes,
            **({"task": MULTI_LABEL} if self.several_labels else {}),
            "counts": self.counts(),
            "fingerprint": self.fingerprint,
            "warnings": self.warnings,
            "skipped": [problem._asdict() for problem in self.skipped],
        }

    @classmethod
    def read(cls, folder: Path) -> "Index":
        """Read the files that `write` wrote.

        Raises:
            FrostlineError: a file is missing, damaged or of another format.
        """
        summary = read_json(folder / SUMMARY_FILE)
        path = folder / INDEX_FILE
        if not isinstance(summary, dict) or summary.get("format") != FORMAT:
            raise FrostlineError(
                f"{folder / SUMMARY_FILE} is of another version of frostline: run prepare again"
            )
        if not path.is_file():
            raise FrostlineError(f"{path} is missing: run prepare again")
        damaged = f"{path} is damaged (it doesn't match {SUMMARY_FILE} beside it): run prepare again"
        try:
            index = cls._of(summary, _Columns(path))
        except (AttributeError, KeyError, OSError, TypeError, ValueError, csv.Error):
            raise FrostlineError(damaged) from None
        if index.fingerprint != summary.get("fingerprint") or index.storage not in ("arrays", "files"):
            raise FrostlineError(damaged)
        if index.storage == "arrays":
            index.images(folder)
        else:
            check_keys(index.keys, str(path))
        return index

    @classmethod
    def _of(cls, summary: dict[str, Any], columns: "_Columns") -> "Index":
        return cls(
            name=summary["name"],
            kind=summary["kind"],
            storage=summary["storage"],
            classes=tuple(summary["classes"]),
            keys=columns["key"],
            labels=_labels(columns, summary),
            splits=np.array(columns["split"], dtype="<U5"),
            sha256=columns["sha256"],
            widths=columns.numbers("width"),
            heights=columns.numbers("height"),
            modes=columns["mode"],
            warnings=tuple(summary["warnings"]),
            skipped=tuple(Problem(**problem) for problem in summary["skipped"]),
            weights=columns.optional("weight", np.float64),
            groups=columns.optional("group", np.str_),
            fold_splits=columns.fold_splits(),
        )

    def images(self, folder: Path) -> NDArray[np.uint8]:
        """Return the images, (N, H, W) or (N, H, W, 3), memory-mapped, if `storage` is arrays.

        Raises:
            FrostlineError: images.npy is missing or damaged.
        """
        path = folder / IMAGES_FILE
        try:
            images = np.lib.format.open_memmap(path, mode="r")
        except (OSError, ValueError):
            raise FrostlineError(f"{path} is missing or damaged: run prepare again") from None
        if len(images) != len(self) or images.dtype != np.uint8:
            raise FrostlineError(f"{path} doesn't belong to {INDEX_FILE} beside it: run prepare again")
        return images


class _Columns:
    """The columns of an index.csv as text; equal cells are one object, so that a million rows fit."""

    def __init__(self, path: Path) -> None:
        rows = csv_rows(path)
        names = next(rows)
        self._cells: dict[str, list[str]] = {name: [] for name in names}
        adding = [
            (cells.append, None if name in _DISTINCT else dict[str, str]())
            for name, cells in self._cells.items()
        ]
        for row in rows:
            for (add, known), cell in zip(adding, row, strict=True):
                add(cell if known is None else known.setdefault(cell, cell))

    def __getitem__(self, name: str) -> list[str]:
        return self._cells[name]

    def numbers(self, name: str) -> list[int]:
        """Return a column of whole numbers."""
        value = cache(int)
        return [value(cell) for cell in self._cells[name]]

    def optional(self, name: str, kind: type) -> NDArray[Any] | None:
        """Return an optional column; None: the index does not have it."""
        return np.array(self._cells[name]).astype(kind) if self._cells.get(name) else None

    def fold_splits(self) -> NDArray[np.str_] | None:
        """Return the columns of splits for each fold, (N, K); None: there are no folds."""
        names = [name for name in self._cells if re.fullmatch(r"fold_\d+", name)]
        if not names or not self._cells["key"]:
            return None
        return np.stack([np.array(self._cells[name], dtype="<U5") for name in names], axis=1)


def _labels(columns: _Columns, summary: dict[str, Any]) -> NDArray[np.integer]:
    """Return the labels of the column `label`."""
    if summary.get("task") == MULTI_LABEL:
        numbers = {str(number): number for number in range(len(summary["classes"]))}
        return matrix(columns["label"], numbers)
    return np.array(columns.numbers("label"), dtype=np.int64)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


@dataclass(frozen=True)
class PreparedData:
    """A prepared data set with all that its images are read from."""

    dataset: schema.Dataset
    """Its config; keys of an index of files are relative to its root."""
    index: Index
    folder: Path
    """The index's folder."""

    @classmethod
    def read(cls, dataset: schema.Dataset, folder: Path) -> Self:
        """Read the index in `folder`, with the splits of the config's fold; raises what `Index.read` does."""
        return cls(dataset, Index.read(folder).at_fold(dataset.fold), folder)

    def decoded(
        self, rows: Iterable[int], wanted: PixelFormat = PLAIN, at_least: int | None = None
    ) -> Iterator[DecodedImage]:
        """Yield the images at these positions in the index, files in the format `wanted`; see `decode_as`."""
        if self.index.storage == "arrays":
            images = self.index.images(self.folder)
            for picture in (Image.fromarray(images[row]) for row in rows):
                yield DecodedImage(picture, "", picture.mode, ())
        else:
            store = store_of(self.dataset)
            for key in (self.index.keys[row] for row in rows):
                yield decode_as(store.read(key), key, wanted, at_least)

    def test_sets(self) -> dict[str, "PreparedData"]:
        """Return the further test sets by name; all of their images are in the split test."""
        return {
            name: PreparedData.read(config, self.folder / TEST_SETS / name)
            for name, config in further_tests(self.dataset).items()
        }


def labelled_rows(index: Index, dataset: schema.Dataset, seed: int) -> NDArray[np.int64]:
    """Return the positions of the images of the training split that a run may use, ascending.

    Args:
        dataset: its `shots` or `fraction` limits the images; if both are null, all are used.
        seed: seed of the draw; for the same seed, a larger subset contains a smaller one.

    Raises:
        FrostlineError: a class has fewer training images than `shots`.
    """
    train = index.rows("train")
    labels = index.strata(dataset)[train]
    if dataset.shots is not None:
        return train[take_shots(labels, dataset.shots, seed, names=index.classes)]
    if dataset.fraction is not None:
        return train[take_fraction(labels, dataset.fraction, seed)]
    return train
