"""Several labels per image: the texts that tables have for them, and matrices of 0 and 1.

The labels of N images in C classes are (N, C) uint8, 1 where the image has the label; an image may have none.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from frostline.base.names import LABEL_SEPARATOR, nfc
from frostline.console.errors import FrostlineError
from frostline.data.reading.decode import printable

SEPARATORS = (LABEL_SEPARATOR, "|")
"""Between the names in a table's cell."""
NO_LABEL = "no label"
"""What people are shown for an image without a label."""
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

    The cell is a JSON list, or names separated by ``;`` or ``|``; an empty cell has no label.

    >>> listed("dog; cat"), listed("cat|dog"), listed('["dog", "cat"]'), listed("")
    (('cat', 'dog'), ('cat', 'dog'), ('cat', 'dog'), ())

    Raises:
        ValueError: it begins like a JSON list, but is none, or a name contains ``;``.
    """
    text = cell.strip()
    if text.startswith("["):
        names = json.loads(text)
        if not isinstance(names, list) or any(isinstance(name, list | dict) for name in names):
            raise ValueError("its items must be names")
        parts = [str(name) for name in names]
    else:
        separator = next((mark for mark in SEPARATORS if mark in text), LABEL_SEPARATOR)
        parts = text.split(separator)
    return distinct(parts)


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
        None,
    )


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
        if cell.strip().lower() not in (*_TRUE, *_FALSE):
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
