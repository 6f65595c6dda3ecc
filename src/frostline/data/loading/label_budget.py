"""The labelled images of a run: those that it trains on, and those that choose its epoch."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from frostline import schema
from frostline.base.seeds import derive
from frostline.console.errors import FrostlineError
from frostline.data.prepared.index import Index, labelled_rows
from frostline.data.reading.splits import selection_rows, unite


@dataclass(frozen=True)
class LabelBudget:
    """The images whose labels a run may use, as rows of the index."""

    train: NDArray[np.int64]
    """The images that it trains on, ascending."""
    selection: NDArray[np.int64]
    """The labelled images that select the best epoch, ascending; empty: the val split does, or nothing."""
    selection_split: Literal["val", "selection", "last"]
    """The images that select the best epoch: those of `selection`, or the val split; ``last``: none do."""

    def record(self, index: Index, dataset: schema.Dataset) -> dict[str, Any]:
        """Return the entries of training.json on how the best epoch was selected.

        Args:
            dataset: the config that the budget was drawn for.

        Returns:
            rule; chooses: the split, or ``last``; images: the number of images that select the epoch;
            labelled: the label budget, null if it is all training images; per_class: both numbers per class,
            null if they are not equal for all classes, or with several labels per image.
        """
        rows = index.rows("val") if self.selection_split == "val" else self.selection
        labelled = np.concatenate([self.train, self.selection])
        counts = [_per_class(index, part) for part in (rows, labelled)]
        alike = not index.several_labels and all((count == count[0]).all() for count in counts)
        return {
            "rule": dataset.selection or "held_out",
            "chooses": self.selection_split,
            "images": len(rows),
            "labelled": len(labelled) if is_limited(dataset) else None,
            "per_class": {"images": int(counts[0][0]), "labelled": int(counts[1][0])} if alike else None,
        }


def label_budget(index: Index, dataset: schema.Dataset, seed: int) -> LabelBudget:
    """Draw the labelled images of a run.

    For the same seed, the training images contain those of a smaller budget, and so do the selection images;
    with groups, see `selection_rows`. No group is in both, and no file with a copy.

    Args:
        dataset: its shots or fraction, and its rule of selection.
        seed: the run's.

    Raises:
        FrostlineError: a class has fewer images than `shots`; or no class has enough to set one aside.
    """
    stream = derive(seed, "shots") % 2**31
    rows = labelled_rows(index, dataset, stream)
    if dataset.selection == "last":
        return LabelBudget(rows, rows[:0], "last")
    if dataset.selection != "within" or not is_limited(dataset):
        return LabelBudget(rows, rows[:0], "val")
    train, strata = index.rows("train"), index.strata(dataset)
    share = schema.USUAL_SHARE if dataset.split.val is None else dataset.split.val
    drawn = np.searchsorted(train, rows)
    groups = None
    if (units := _units(index, rows)) is not None:
        groups = np.full(len(train), -1)
        groups[drawn] = units
    aside = selection_rows(strata[train], drawn, share, stream, groups=groups)
    if index.groups is not None:
        _check_groups(index, rows, aside)
    # Without one label among them, mAP is undefined.
    if not aside.any() or (index.several_labels and not index.labels[rows[aside]].any()):
        key, value = _limit(dataset)
        each = "" if index.several_labels else " of each class"
        few = "too few labelled images" if index.several_labels else "one labelled image"
        raise FrostlineError(
            f"dataset.{key}={value:g}: leaves {few}{each}, none to choose the epoch on; raise"
            f" dataset.{key}, or set dataset.selection=last or held_out"
        )
    return LabelBudget(rows[~aside], rows[aside], "selection")


def _units(index: Index, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return numbers of some images, (N,), equal for images of a group and for identical files.

    None: each image has a number of its own.
    """
    numbers: dict[str, int] = {}
    copies = np.array([numbers.setdefault(index.sha256[row], len(numbers)) for row in rows.tolist()])
    if index.groups is not None:
        return unite(copies, np.unique(index.groups[rows], return_inverse=True)[1])
    return copies if len(numbers) < len(rows) else None


def _check_groups(index: Index, rows: NDArray[np.int64], aside: NDArray[np.bool_]) -> None:
    """Refuse a budget of too few groups: none is left to choose the epoch on, or to train a class on."""
    fix = "raise dataset.shots or dataset.fraction, or set dataset.selection=last or held_out"
    if not aside.any():
        raise FrostlineError(
            f"dataset.group: the {len(rows)} labelled images of a run are of one group per class, so that "
            f"none is left to choose the epoch on; {fix}"
        )
    lost = np.flatnonzero((_per_class(index, rows) > 0) & (_per_class(index, rows[~aside]) == 0))
    if len(lost):
        raise FrostlineError(
            f"dataset.group: all labelled images of {index.classes[lost[0]]!r} are in groups that choose"
            f" the epoch, so that no image of this class is left to train on; {fix}"
        )


def _per_class(index: Index, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many of some images have each class, (C,)."""
    labels = index.labels[rows]
    if index.several_labels:
        return labels.sum(axis=0, dtype=np.int64)
    return np.bincount(labels, minlength=len(index.classes))


def is_limited(dataset: schema.Dataset) -> bool:
    """Return whether a run may use only some of the training images."""
    return _limit(dataset)[1] is not None


def _limit(dataset: schema.Dataset) -> tuple[str, float | None]:
    """Return the key that limits the training images, and its value; None: nothing does."""
    return ("fraction", dataset.fraction) if dataset.shots is None else ("shots", dataset.shots)
