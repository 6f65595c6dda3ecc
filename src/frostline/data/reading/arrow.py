"""Data sets of Hugging Face's `datasets`, as its `save_to_disk` writes them: Arrow files and JSON.

The files are read with pyarrow, without the library `datasets`. The images are not copied: their bytes are
read from the memory-mapped files.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from frostline import schema
from frostline.base.names import nfc
from frostline.console.errors import FrostlineError, allowed
from frostline.console.progress import Progress, no_progress
from frostline.data.reading import label_sets
from frostline.data.reading.decode import BadImage, printable
from frostline.data.reading.folder import SPLIT_FOLDERS
from frostline.data.reading.label_sets import VectorCheck
from frostline.data.reading.rows import Rows, numbered
from frostline.data.reading.source import Source
from frostline.data.reading.splits import SPLITS
from frostline.data.reading.stores import stamp
from frostline.data.reading.table_file import cell_text
from frostline.data.reading.tables import (
    class_numbers,
    fold_number,
    used_columns,
    weight_number,
)

if TYPE_CHECKING:
    import pyarrow

_AS_SAVED = "give a folder that save_to_disk of Hugging Face's datasets wrote"


def read(dataset: schema.HuggingFace, progress: Progress = no_progress) -> Source:
    """Open a saved `Dataset` or `DatasetDict`; the splits of the latter are those of the data set.

    Classes are in the order of the feature `ClassLabel`, unless `dataset.classes` says otherwise.

    Raises:
        FrostlineError: the folder is no saved data set, or lacks a column.
    """
    place = f"dataset.path: {dataset.path}"
    parts = _parts(Path(dataset.path).expanduser(), place)
    columns = used_columns(dataset, next(iter(parts.values())).table.column_names, place)
    for name, part in parts.items():
        used_columns(dataset, part.table.column_names, f"{place}/{name}")
    numbers, labels = _labels(dataset, parts, columns.get("label", ""), place)
    splits = [split for split, part in parts.items() for _ in range(len(part.table))]
    if "split" in columns and "" in parts:
        splits = [SPLIT_FOLDERS.get(text.lower(), text) for text in parts[""].texts(columns["split"])]
    groups = [text for part in parts.values() for text in part.texts(columns.get("group"))]
    weights = [
        weight_number(text, place) for part in parts.values() for text in part.texts(columns.get("weight"))
    ]
    folds = [fold_number(text, place) for part in parts.values() for text in part.texts(columns.get("fold"))]
    store = ArrowStore(parts, columns["image"])
    rows = Rows(
        keys=[key for split, part in parts.items() for key in _keys(split, len(part.table))],
        labels=labels,
        splits=np.array(splits, dtype=np.str_),
        groups=np.array(groups, dtype=np.str_) if groups else None,
        folds=np.array(folds, dtype=np.int64) if folds else None,
        weights=np.array(weights) if weights else None,
    )
    classes = sorted(numbers, key=numbers.__getitem__)
    confirmed = dataset.classes or dataset.columns.labels or _class_names(parts, columns.get("label", ""))
    notes = label_sets.notes(
        [] if confirmed else classes, dict.fromkeys(groups), several=schema.is_multi_label(dataset)
    )
    return Source(classes, rows, store=store, warnings=[*notes])


def _labels(
    dataset: schema.HuggingFace, parts: Mapping[str, "_Part"], column: str, place: str
) -> tuple[dict[str, int], NDArray[np.integer]]:
    """Return {class: number}, and the labels as in `Rows`, from `column` or `dataset.columns.labels`."""
    several, marks = schema.is_multi_label(dataset), dataset.columns.labels
    if marks:
        texts = [text for part in parts.values() for text in part.marked_labels(marks, place)]
        known = [nfc(name) for name in dataset.classes or marks]
        found = [*map(nfc, marks)]
    else:
        check = VectorCheck(place)
        texts = [
            text
            for part in parts.values()
            for text in (part.label_sets(column, check) if several else part.labels(column, place))
        ]
        check.finish()
        known = dataset.classes or _class_names(parts, column)
        found = sorted(label_sets.names_in(texts) if several else set(texts))
    numbers = class_numbers(known or None, found, place)
    if several:
        return numbers, label_sets.matrix(texts, numbers)
    return numbers, np.array([numbers[text] for text in texts], dtype=np.int64)


def _class_names(parts: Mapping[str, "_Part"], column: str) -> list[str]:
    """Return the names of the `ClassLabel` of the first part; empty for other features."""
    return next(iter(parts.values())).class_names(column)


@dataclass(frozen=True, eq=False)
class _Part:
    """One saved `Dataset`: a split, or all of a data set."""

    folder: Path
    files: tuple[Path, ...]
    features: Mapping[str, Any]

    @cached_property
    def table(self) -> "pyarrow.Table":
        """Its rows, memory-mapped."""
        import pyarrow

        try:
            tables = [
                pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).read_all() for file in self.files
            ]
            return pyarrow.concat_tables(tables)
        except (pyarrow.ArrowException, OSError) as error:
            raise FrostlineError(
                f"dataset.path: {self.folder} is damaged ({error}): copy or save it again"
            ) from None

    def class_names(self, column: str) -> list[str]:
        """Return the names of a `ClassLabel`, or of a list of them; empty for other features."""
        feature = self.features.get(column) or {}
        if isinstance(feature, list):  # as old versions write [ClassLabel]
            feature = {"feature": feature[0]}
        return list(feature.get("names") or (feature.get("feature") or {}).get("names") or [])

    def texts(self, column: str | None) -> list[str]:
        """Return the values of a column as text, '' for missing ones; without a column, none."""
        if column is None:
            return []
        from pyarrow import types

        values = self.table[column]
        if types.is_nested(values.type) or types.is_binary(values.type):
            raise FrostlineError(
                f"dataset.path: {self.folder}: column {printable(column)!r} holds {values.type}; allowed: "
                "text, numbers, booleans"
            )
        return [nfc(cell_text(value)) for value in values.to_pylist()]

    def labels(self, column: str, place: str) -> list[str]:
        """Return the class name of each row."""
        names, texts = self.class_names(column), self.texts(column)
        for row, text in enumerate(texts):
            if names and text not in ("", "-1") and not (text.isdecimal() and int(text) < len(names)):
                raise FrostlineError(
                    f"{place}: row {row} of {self.folder.name} has the label {printable(text)!r}; allowed: "
                    f"0 to {len(names) - 1}, one for each name of its ClassLabel"
                )
            if text == "" or (names and text == "-1"):
                raise FrostlineError(
                    f"{place}: row {row} of {self.folder.name} has no label: give it one, or remove it"
                )
        return [nfc(names[int(text)]) for text in texts] if names else texts

    def label_sets(self, column: str, check: VectorCheck) -> list[str]:
        """Return the labels of each row as texts of `label_sets`: from lists, or cells as in tables."""
        names, texts = self.class_names(column), []
        for row, value in enumerate(self.table[column].to_pylist()):
            try:
                if isinstance(value, list):
                    value = [item for item in value if item is not None]
                    own = [names[_number(item, names)] if names else str(item) for item in value]
                    check.add(list(map(str, value)))
                else:
                    own = label_sets.items("" if value is None else str(value))
                    check.add(own)
                texts.append(label_sets.joined(label_sets.distinct(own)))
            except ValueError as error:
                raise FrostlineError(
                    f"{check.place}: row {row} of {self.folder.name} has the labels "
                    f"{printable(str(value))!r} ({error}); give it a list of names, or of a "
                    "ClassLabel's numbers"
                ) from None
        return texts

    def marked_labels(self, columns: Sequence[str], place: str) -> list[str]:
        """Return the labels of each row as texts of `label_sets`, from a column of 0 and 1 per label."""
        rows = zip(*map(self.texts, columns), strict=True)
        return [
            label_sets.joined(
                label_sets.marked(
                    dict(zip(columns, cells, strict=True)), f"{place}: row {row} of {self.folder.name}"
                )
            )
            for row, cells in enumerate(rows)
        ]


@dataclass(frozen=True, eq=False)
class ArrowStore:
    """The encoded images of saved data sets."""

    parts: Mapping[str, _Part]
    column: str

    @property
    def place(self) -> str:
        """The paths of the files, with their sizes and the times of their last changes."""
        files = [file for part in self.parts.values() for file in part.files]
        return json.dumps([[str(file.resolve()), *stamp(file)] for file in files])

    def read(self, key: str) -> bytes:
        """Return the bytes of an image."""
        split, _, row = key.rpartition("/")
        value = self.parts[split].table[self.column][int(row)].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise BadImage(key, "is not an encoded image: save the data set with a feature Image")
        return content

    def stamp(self, key: str) -> tuple[int, ...]:
        """Return nothing: `place` changes with the images."""
        return ()


def _number(item: Any, names: Sequence[str]) -> int:
    """Return the number of a class in a list of them."""
    if not isinstance(item, int) or not 0 <= item < len(names):
        raise ValueError(f"{item} is not the number of one of its {len(names)} classes")
    return item


def _keys(split: str, count: int) -> list[str]:
    return [f"{split}/{number}" if split else number for number in numbered(count)]


def _parts(folder: Path, place: str) -> dict[str, _Part]:
    """Return {split: saved data set}; the split of a `Dataset` is ''."""
    if not folder.is_dir():
        raise FrostlineError(f"{place} {'is a file' if folder.exists() else 'does not exist'}: {_AS_SAVED}")
    if not (folder / "dataset_dict.json").is_file():
        return {"": _part(folder, place)}
    parts: dict[str, _Part] = {}
    listed = _json(folder / "dataset_dict.json", place).get("splits", [])
    if not isinstance(listed, list):
        raise FrostlineError(f"{place}: dataset_dict.json is damaged: copy or save it again")
    for name in listed:
        split = SPLIT_FOLDERS.get(str(name).lower())
        if split is None or split in parts:
            raise FrostlineError(
                f"{place} has the split {printable(str(name))!r}; {allowed(str(name), SPLITS)}: rename "
                "it, and save again"
            )
        parts[split] = _part(folder / str(name), place)
    if not parts:
        raise FrostlineError(f"{place} has no splits: {_AS_SAVED}")
    return {split: parts[split] for split in SPLITS if split in parts}


def _part(folder: Path, place: str) -> _Part:
    state = _json(folder / "state.json", place)
    try:
        files = tuple(folder / Path(str(entry["filename"])).name for entry in state.get("_data_files", []))
    except (TypeError, KeyError):
        raise FrostlineError(f"{place}: state.json is damaged: copy or save it again") from None
    if missing := [file.name for file in files if not file.is_file()] or (
        [] if files else ["its .arrow file"]
    ):
        raise FrostlineError(f"{place}: {missing[0]} is missing in {folder}: copy or save it again")
    return _Part(folder, files, _json(folder / "dataset_info.json", place).get("features") or {})


def _json(path: Path, place: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FrostlineError(f"{place} has no {path.name}: {_AS_SAVED}") from None
    except (OSError, ValueError):
        raise FrostlineError(f"{place}: {path.name} is damaged: copy or save it again") from None
    if not isinstance(content, dict):
        raise FrostlineError(f"{place}: {path.name} is damaged: copy or save it again")
    return content
