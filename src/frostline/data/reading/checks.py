"""Checks that every data set must pass; errors begin with `place`, which names the data set."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline.base.names import nfc, unicode_form
from frostline.console.errors import FrostlineError
from frostline.data.reading.decode import MIN_SIDE, printable, suffix
from frostline.data.reading.rows import Rows
from frostline.data.reading.splits import SPLITS

NAMED = 3
"""Maximum number of files or classes that a sentence names; it counts the rest."""

SUFFIXES = 6
"""Maximum number of suffixes that a sentence lists."""


def some(names: Iterable[str], limit: int = NAMED) -> str:
    """List the first few names: ``a, b, c and 4 more``."""
    listed = [printable(name) for name in names]
    shown = ", ".join(listed[:limit])
    return shown if len(listed) <= limit else f"{shown} and {len(listed) - limit} more"


def tally(names: Iterable[str]) -> str:
    """Count files by suffix, the most frequent first: ``.npy ×12, no suffix ×1``."""
    counts = Counter(suffix(name) or "no suffix" for name in names)
    listed = [
        f"{printable(end)} ×{n}" for end, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    return ", ".join(listed[:SUFFIXES]) + (
        f" and {len(listed) - SUFFIXES} more" if len(listed) > SUFFIXES else ""
    )


def name_fault(name: str) -> str | None:
    """Return why a file can't have this name, which must fit into a line of a CSV file; None: it can."""
    if name.isprintable():
        return None
    if any(0xD800 <= ord(c) <= 0xDFFF for c in name):
        return "has a name that is not UTF-8: rename it"
    if any(unicodedata.category(c) == "Cc" for c in name):
        kind = "newline" if "\n" in name or "\r" in name else "control character"
        return f"has a {kind} in its name: rename it"
    return None


def check_count(names: Sequence[str], place: str, least: int) -> None:
    """Refuse fewer than `least` classes: two for a classifier, one for a further test set."""
    if len(names) < least:
        found = f"only one class, {printable(names[0])!r}" if names else "no classes"
        needs = "a classifier needs at least two" if least > 1 else "a test set needs at least one"
        raise FrostlineError(f"{place} has {found}: {needs}")


def check_classes(names: Sequence[str], place: str) -> None:
    """Refuse bad names of classes, and names that differ only by case or Unicode form."""
    for name in names:
        if fault := "has no name: give it one" if not name.strip() else name_fault(name):
            raise FrostlineError(f"{place}: class {printable(name)!r} {fault}")
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise FrostlineError(f"{place} has the class {printable(twice)!r} twice; give each class once")
    _check_alike(names, f"{place} has classes", _ALIKE)


def _check_alike(names: Sequence[str], has: str, alike_by: Mapping[str, Callable[[str], str]]) -> None:
    forms = list(names)
    for only, form in alike_by.items():
        forms = list(map(form, forms))
        alike: dict[str, list[str]] = defaultdict(list)
        for name, same in zip(names, forms, strict=True):
            alike[same].append(name)
        for group in alike.values():
            if len(group) > 1:
                show = _with_form if form is nfc else lambda name: repr(printable(name))
                raise FrostlineError(
                    f"{has} whose names differ only by {only}, "
                    f"{' and '.join(map(show, group))}: merge them or rename one"
                )


def _with_form(name: str) -> str:
    return f"{printable(name)!r} ({unicode_form(name)})"


def _visible(name: str) -> str:
    """Return a name without invisible characters, and with single spaces."""
    return " ".join("".join(c for c in name if unicodedata.category(c) != "Cf").split())


def _as_number(name: str) -> str:
    """Return a number without leading and trailing zeros (01.50 → 1.5); any other name unchanged."""
    return f"{Decimal(name).normalize():f}" if _NUMBER.fullmatch(name) else name


def _as_numbered(name: str) -> str:
    """Return a whole number, alone or after letters, without zeros and separators before it (P_01 → P1)."""
    match = _NUMBERED.fullmatch(name)
    return f"{match[1] or ''}{match[2]}" if match else name


_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")
_NUMBERED = re.compile(r"(?:(.*[^\W\d_])[-_ ]*)?0*([0-9]+)(?:\.0+)?")
_ALIKE: dict[str, Callable[[str], str]] = {
    "their Unicode form": nfc,
    "case": lambda name: nfc(name.casefold()),
    "spaces or invisible characters": _visible,
    "the way a number is written": _as_number,
}
"""How the names of two classes may differ without two classes being meant → the form without that."""
_ALIKE_GROUPS = {**_ALIKE, "the way a number is written": _as_numbered}


def check_class_sets(classes_of: Mapping[str, Set[str]], place: str) -> None:
    """Refuse splits (split → its classes) that don't all have the same classes."""
    for split, classes in classes_of.items():
        for other, others in classes_of.items():
            if missing := sorted(others - classes):
                raise FrostlineError(
                    f"{place} has splits with different classes: {some(map(repr, missing))} in {other} but "
                    f"not in {split}; give every split every class"
                )


def check_rows(rows: Rows, classes: Sequence[str], place: str) -> None:
    """Refuse labels out of range, unknown splits, empty classes, and classes that differ between splits.

    Args:
        rows: with one label per image, 0…C−1, or with several.
        classes: C names.
        place: names the data set.
    """
    labels, splits = rows.labels, dict.fromkeys(rows.splits.tolist())
    if labels.ndim == 2:
        check_split_names(rows.splits, place)
        train = labels[np.isin(rows.splits, ("", "train"))]
        _check_occurring(labels.max(axis=0, initial=0), classes, place)
        _check_occurring(train.max(axis=0, initial=0), classes, place, " in its train split")
        return
    if beyond := np.flatnonzero((labels < 0) | (labels >= len(classes))).tolist():
        raise FrostlineError(
            f"{place}: row {beyond[0]} has label {labels[beyond[0]]}; allowed: 0 to {len(classes) - 1}, one"
            " for each class"
        )
    check_split_names(rows.splits, place)
    _check_occurring(np.bincount(labels, minlength=len(classes)), classes, place)
    occurring = {split: np.unique(labels[rows.splits == split]).tolist() for split in splits}
    check_class_sets({split: {classes[label] for label in own} for split, own in occurring.items()}, place)


def _check_occurring(counts: NDArray[Any], classes: Sequence[str], place: str, where: str = "") -> None:
    if empty := np.flatnonzero(counts == 0).tolist():
        named = some(repr(classes[label]) for label in empty)
        raise FrostlineError(f"{place} has no images of {named}{where}: add some or remove the class")


def check_split_names(splits: NDArray[np.str_], place: str, *, further_test: bool = False) -> None:
    """Refuse unknown names of splits, and rows without one beside others.

    Args:
        splits: (N,) names; all '': the data set has no splits.
        place: names the data set.
        further_test: whether it is a further test set, which needs no train split.
    """
    names = set(splits.tolist())
    without_train = not further_test and "" not in names and "train" not in names
    if names - {"", *SPLITS} or ("" in names and len(names) > 1) or without_train:
        found = ", ".join(repr(name) for name in sorted(names))
        some_of = "train, val and test" if further_test else "train with val, test or both"
        raise FrostlineError(f"{place} has splits {found}; allowed: {some_of}, or no splits at all")


def check_columns(rows: Rows, place: str) -> None:
    """Refuse weights that are negative, not finite or all 0, and rows without a group."""
    if (weights := rows.weights) is not None:
        if bad := np.flatnonzero(~(np.isfinite(weights) & (weights >= 0))).tolist():
            raise FrostlineError(
                f"{place}: image {printable(rows.keys[bad[0]])} has weight {weights[bad[0]]:g}; allowed: "
                "numbers from 0"
            )
        if len(weights) and not weights.any():
            raise FrostlineError(f"{place}: all weights are 0; give at least one image a weight above 0")
    if rows.groups is not None and (bad := np.flatnonzero(rows.groups == "").tolist()):
        named = some(rows.keys[place] for place in bad)
        raise FrostlineError(f"{place}: {len(bad)} images have no group ({named}); give each one")


def check_groups(rows: Rows, place: str) -> None:
    """Refuse names that may mean the same group, and a group in several of the data set's splits or folds."""
    if rows.groups is None or not len(rows):
        return
    names, numbers = np.unique(rows.groups, return_inverse=True)
    _check_alike(names.tolist(), f"{place} has groups", _ALIKE_GROUPS)
    first = np.full(len(names), len(rows), dtype=np.int64)
    np.minimum.at(first, numbers, np.arange(len(rows)))
    for column, what in ((rows.splits, "split"), (rows.folds, "fold")):
        divided = [] if column is None else np.flatnonzero(column != column[first[numbers]]).tolist()
        if column is None or not divided:
            continue
        groups = list(dict.fromkeys(numbers[divided].tolist()))
        other, one = divided[0], int(first[groups[0]])
        one_part, other_part = (f"{what} {column[row]} ({printable(rows.keys[row])})" for row in (one, other))
        more = f" ({len(groups) - 1} more groups are divided, too)" if len(groups) > 1 else ""
        raise FrostlineError(
            f"{place}: group {printable(str(names[groups[0]]))!r} is divided between {one_part} and "
            f"{other_part}{more}: put all images of a group into one {what}, or let frostline draw the "
            f"{what}s (dataset.columns.{what}=null)"
        )


def check_images(images: NDArray[Any], place: str) -> None:
    """Refuse arrays that aren't (N, H, W) or (N, H, W, 3) uint8."""
    shape = "×".join(map(str, images.shape)) or "()"
    if images.dtype != np.uint8:
        raise FrostlineError(
            f"{place} has {images.dtype} images; scale them to 0…255 and convert them to uint8"
        )
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise FrostlineError(
            f"{place} has images of shape {shape}; allowed: N×height×width or N×height×width×3"
        )
    if not len(images):
        raise FrostlineError(f"{place} has no images (their shape is {shape}): give some of each class")
    if min(images.shape[1:3]) < MIN_SIDE:
        raise FrostlineError(
            f"{place} has images of shape {shape}; each side needs at least {MIN_SIDE} pixels"
        )


def check_keys(keys: Sequence[str], place: str) -> None:
    """Refuse keys that are not paths below a root, and duplicates."""
    seen = set()
    for key in keys:
        if key.startswith("/") or (".." in key and ".." in PurePosixPath(key).parts):
            raise FrostlineError(
                f"{place} has the file {printable(key)!r}; give its path relative to the root"
            )
        if fault := name_fault(key):
            raise FrostlineError(f"{place}: {printable(key)} {fault}")
        if nfc(key) in seen:
            raise FrostlineError(f"{place} has the file {key!r} twice; list each file once")
        seen.add(nfc(key))
