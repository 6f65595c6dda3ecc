"""Data sets of image files that a table lists, with their labels and other properties in columns."""

import difflib
import os
import shlex
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from frostline import schema
from frostline.base.names import locate, nfc
from frostline.console.errors import FrostlineError, allowed
from frostline.console.progress import Progress, no_progress
from frostline.data.reading import label_sets
from frostline.data.reading.bands import IMAGE_SUFFIXES
from frostline.data.reading.checks import some
from frostline.data.reading.decode import printable, unreadable
from frostline.data.reading.folder import SPLIT_FOLDERS
from frostline.data.reading.rows import Rows
from frostline.data.reading.source import Source
from frostline.data.reading.splits import SPLITS
from frostline.data.reading.stores import FolderStore
from frostline.data.reading.table_file import TableFile, open_table
from frostline.data.reading.table_paths import Links, TablePaths, path_order
from frostline.data.reading.walk import Problem

OPTIONAL = ("split", "group", "fold", "weight")
"""Columns that a table may have under these names."""
WORDS = {
    "image": ("image", "img", "file", "path", "picture", "photo", "scan"),
    "label": ("label", "class", "target", "category", "diagnos", "species"),
}
"""Role → words in the names that tables have for its column, the most telling first."""
Columned = schema.Table | schema.HuggingFace | schema.Npz

_NO_LABEL = "has no label: give it one, or remove the row"

_FOLD_DIGITS = 9
"""Maximum number of digits of a fold's number."""

_CHUNK = 4096
"""Rows between two updates of the progress."""

_LONG = 50_000
"""Rows of a table that takes so long to read that its progress is shown."""


def root_of(dataset: schema.Table) -> Path:
    """Return the folder that the paths of a table start from."""
    root = Path(dataset.file).parent if dataset.root is None else Path(dataset.root)
    return root.expanduser()


def read(dataset: schema.Table, progress: Progress) -> Source:
    """Read a table and look for its images, without reading them.

    Rows are sorted by split, class and path, as `folder.scan` lists files: the order in the table influences
    nothing, and the same images in class folders are the same data set.

    Raises:
        FrostlineError: the file is no table, lacks a column, or has a value that is not allowed. Rows that
            can't be used don't raise an error; they are in `problems`.
    """
    place = f"dataset.file: {dataset.file}"
    wanted = dataset.columns
    expected = (wanted.image, *(wanted.labels or [wanted.label]))
    table = open_table(Path(dataset.file).expanduser(), place, expected)
    table = replace(table, lists=schema.is_multi_label(dataset))
    columns = used_columns(dataset, table.columns, place)
    reader = _Reader(table, dataset, place, frozenset(columns), TablePaths(root_of(dataset)))
    shown = progress if table.length >= _LONG else no_progress
    with shown(f"reading {PurePath(dataset.file).name}", table.length) as advance:
        done = 0
        names = [*columns.values(), *(wanted.labels or ())]
        for line, cells in table.records(names):
            reader.add(line, dict(zip(columns, cells, strict=False)), cells[len(columns) :])
            done += 1
            if done % _CHUNK == 0:
                advance(_CHUNK)
        advance(done % _CHUNK)
    if not done:
        raise FrostlineError(f"{place} has a header and no rows: it needs one per image")
    return reader.source()


def used_columns(dataset: Columned, present: Sequence[str], place: str) -> dict[str, str]:
    """Return {role: column} of the columns that a data set uses.

    An optional column of the usual name may be missing. Folds are used with `dataset.folds`.

    Raises:
        FrostlineError: a column is missing; names the nearest ones.
    """
    wanted = dataset.columns
    used = {role: name for role, name in wanted.model_dump(exclude={"labels"}).items() if name is not None}
    if dataset.group is not None:
        used["group"] = dataset.group
    if dataset.folds is None:
        used.pop("fold", None)
    for name in wanted.labels or ():
        if name not in present:
            raise FrostlineError(
                f"{place} has no column {name!r} (dataset.columns.labels); "
                f"{allowed(name, map(printable, present))}"
            )
    if wanted.labels is not None:
        del used["label"]
    for role, name in list(used.items()):
        if name in present:
            continue
        key = "dataset.group" if role == "group" and dataset.group is not None else f"dataset.columns.{role}"
        if role in OPTIONAL and name == role and key != "dataset.group":
            del used[role]
            continue
        if row := [cell for cell in present if PurePath(cell).suffix.lower() in IMAGE_SUFFIXES]:
            raise FrostlineError(
                f"{place} begins with a row ({some(row)}): its first line must name the columns, such as "
                f"{dataset.columns.image},{dataset.columns.label}"
            )
        near = [printable(column) for column in _near(role, name, present)]
        fix = shlex.quote(f"{key}={near[0]}") if near else f"{key}=COLUMN"
        if role == "label" and dataset.task == "multi_label":
            fix += ", or for a column of 0 and 1 per class 'dataset.columns.labels=[COLUMN,COLUMN]'"
        raise FrostlineError(
            f"{place} has no column {name!r} ({key}); {allowed(name, map(printable, present), near=near)}; "
            f"set {fix}"
        )
    return used


def _near(role: str, name: str, present: Sequence[str]) -> list[str]:
    """Return the columns that may be meant by a missing one.

    For a default name, such as `image`, those that contain one of the role's `WORDS`; for any other, those
    that are spelled similarly.
    """
    if name.lower().rstrip("s") == role:
        found = (column for word in WORDS.get(role, ()) for column in present if word in column.lower())
        return list(dict.fromkeys(found))[:3]
    return difflib.get_close_matches(name, present, n=3)


def fold_number(text: str, where: str) -> int:
    """Return the number of a fold.

    Raises:
        FrostlineError: the text is not a whole number from 0; `where` names the row.
    """
    if not text.strip().isdecimal() or len(text.strip()) > _FOLD_DIGITS:
        raise FrostlineError(f"{where} has the fold {printable(text)!r}; write a whole number from 0")
    return int(text)


def weight_number(text: str, where: str) -> float:
    """Return the weight of an image.

    Raises:
        FrostlineError: it is no number; `where` names the row.
    """
    try:
        return float(text)
    except ValueError:
        raise FrostlineError(
            f"{where} has the weight {printable(text)!r}; write a number such as 0.5"
        ) from None


def class_numbers(given: Sequence[str] | None, found: Sequence[str], place: str) -> dict[str, int]:
    """Return {class name: number}: in the order of `dataset.classes`, or sorted by name.

    Raises:
        FrostlineError: a class is found that is not among the given ones.
    """
    if given is None:
        return {name: number for number, name in enumerate(sorted(found))}
    numbers = {nfc(name): number for number, name in enumerate(given)}
    for name in found:
        if name not in numbers:
            raise FrostlineError(
                f"{place} has the label {printable(name)!r}, which is not in dataset.classes; "
                f"{allowed(name, numbers)}"
            )
    return numbers


@dataclass
class _Reader:
    """Collects the rows of a table, and what is wrong with them."""

    table: TableFile
    dataset: schema.Table
    place: str
    roles: frozenset[str]
    """The roles whose columns are used: image, label, …"""
    paths: TablePaths
    keys: list[str] = field(default_factory=list)
    lines: array = field(default_factory=lambda: array("q"))
    columns: dict[str, array] = field(
        default_factory=lambda: {name: array("q") for name in ("label", "split", "group")}
    )
    """Column → the code of each row's value."""
    codes: dict[str, dict[str, int]] = field(
        default_factory=lambda: {"label": {}, "split": {"": 0, "train": 1, "val": 2, "test": 3}, "group": {}}
    )
    """Column → {value: its code}."""
    weights: array = field(default_factory=lambda: array("d"))
    folds: array = field(default_factory=lambda: array("q"))
    problems: list[Problem] = field(default_factory=list)
    row_of: dict[str, int] = field(default_factory=dict)
    contradicted: set[int] = field(default_factory=set)
    vectors: label_sets.VectorCheck = field(init=False)

    def __post_init__(self) -> None:
        self.vectors = label_sets.VectorCheck(self.place)

    def add(self, line: int, cells: Mapping[str, str], marks: Sequence[str] = ()) -> None:
        """Add a row of {role: cell} and `dataset.columns.labels`' cells, or record why it can't be used."""
        where = f"{self.table.unit} {line}"
        key, reason = self.paths.key(cells["image"])
        label = self._label_set(cells, marks, where) if self.several else nfc(cells["label"].strip())
        split = self._split(cells.get("split", ""), where)
        weight = weight_number(cells["weight"], f"{self.place}: {where}") if "weight" in cells else 1.0
        fold = fold_number(cells["fold"], f"{self.place}: {where}") if "fold" in cells else 0
        if not key:
            self.problems.append(Problem(where, "names no image: add its path, or remove the row"))
        elif reason:
            self.problems.append(Problem(printable(key), f"({where}) {reason}"))
        elif not label and not self.several:
            self.problems.append(Problem(key, f"({where}) {_NO_LABEL}"))
        elif (before := self.row_of.get(key)) is not None:
            self._repeated(before, label, where)
        else:
            self.row_of[key] = len(self.keys)
            self.keys.append(key)
            self.lines.append(line)
            self.weights.append(weight)
            self.folds.append(fold)
            group = nfc(cells.get("group", "").strip())
            for name, value in (("label", label), ("split", split), ("group", group)):
                codes = self.codes[name]
                self.columns[name].append(codes.setdefault(value, len(codes)))

    def source(self) -> Source:
        """Return the data set of the usable rows, sorted."""
        if self.problems and not self.keys:
            key, reason = self.problems[0]
            raise FrostlineError(
                f"{self.place}: none of its {len(self.problems)} rows can be used: {printable(key)} {reason}"
            )
        texts = list(self.codes["label"])
        self.vectors.finish()
        self._check_task(texts)
        numbers = class_numbers(self.dataset.classes, self._class_names(texts), self.place)
        label_codes = np.array(self.columns["label"], dtype=np.int64)
        labels: NDArray[np.integer]
        if self.several:
            labels = label_sets.matrix(texts, numbers)[label_codes]
        else:
            labels = np.array([numbers[name] for name in texts], dtype=np.int64)[label_codes]
        splits, groups = (
            np.array(list(self.codes[name]), dtype=np.str_)[np.array(self.columns[name], dtype=np.int64)]
            for name in ("split", "group")
        )
        usable = self._existing()
        weights = np.array(self.weights)
        rows = Rows(
            self.keys,
            labels,
            splits,
            groups if "group" in self.roles else None,
            np.array(self.folds) if "fold" in self.roles else None,
            weights if "weight" in self.roles else None,
        )
        order = np.array(sorted(usable, key=[path_order(key) for key in self.keys].__getitem__), dtype=int)
        ranks = np.array(self.columns["split"], dtype=np.int64)
        order = order[np.lexsort((ranks[order],) if self.several else (labels[order], ranks[order]))]
        classes = sorted(numbers, key=numbers.__getitem__)
        return Source(
            classes,
            rows.take(order),
            store=FolderStore(root_of(self.dataset)),
            problems=sorted(self.problems),
            warnings=[*self._notes(texts), *self._weight_notice(weights)],
        )

    @property
    def several(self) -> bool:
        """Whether an image may have any number of labels; its label is then a text of `label_sets`."""
        return self.table.lists

    def _label_set(self, cells: Mapping[str, str], marks: Sequence[str], where: str) -> str:
        columns = self.dataset.columns.labels
        if columns is not None:
            named = dict(zip(columns, marks, strict=True))
            return label_sets.joined(label_sets.marked(named, f"{self.place}: {where}"))
        try:
            items = label_sets.items(cells["label"])
            self.vectors.add(items)
            return label_sets.joined(label_sets.distinct(items))
        except ValueError as error:
            raise FrostlineError(
                f"{self.place}: {where} has the labels {printable(cells['label'])!r} ({error}); write names "
                'separated by ";" or "|", or a JSON list such as ["cat", "dog"]'
            ) from None

    def _class_names(self, texts: Sequence[str]) -> list[str]:
        """Return the names of the classes that occur, and of all columns `dataset.columns.labels`."""
        if not self.several:
            return list(texts)
        columns = map(nfc, self.dataset.columns.labels or ())
        return list(dict.fromkeys([*columns, *label_sets.names_in(texts)]))

    def _split(self, text: str, where: str) -> str:
        name = text.strip()
        split = SPLIT_FOLDERS.get(name.lower(), name)
        if split not in self.codes["split"]:
            raise FrostlineError(
                f"{self.place}: {where} has the split {printable(name)!r}; {allowed(name.lower(), SPLITS)}"
            )
        return split

    def _repeated(self, before: int, label: str, where: str) -> None:
        """Record an image that is listed again; one with two labels is not used at all."""
        key, first = self.keys[before], f"{self.table.unit} {self.lines[before]}"
        codes = self.codes["label"]
        if codes.get(label) == self.columns["label"][before]:
            self.problems.append(Problem(key, f"({where}) is in {first} already: remove one of them"))
            return
        self.contradicted.add(before)
        other = next(name for name, code in codes.items() if code == self.columns["label"][before])
        self.problems.append(
            Problem(
                key,
                f"({where}) has the label {printable(label)!r}, and in {first} {printable(other)!r}: keep "
                "the right one",
            )
        )

    def _existing(self) -> list[int]:
        """Return the rows whose images exist; record the others."""
        root = self.paths.root
        base, links, missing = os.path.realpath(root), Links(root), list[int]()
        usable = list[int]()
        for row, key in enumerate(self.keys):
            if row in self.contradicted:
                continue
            try:
                mode = os.lstat(f"{base}/{key}").st_mode
            except OSError as error:
                path = locate(root, key)
                if not os.path.lexists(path):
                    missing.append(row)
                    reason = self.paths.meant(key) or unreadable(path, error)
                    self.problems.append(Problem(key, f"({self.table.unit} {self.lines[row]}) {reason}"))
                    continue
                mode = os.lstat(path).st_mode
            if reason := links.fault(key, mode):
                self.problems.append(Problem(key, reason))
            else:
                usable.append(row)
        if missing and len(missing) == len(self.keys):
            raise FrostlineError(f"{self.place}: {self.paths.nothing_there(self.keys)}")
        return usable

    def _notes(self, texts: Sequence[str]) -> Iterator[str]:
        # Names in `dataset.classes` are confirmed.
        unconfirmed = self._class_names(texts) if self.dataset.classes is None else []
        return label_sets.notes(unconfirmed, self.codes["group"], several=self.several)

    def _check_task(self, texts: Sequence[str]) -> None:
        """Refuse a table with one label per image in which some look like lists and others are missing.

        It probably has several labels per image.
        """
        empty = sum(reason.endswith(_NO_LABEL) for _, reason in self.problems)
        if self.several or self.dataset.classes is not None or self.dataset.on_bad_image == "skip":
            return
        if empty and (name := label_sets.like_list(texts)):
            rows = "a row has none" if empty == 1 else f"{empty} rows have none"
            raise FrostlineError(
                f"{self.place} has labels such as {printable(name)!r}, and {rows}: if images may have "
                "several, or none, set dataset.task=multi_label and loss=bce"
                f"{label_sets.separators_for(name)}; if not, give each image one label"
            )

    def _weight_notice(self, weights: np.ndarray) -> Iterator[str]:
        """Say that the column `weight` is used, which may have been meant for something else."""
        if "weight" in self.roles and self.dataset.columns.weight == "weight" and len(weights):
            yield (
                f"the column 'weight' ({weights.min():g} to {weights.max():g}) sets the weights of images "
                "in the training loss (dataset.columns.weight=null ignores it)"
            )
