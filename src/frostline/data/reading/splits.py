"""Stratified splits and subsets of a data set: pure functions of labels and a seed.

Rows are ordered by raw PCG64 output. NumPy guarantees that the raw streams of its bit generators and of
`SeedSequence` stay the same across versions and platforms (NEP 19), but not `permutation` or `shuffle`. Each
class number has its own stream, so a class that is added at the end does not change the others.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frostline.console.errors import FrostlineError

SPLITS = ("train", "val", "test")

NAMED = 5
"""Maximum number of classes that an error names."""

# Purposes of random streams, so that splits and subsets of the same seed are independent.
_FOR_SPLIT, _FOR_SUBSET, FOR_GROUPS = 0, 1, 2
_UNLABELLED = 2**32 - 1
"""In place of a class number, for rows without any label (multi-label data)."""


def stratified_split(
    labels: ArrayLike,
    shares: Mapping[str, float | None],
    seed: int,
    *,
    groups: ArrayLike | None = None,
    names: Sequence[str] | None = None,
) -> NDArray[np.str_]:
    """Assign each row to train, val or test, with the same shares in each class.

    A split gets n·share of the n rows of a class, rounded so that the counts add up to n (largest remainder),
    and at least one. Test is drawn before val: another share of val keeps the test rows, unless rounding
    changes their number.

    Args:
        labels: (N,) int, class of each row.
        shares: those of val and test, 0…1; None: no such split.
        seed: of the order in which rows are drawn.
        groups: (N,) int; rows of a group have the same label and stay in the same split, so counts may differ
            by the size of a group. None: each row is its own group.
        names: class names for errors; None: class numbers.

    Returns:
        (N,) array of 'train', 'val' and 'test'.

    Raises:
        FrostlineError: the shares leave nothing for train, or a class has fewer groups than there are splits.
    """
    labels = _labels(labels)
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    all_shares = with_train(shares)
    splits = np.full(len(labels), "train", dtype="<U5")
    _check_sizes(labels, groups, all_shares, names)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        units = _units(_shuffled(rows, seed, _FOR_SPLIT, int(label)), groups)
        counts = _largest_remainder(len(rows), all_shares)
        for split in ("test", "val"):
            if split in all_shares:
                later = 1 if split == "val" or "val" not in all_shares else 2
                taken, units = _take(units, counts[split], leave=later)
                splits[taken] = split
    return splits


def with_train(shares: Mapping[str, float | None]) -> dict[str, float]:
    """Return the share of each split: that of train is what val and test leave.

    Raises:
        FrostlineError: they leave nothing.
    """
    held_out = {name: share for name in ("val", "test") if (share := shares[name]) is not None}
    if sum(held_out.values()) >= 1:
        total = " + ".join(f"dataset.split.{name}={share:g}" for name, share in held_out.items())
        raise FrostlineError(f"{total}: leaves no images to train on; the shares must add up to less than 1")
    return {"train": 1 - sum(held_out.values()), **held_out}


def drawn_numbers(count: int, *entropy: int) -> NDArray[np.uint64]:
    """Return (count,) raw random numbers; each list of numbers has a stream of its own."""
    return np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(count)


def take_shots(
    labels: ArrayLike, k: int, seed: int, *, names: Sequence[str] | None = None
) -> NDArray[np.int64]:
    """Draw k rows of each class.

    Subsets of the same seed are nested: k shots contain k − 1 shots, and `take_fraction` uses the same order.

    Args:
        labels: (N,) int; or (N, C), 0 and 1: k rows are drawn for each label that occurs, and up to k of
            those without a label. A row may be drawn for several labels, and counts for all that it has, so
            a common label gets more than k.
        k: rows per class.
        names: class names for errors; None: class numbers.

    Returns:
        Positions in `labels`, ascending.

    Raises:
        FrostlineError: a class has fewer than k rows; names the class.
    """
    labels = _labels(labels)
    orders = _orders(labels, seed)
    few = {label: len(rows) for label, rows in orders.items() if len(rows) < k and label != _UNLABELLED}
    if few:
        label = min(few, key=lambda small: few[small])
        images = "image" if few[label] == 1 else "images"
        others = f" (and {len(few) - 1} more have fewer than {k})" if len(few) > 1 else ""
        raise FrostlineError(
            f"dataset.shots={k}: class {_name(label, names)!r} has only {few[label]} training {images}"
            f"{others}; ask for at most {few[label]}"
        )
    return _subset(orders, lambda count: k)


def take_fraction(labels: ArrayLike, share: float, seed: int) -> NDArray[np.int64]:
    """Draw a share of the rows of each class, rounded to the nearest count (half up), but at least one.

    Subsets of the same seed are nested: a larger share contains a smaller one.

    Args:
        labels: (N,) int.
        share: 0…1, above 0.

    Returns:
        Positions in `labels`, ascending.
    """
    return _subset(_orders(_labels(labels), seed), lambda count: max(1, int(np.floor(count * share + 0.5))))


def selection_rows(
    labels: ArrayLike, drawn: ArrayLike, share: float, seed: int, *, groups: ArrayLike | None = None
) -> NDArray[np.bool_]:
    """Return which rows of a subset select the best epoch instead of training, (N,) bool.

    Of the n rows of a class, s(n) = min(n − 1, max(1, ⌊n·share + ½⌋)) select. With each row more, s grows by
    one or stays the same, so the place of a row in its class's order decides: with a larger subset of the
    same seed, no row changes sides.

    With several labels, a row has a place in the order of each of its labels, and the first decides.

    Args:
        labels: (M,) int, of all rows; or (M, C), 0 and 1.
        drawn: (N,) positions in `labels`, from `take_shots` or `take_fraction`.
        share: 0…1.
        seed: that of the subset.
        groups: (M,), no group is divided. Rows are visited in the order in which they are drawn; a group's
            first row decides for all its rows: they select if its class has fewer than s(n) selecting rows
            so far. With a larger subset of the same seed, no row changes sides, if a group's rows are all of
            one class or the subsets have as many rows of each class. None: each row is its own group.
    """
    labels, drawn = _labels(labels), np.asarray(drawn, dtype=np.int64)
    # An entry for each drawn row and its class, or each of its labels: which, its class, its place there.
    where = np.full(len(labels), -1)
    where[drawn] = np.arange(len(drawn))
    parts = [(where[rows], label) for label, rows in _orders(labels, seed).items()]
    entries = np.concatenate([own[own >= 0] for own, _ in parts])
    classes = np.concatenate([np.full(int((own >= 0).sum()), label) for own, label in parts])
    before = np.concatenate([np.flatnonzero(own >= 0) for own, _ in parts])

    def count(n: NDArray[np.int64]) -> NDArray[np.int64]:
        rounded = np.floor(n * share + 0.5).astype(np.int64)
        return np.clip(rounded, 1, np.maximum(n - 1, 0)) * (n > 1)

    aside = np.zeros(len(drawn), dtype=np.bool_)
    if groups is None and labels.ndim == 1:
        aside[entries] = count(before + 1) > count(before)
        return aside
    units = np.arange(len(drawn)) if groups is None else np.asarray(groups)[drawn]
    wanted, unit_of = count(before + 1).tolist(), units.tolist()
    sides: dict[Any, bool] = {}
    taken = dict.fromkeys(classes.tolist(), 0)
    for entry in np.lexsort((classes, before)).tolist():
        row, label = int(entries[entry]), int(classes[entry])
        aside[row] = sides.setdefault(unit_of[row], taken[label] < wanted[entry])
        taken[label] += int(aside[row])
    return aside


def unite(*groupings: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (N,) group numbers such that rows of a group in any of the groupings have the same number."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(groupings[0])
    edges, offset = [], count
    for grouping in groupings:
        edges.append(grouping + offset)
        offset += int(grouping.max(initial=-1)) + 1
    rows = np.tile(np.arange(count), len(groupings))
    ones = np.ones(len(rows), dtype=np.int8)
    graph = coo_matrix((ones, (rows, np.concatenate(edges))), shape=(offset, offset))
    return connected_components(graph, directed=False)[1][:count].astype(np.int64)


def _subset(orders: Mapping[int, NDArray[np.int64]], size: Callable[[int], int]) -> NDArray[np.int64]:
    """Return the first rows of each class's order, each once, ascending."""
    parts = [np.empty(0, dtype=np.int64)]
    parts += [rows[: size(len(rows))] for rows in orders.values()]
    return np.unique(np.concatenate(parts))


def _orders(labels: NDArray[np.int64], seed: int) -> dict[int, NDArray[np.int64]]:
    """Return class → its rows in the order in which subsets take them; with several labels, of each label."""
    if labels.ndim == 1:
        rows_of = {int(label): np.flatnonzero(labels == label) for label in np.unique(labels)}
    else:
        rows_of = {label: np.flatnonzero(own) for label, own in enumerate(labels.T)}
        rows_of[_UNLABELLED] = np.flatnonzero(~labels.any(axis=1))
    return {label: _shuffled(rows, seed, _FOR_SUBSET, label) for label, rows in rows_of.items() if len(rows)}


def _labels(labels: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(labels, dtype=np.int64)
    assert array.ndim in (1, 2), "a class number a row, or 0 and 1 for each class"
    assert (array >= 0).all(), "class numbers start at 0"
    return array


def _shuffled(rows: NDArray[Any], seed: int, purpose: int, label: int) -> NDArray[Any]:
    return rows[np.argsort(drawn_numbers(len(rows), seed, purpose, label), kind="stable")]


def _units(rows: NDArray[Any], groups: NDArray[Any]) -> list[list[int]]:
    """Return one list of rows per group, in the order of the groups' first rows."""
    units: dict[int, list[int]] = {}
    for row in rows.tolist():
        units.setdefault(int(groups[row]), []).append(row)
    return list(units.values())


def _largest_remainder(n: int, shares: dict[str, float]) -> dict[str, int]:
    """Return integer counts that add up to n, as close to n·share as possible, and none 0."""
    exact = {name: n * share for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    # Rounded, so that floating-point errors don't break ties; ties go to the first: train, then val.
    by_remainder = sorted(shares, key=lambda name: round(counts[name] - exact[name], 9))
    for name in by_remainder[: n - sum(counts.values())]:
        counts[name] += 1
    for name in shares:
        if counts[name] == 0:
            counts[max(counts, key=lambda other: counts[other])] -= 1
            counts[name] = 1
    return counts


def _take(units: list[list[int]], room: int, leave: int) -> tuple[list[int], list[list[int]]]:
    """Take, in order, each unit that still fits into `room` rows, while more than `leave` units remain.

    If none fits, take the smallest, so that no split is empty.
    """
    taken: list[int] = []
    rest: list[list[int]] = []
    may_take = len(units) - leave
    for unit in units:
        if may_take and len(unit) <= room:
            taken += unit
            room -= len(unit)
            may_take -= 1
        else:
            rest.append(unit)
    if not taken:
        taken = rest.pop(min(range(len(rest)), key=lambda i: len(rest[i])))
    return taken, rest


def _check_sizes(
    labels: NDArray[Any], groups: NDArray[Any], shares: dict[str, float], names: Sequence[str] | None
) -> None:
    """Refuse classes with fewer different images than splits, and say what would work."""
    sizes = {int(label): len(np.unique(groups[labels == label])) for label in np.unique(labels)}
    small = [label for label, size in sizes.items() if size < len(shares)]
    if not small:
        return
    different = "different " * any(sizes[label] < (labels == label).sum() for label in small)
    if len(small) == 1:
        size = sizes[small[0]]
        which = f"class {_name(small[0], names)!r} has {size} {different}image{'s' * (size != 1)}"
    else:
        listed = [f"{_name(label, names)!r} ({sizes[label]})" for label in small[:NAMED]]
        more = f" and {len(small) - NAMED} more" if len(small) > NAMED else ""
        which = f"{len(small)} classes have too few {different}images, {', '.join(listed)}{more}"
    without = ""
    if "test" in shares and min(sizes.values()) >= len(shares) - 1:
        without = f"do without a test split (dataset.split.test=null; {len(shares) - 1} are enough then), "
    remove = "remove the class" if len(small) == 1 else "remove the classes"
    raise FrostlineError(
        f"{which}, too few for a split into {', '.join(shares)}: add some, to have at least {len(shares)}"
        f"{' of each' * (len(small) > 1)}, {without}or {remove}"
    )


def _name(label: int, names: Sequence[str] | None) -> str:
    return names[int(label)] if names is not None else str(label)
