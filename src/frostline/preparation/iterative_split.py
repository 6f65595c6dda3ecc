"""Stratified splits and folds of images with several labels: pure functions of labels and a seed."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frostline.console.errors import FrostlineError
from frostline.data.reading.splits import FOR_GROUPS, drawn_numbers, with_train


def iterative_split(
    labels: NDArray[np.integer], shares: Mapping[str, float | None], seed: int, *, groups: ArrayLike
) -> NDArray[np.str_]:
    """Assign each row to train, val or test by iterative stratification (Sechidis et al. 2011, algorithm 1).

    The label with the fewest unassigned rows comes first; each of its rows goes to the split that lacks most
    rows of this label, then to the one that lacks most rows, then to the first. A group is assigned as one
    row with the sum of its labels. Rows without labels come last.

    Args:
        labels: (N, C), 0 and 1.
        shares: those of val and test, 0…1; None: no such split.
        seed: of the order in which rows are assigned.
        groups: (N,) int; rows of a group stay in the same split.

    Returns:
        (N,) array of 'train', 'val' and 'test'.

    Raises:
        FrostlineError: the shares leave nothing for train, or there are fewer groups than splits.
    """
    divided = with_train(shares)
    return np.array(list(divided), dtype="<U5")[_divide(labels, groups, divided, seed)]


def iterative_folds(
    labels: NDArray[np.integer], groups: ArrayLike, folds: int, seed: int
) -> NDArray[np.int64]:
    """Assign each row to one of `folds` folds, as `iterative_split` does; returns (N,) numbers from 0.

    Raises:
        FrostlineError: there are fewer groups than folds.
    """
    return _divide(labels, groups, {f"fold {number}": 1 / folds for number in range(folds)}, seed)


def _divide(
    labels: NDArray[np.integer], groups: ArrayLike, shares: Mapping[str, float], seed: int
) -> NDArray[np.int64]:
    """Return the part of each row, (N,)."""
    _, first, unit_of = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    if len(first) < len(shares):
        raise FrostlineError(
            f"{len(first)} different images or groups are too few for a split into {', '.join(shares)}: add "
            f"some, to have at least {len(shares)}"
        )
    part, sizes = np.array(list(shares.values())), np.bincount(unit_of)
    has = np.zeros((len(first), labels.shape[1]), dtype=np.int64)
    np.add.at(has, unit_of, labels)
    # In the order of the rows, so that the numbers of the groups don't matter.
    order = np.argsort(first, kind="stable")
    order = order[np.argsort(drawn_numbers(len(order), seed, FOR_GROUPS), kind="stable")]
    chosen = np.full(len(first), -1)
    remaining = has.sum(axis=0)
    lacks, lacks_label = part * len(labels), np.outer(remaining, part)

    def assign(unit: int, wanted: NDArray[np.float64]) -> None:
        # Rounded, so that floating-point errors don't break ties.
        keys = zip(np.round(wanted, 9).tolist(), np.round(lacks, 9).tolist(), strict=True)
        split = -max((*key, -number) for number, key in enumerate(keys))[-1]
        chosen[unit] = split
        lacks[split] -= sizes[unit]
        lacks_label[:, split] -= has[unit]
        remaining[:] -= has[unit]

    while (remaining > 0).any():
        label = int(np.where(remaining > 0, remaining, np.iinfo(np.int64).max).argmin())
        for unit in order[(has[order, label] > 0) & (chosen[order] < 0)].tolist():
            assign(unit, lacks_label[label])
    for unit in order[chosen[order] < 0].tolist():
        assign(unit, lacks)
    for split in range(len(shares)):
        if not (chosen == split).any():  # of few images: the smallest group of the fullest part
            fullest = np.bincount(chosen, minlength=len(shares)).argmax()
            chosen[min(order[chosen[order] == fullest].tolist(), key=sizes.__getitem__)] = split
    return chosen[unit_of]
