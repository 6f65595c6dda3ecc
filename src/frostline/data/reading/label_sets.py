"""Several labels per image: the texts that tables have for them, and matrices of 0 and 1.

The labels of N images in C classes are (N, C) uint8, 1 where the image has the label; an image may have none.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frostline.base.names import LABEL_SEPARATOR, nfc
from frostline.console.errors import FrostlineError
from frostline.data.reading.checks import some
from frostline.data.reading.decode import printable

SEPARATORS = (LABEL_SEPARATOR, "|")
"""Between the names in a table's cell."""
NO_LABEL = "no label"
"""What people are shown for an image without a label."""
_OTHER_MARKS = (", ", ",", "+", "/", "&", " ")
"""What people also write between names; also part of names."""
_MISSING = ("nan", "none", "null", "n/a", "#n/a", "<na>", "nat")
"""What pandas, R and spreadsheets write for a missing value, in lower case."""
_TRUE, _FALSE = ("1", "1.0", "true"), ("0", "0.0", "false")


def joined(names: Sequence[str]) -> str:
    """Return one text for the names of an image's labels; '' for no label."""
    return LABEL_SEPARATOR.join(names)


def names_of(labels: NDArray[np.integer], classes: Sequence[str]) -> list[str]:
    """Return the names of an image's labels, given () the number of its class, or (C,) 0 and 1."""
    if labels.ndim == 0:
        return [classes[int(labels)]]
    return [classes[number] for number in np.flatnonzero(labels).tolist()]


def text_of(labels: NDArray[np.integer], classes: Sequence[str]) -> str:
    """Return the names of an image's labels as a text.

    Args:
        labels: () the number of its class, or (C,) 0 and 1.
        classes: C names.
    """
    return joined(names_of(labels, classes))


def listed(cell: str) -> tuple[str, ...]:
    """Return the labels in a table's cell, sorted, each once.

    The cell is a JSON list, or names separated by ``;`` or ``|``; an empty cell has no label, and a null in a
    list is none.

    >>> listed("dog; cat"), listed("cat|dog"), listed('["dog", "cat"]'), listed("")
    (('cat', 'dog'), ('cat', 'dog'), ('cat', 'dog'), ())

    Raises:
        ValueError: it begins like a JSON list, but is none, or a name contains ``;``.
    """
    return distinct(items(cell))


def items(cell: str) -> list[str]:
    """Return what a table's cell lists, as it is written; see `listed`.

    Raises:
        ValueError: it begins like a JSON list, but is none.
    """
    text = cell.strip()
    if text.startswith("["):
        names = json.loads(text)
        if not isinstance(names, list) or any(isinstance(name, list | dict) for name in names):
            raise ValueError("its items must be names")
        return [str(name) for name in names if name is not None]
    separator = next((mark for mark in SEPARATORS if mark in text), LABEL_SEPARATOR)
    return text.split(separator) if text else []


def like_list(names: Iterable[str]) -> str | None:
    """Return a class name that looks like a list of others; None: there is none.

    >>> like_list(["sea", "sea;people", "forest"]), like_list(["A|B", "C"])
    ('sea;people', None)
    """
    parts = {
        name: {part.strip() for mark in SEPARATORS if mark in name for part in name.split(mark)} or {name}
        for name in dict.fromkeys(names)
    }
    occurring = Counter(part for own in parts.values() for part in own)
    return next(
        (name for name, own in parts.items() if own != {name} and max(occurring[part] for part in own) > 1),
        _otherwise_separated(parts.keys()),
    )


def _otherwise_separated(names: Set[str]) -> str | None:
    """Return a name that looks like a list with other separators, or like Python's text of a list or set.

    Then there are fewer labels than names, and each label of a list is in another name, too; unless a comma
    and a space separate them, one of them is a name itself ('red car' and 'blue car' are no lists).
    """
    for mark in _OTHER_MARKS:
        parts = {
            name: {part.strip(" '\"") for part in name.strip("[]{}()").split(mark)} - {""} for name in names
        }
        lists = [name for name, own in parts.items() if len(own) > 1]
        occurring = Counter(part for own in parts.values() for part in own)
        if (
            lists
            and len(occurring) < len(names)
            and all(occurring[part] > 1 for name in lists for part in parts[name])
            and (mark == ", " or any(part in names for name in lists for part in parts[name]))
        ):
            return lists[0]
    return None


@dataclass
class VectorCheck:
    """Refuses lists of labels that are all vectors of 0 and 1 of the same length."""

    place: str
    """Names the data set in errors."""
    possible: bool = True
    """Whether all lists so far may be vectors."""
    certain: bool = False
    """Whether no lists of different names could be so."""
    first: Sequence[str] = ()

    def add(self, items: Sequence[str]) -> None:
        """Look at the labels of an image, as they are written; ``0 1 1`` and ``0,1,1`` are vectors, too."""
        if len(items) == 1:
            items = re.split(r"[\s,]+", items[0].strip())
        if self.possible and items:
            self.first = self.first or items
            self.possible = len(items) == len(self.first) > 1 and all(map(_is_mark, items))
            self.certain |= items != self.first or len({*items}) < len(items)

    def finish(self) -> None:
        """Refuse vectors, once all images have been looked at.

        Raises:
            FrostlineError: the lists are vectors.
        """
        if self.possible and self.certain:
            raise FrostlineError(
                f"{self.place} has labels such as [{some(self.first)}], and all are vectors of 0 and 1 of "
                f"length {len(self.first)}: give lists of names, or a column of 0 and 1 per label "
                "(dataset.columns.labels)"
            )


def _is_mark(text: str) -> bool:
    return text.strip().lower() in (*_TRUE, *_FALSE)


def separators_for(name: str) -> str:
    """Return how to write a list as a cell that `listed` reads, as the end of a sentence; '' if it does."""
    with suppress(ValueError):
        if len(listed(name)) > 1:
            return ""
    return ", and separate the labels by ; or |"


def notes(classes: Iterable[str], groups: Iterable[str], *, several: bool) -> Iterator[str]:
    """Yield warnings about names that may stand for missing ones, and about classes that look like lists.

    Args:
        classes: names that the user has not confirmed in `dataset.classes`.
        groups: names.
        several: whether images may have several labels.
    """
    classes = list(classes)
    yield from _missing_words("label", classes)
    yield from _missing_words("group", groups)
    if (name := like_list(classes)) and several:
        yield (
            f"labels such as {printable(name)!r} are one label each; if they are several, separate them by "
            "; or |"
        )
    elif name:
        yield (
            f"labels such as {printable(name)!r} are one class each; if images may have several, "
            f"set dataset.task=multi_label and loss=bce{separators_for(name)}"
        )


def _missing_words(role: str, values: Iterable[str]) -> Iterator[str]:
    for value in values:
        if value.lower() in _MISSING:
            meant = " (name it in dataset.classes if it is one)" if role == "label" else ""
            yield f"the {role} {value!r} is taken as a name{meant}; leave the cell empty if there is none"


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of an image's labels, sorted, each once, without empty ones.

    Raises:
        ValueError: a name contains ``;``.
    """
    stripped = {nfc(name.strip()) for name in names} - {""}
    if wrong := sorted(name for name in stripped if LABEL_SEPARATOR in name):
        raise ValueError(f"the name {wrong[0]!r} contains ';'")
    return tuple(sorted(stripped))


def marked(cells: Mapping[str, str], place: str) -> tuple[str, ...]:
    """Return the labels whose columns have a 1, sorted.

    Args:
        cells: {class: 0 or 1, or false or true}.
        place: names the row in errors.

    Raises:
        FrostlineError: another value.
    """
    for name, cell in cells.items():
        if not _is_mark(cell):
            raise FrostlineError(
                f"{place} has {printable(cell)!r} in the column {printable(name)!r}; allowed: 0 and 1, or "
                "false and true"
            )
    return tuple(sorted(nfc(name) for name, cell in cells.items() if cell.strip().lower() in _TRUE))


def names_in(label_sets: Iterable[str]) -> list[str]:
    """Return the names in texts of `joined`, each once, in the order of their first occurrence."""
    return list(dict.fromkeys(name for text in label_sets if text for name in text.split(LABEL_SEPARATOR)))


def matrix(label_sets: Sequence[str], numbers: Mapping[str, int]) -> NDArray[np.uint8]:
    """Return the labels of N images as (N, C) uint8.

    Args:
        label_sets: N texts of `joined`.
        numbers: {class: its number}.
    """
    labels = np.zeros((len(label_sets), len(numbers)), dtype=np.uint8)
    for row, text in enumerate(label_sets):
        if text:
            labels[row, [numbers[name] for name in text.split(LABEL_SEPARATOR)]] = 1
    return labels
