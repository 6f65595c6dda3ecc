"""Splits and folds that divide no group and are stratified by class as far as the groups allow.

The method is that of scikit-learn's `StratifiedGroupKFold`, for parts of any size: groups are assigned one by
one, the largest first, each to the part that it brings nearest to the wanted shares of its classes.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frostline.console.errors import FrostlineError
from frostline.data.reading.splits import FOR_GROUPS, drawn_numbers

_OFF = 0.5
"""A class is named as not stratified if its share of a part is off by more than this, relative."""


def grouped_split(
    labels: ArrayLike, groups: ArrayLike, shares: Mapping[str, float], seed: int
) -> NDArray[np.str_]:
    """Assign each row to a part, without dividing a group.

    Args:
        labels: (N,) int, class of each row.
        groups: (N,) int.
        shares: part → its share of the rows; they add up to 1. The first part gets rows of every class.
        seed: of the order of groups of the same size.

    Returns:
        (N,) names of the parts.

    Raises:
        FrostlineError: there are fewer groups than parts.
    """
    labels = np.asarray(labels, dtype=np.int64)
    _, groups = np.unique(np.asarray(groups), return_inverse=True)
    count = int(groups.max(initial=-1)) + 1
    if count < len(shares):
        raise FrostlineError(
            f"dataset.group: {count} groups can't be divided into {', '.join(shares)}: give at least "
            f"{len(shares)} groups, or set dataset.group=null"
        )
    parts = _assign(labels, groups, np.array(list(shares.values())), seed)
    return np.array(list(shares), dtype=np.str_)[parts[groups]]


def assign_folds(labels: ArrayLike, groups: ArrayLike, folds: int, seed: int) -> NDArray[np.int64]:
    """Assign each row to one of `folds` folds of about the same size; returns (N,) numbers from 0.

    Raises:
        FrostlineError: there are fewer groups than folds.
    """
    _, groups = np.unique(np.asarray(groups), return_inverse=True)
    if (count := int(groups.max(initial=-1)) + 1) < folds:
        raise FrostlineError(
            f"dataset.folds={folds}: there are only {count} groups of images; give fewer folds"
        )
    labels = np.asarray(labels, dtype=np.int64)
    return _assign(labels, groups, np.full(folds, 1 / folds), seed)[groups]


def uneven(
    labels: NDArray[np.integer], parts: NDArray[np.str_], shares: Mapping[str, float], names: Sequence[str]
) -> Iterator[str]:
    """Yield a clause for each class and part that groups keep far from the wanted share."""
    totals = np.bincount(labels, minlength=len(names))
    for part, share in shares.items():
        taken = np.bincount(labels[parts == part], minlength=len(names))
        off = np.abs(taken - share * totals) > np.maximum(1, _OFF * share * totals)
        for label in np.flatnonzero(off).tolist():
            yield f"{names[label]!r} has {taken[label]} of {totals[label]} images in {part}"


def _assign(
    labels: NDArray[np.int64], groups: NDArray[np.int64], shares: NDArray[np.float64], seed: int
) -> NDArray[np.int64]:
    """Return the part of each group, (G,).

    A group goes where it lowers Σ over its classes c of (n_pc/n_c − share_p)² most, plus the same term for
    all classes together, which keeps the sizes of the parts right.
    """
    count, classes = int(groups.max()) + 1, int(labels.max()) + 1
    pairs, pair_counts = np.unique(groups * classes + labels, return_counts=True)
    starts = np.searchsorted(pairs, np.arange(count + 1) * classes)
    pair_labels, sizes = pairs % classes, np.bincount(groups)
    totals = np.append(np.bincount(labels, minlength=classes), len(labels)).astype(np.float64)
    filled = np.zeros((len(shares), classes + 1))
    parts = np.empty(count, dtype=np.int64)
    for group in np.lexsort((drawn_numbers(count, seed, FOR_GROUPS), -sizes)).tolist():
        own = slice(starts[group], starts[group + 1])
        columns = np.append(pair_labels[own], classes)
        added = np.append(pair_counts[own], sizes[group]) / totals[columns]
        lack = shares[:, None] - filled[:, columns]
        parts[group] = part = int((((lack - added) ** 2 - lack**2).sum(axis=1)).argmin())
        filled[part, columns] += added
    return _without_gaps(parts, pairs // classes, pair_labels, sizes, len(shares))


def _without_gaps(
    parts: NDArray[np.int64],
    pair_groups: NDArray[np.int64],
    pair_labels: NDArray[np.int64],
    sizes: NDArray[np.int64],
    count: int,
) -> NDArray[np.int64]:
    """Move the smallest groups that help: every class has rows in part 0, and no part is empty."""
    for label in np.unique(pair_labels):
        members = pair_groups[pair_labels == label]
        if not (parts[members] == 0).any():
            parts[members[sizes[members].argmin()]] = 0
    for part in range(count):
        if not (parts == part).any():
            occupied = np.bincount(parts, minlength=count)
            givers = np.flatnonzero(occupied[parts] > 1)
            parts[givers[sizes[givers].argmin()]] = part
    return parts
