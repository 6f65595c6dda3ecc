"""Which split each image is in: the data set's own, drawn splits, or those of each fold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from frostline import schema
from frostline.console.errors import FrostlineError
from frostline.data.reading.checks import some
from frostline.data.reading.rows import Rows
from frostline.data.reading.sources import name_of, place_of
from frostline.data.reading.splits import stratified_split, unite, with_train
from frostline.preparation.grouped import assign_folds, grouped_split, uneven
from frostline.preparation.iterative_split import iterative_folds, iterative_split


@dataclass(frozen=True)
class Assignment:
    """The splits of N images."""

    splits: NDArray[np.str_]
    """(N,), 'train', 'val' or 'test'; with folds, those of fold 0."""
    fold_splits: NDArray[np.str_] | None = None
    """(N, K), the splits with each of K folds as the test split."""
    warnings: list[str] = field(default_factory=list)
    """Sentences."""


def assign(
    rows: Rows, copies: NDArray[np.int64], dataset: schema.Dataset, classes: Sequence[str]
) -> Assignment:
    """Use the splits or folds that the data set has, and draw the others.

    Images of a group and exact copies of an image are in the same split and fold.

    Args:
        copies: (N,) numbers, equal for exact copies.

    Raises:
        FrostlineError: shares, folds, groups and the data set's own splits do not fit together.
    """
    drawing = _Drawing(dataset, classes, rows.labels, *_units(rows, copies))
    return _folds(rows, drawing) if dataset.folds is not None else _splits(rows, drawing)


@dataclass(frozen=True)
class _Drawing:
    """Draws splits."""

    dataset: schema.Dataset
    classes: Sequence[str]
    labels: NDArray[np.integer]
    """(N,) numbers of classes, or (N, C) 0 and 1."""
    units: NDArray[np.int64]
    """(N,), images with the same number stay together."""
    grouped: bool
    """Whether units may have images of several classes."""

    def draw(
        self, rows: NDArray[np.int64], shares: dict[str, float | None]
    ) -> tuple[NDArray[np.str_], list[str]]:
        """Draw val and test from some rows; return their splits and warnings."""
        labels, units, seed = self.labels[rows], self.units[rows], self.dataset.split.seed
        if labels.ndim == 2:
            return iterative_split(labels, shares, seed, groups=units), []
        if not self.grouped:
            return stratified_split(labels, shares, seed, groups=units, names=self.classes), []
        wanted = with_train(shares)
        if len(wanted) == 1:
            return np.full(len(rows), "train"), []
        splits = grouped_split(labels, units, wanted, seed)
        return splits, _not_stratified(list(uneven(labels, splits, wanted, self.classes)))


def _units(rows: Rows, copies: NDArray[np.int64]) -> tuple[NDArray[np.int64], bool]:
    if rows.groups is None:
        return copies, False
    return unite(copies, np.unique(rows.groups, return_inverse=True)[1]), True


def _not_stratified(clauses: Sequence[str]) -> list[str]:
    if not clauses:
        return []
    return [f"groups keep the splits from being stratified: {some(clauses)}"]


def _splits(rows: Rows, drawing: _Drawing) -> Assignment:
    """Keep a data set's own splits; draw missing ones from its training images, or from all if it has none.

    Without a share and a split of its own, a data set has no test split. There is a warning for each unused
    share that a user has set, and for each split that is drawn from the data set's own training split.
    """
    dataset = drawing.dataset
    splits = np.where(rows.splits == "", "train", rows.splits).astype("<U5")
    own = set(np.unique(rows.splits).tolist())
    shares: dict[str, float | None] = {"val": dataset.split.val, "test": dataset.split.test}
    warnings, taken = [], []
    for split, share in shares.items():
        if split in own and share is not None:
            shares[split] = None
            if share != schema.USUAL_SHARE:  # which is the default
                warnings.append(
                    f"dataset.split.{split}={share:g} is not used: the data set has a {split} split of its"
                    f" own, which is used (set dataset.split.{split}=null to avoid this warning)"
                )
        elif split not in own and share is None and split == "val":
            raise FrostlineError(_no_val(dataset))
        elif split not in own and share is not None and own != {""}:
            taken.append((split, share))
    drawn = np.flatnonzero(splits == "train")
    splits[drawn], more = drawing.draw(drawn, shares)
    for split, share in taken:
        count = int((splits == split).sum())
        instead = " (dataset.split.test=null does without one)" if split == "test" else ""
        warnings.append(
            f"the data set has no {split} split of its own: {count} of its {len(drawn)} training images "
            f"become its {split} split, by dataset.split.{split}={share:g}{instead}"
        )
    # A rare label among several is only warned of, as `_unmeasured` does.
    if rows.labels.ndim == 1 and (lost := _untrained(drawing, splits)):
        raise FrostlineError(
            f"dataset.split: groups and exact copies stay in one split, so that no training image of {lost} "
            "is left: add images of it from other groups, or remove it"
        )
    _check_measurable(drawing, splits)
    if rows.labels.ndim == 2:
        more = [*more, *_unmeasured(rows.labels, splits, drawing.classes)]
    return Assignment(splits, warnings=[*warnings, *more])


def _untrained(drawing: _Drawing, splits: NDArray[np.str_]) -> str:
    """Name the classes without a training image; empty: all have one."""
    lost = _occurring(drawing.labels) - _occurring(drawing.labels[splits == "train"])
    return some(repr(drawing.classes[label]) for label in sorted(lost))


def _check_measurable(drawing: _Drawing, splits: NDArray[np.str_]) -> None:
    """Refuse a split none of whose images has a label."""
    for split in np.unique(splits).tolist():
        check_labelled(drawing.labels[splits == split], f"{place_of(drawing.dataset)}: the {split} split")


def check_labelled(labels: NDArray[np.integer], place: str) -> None:
    """Refuse images that all have no label, since their mAP is undefined.

    Args:
        labels: (N,) numbers of classes, or (N, C) 0 and 1.
        place: names the images.
    """
    if labels.ndim == 2 and len(labels) and not labels.any():
        raise FrostlineError(
            f"{place} has no image with a label, so that its mAP is undefined: label some of its images, put "
            "labelled ones in it, or draw a larger split"
        )


def _unmeasured(
    labels: NDArray[np.integer], splits: NDArray[np.str_], classes: Sequence[str]
) -> Iterator[str]:
    """Name the labels that no image of a split has."""
    for split in np.unique(splits).tolist():
        if absent := sorted(set(range(len(classes))) - _occurring(labels[splits == split])):
            named = some(repr(classes[label]) for label in absent)
            yield f"no {split} image has the label {named}: it does not count in the mAP on {split}"


def _occurring(labels: NDArray[np.integer]) -> set[int]:
    """Return the numbers of the classes that occur."""
    return set((labels if labels.ndim == 1 else np.flatnonzero(labels.any(axis=0))).tolist())


def _folds(rows: Rows, drawing: _Drawing) -> Assignment:
    """Make each fold the test split once; val is drawn from the other folds."""
    dataset, count = drawing.dataset, len(rows)
    folds = dataset.folds
    assert folds is not None
    if (rows.splits != "").any():
        raise FrostlineError(
            f"dataset.folds={folds}: {place_of(dataset)} has splits of its own, and folds make others; set "
            "dataset.folds=null, or dataset.columns.split=null where they are a column"
        )
    if dataset.split.val is None:
        raise FrostlineError(_no_val(dataset))
    numbers = rows.folds
    if numbers is None:
        draw_folds = iterative_folds if drawing.labels.ndim == 2 else assign_folds
        numbers = draw_folds(drawing.labels, drawing.units, folds, dataset.split.seed)
    elif (present := np.unique(numbers).tolist()) != list(range(folds)):
        raise FrostlineError(
            f"dataset.folds={folds}: the folds of {place_of(dataset)} are {', '.join(map(str, present))}; "
            f"number them from 0 and set dataset.folds={len(present)}, or draw them with "
            "dataset.columns.fold=null"
        )
    splits = np.full((count, folds), "test", dtype="<U5")
    for fold in range(folds):
        others = np.flatnonzero(numbers != fold)
        splits[others, fold], _ = drawing.draw(others, {"val": dataset.split.val, "test": None})
        if lost := _untrained(drawing, splits[:, fold]):
            more = "groups" if rows.folds is None else "folds"
            raise FrostlineError(
                f"dataset.folds={folds}: without fold {fold} there is no training image of {lost}: add "
                f"images of it from other {more}, or remove it"
            )
        _check_measurable(drawing, splits[:, fold])
    if drawing.labels.ndim == 2:
        return Assignment(splits[:, 0].copy(), splits)
    names = np.array([f"fold {number}" for number in numbers])
    clauses = list(
        uneven(drawing.labels, names, {f"fold {k}": 1 / folds for k in range(folds)}, drawing.classes)
    )
    return Assignment(splits[:, 0].copy(), splits, _not_stratified(clauses) if drawing.grouped else [])


def _no_val(dataset: schema.Dataset) -> str:
    return (
        "dataset.split.val is null, which stands for the data set's own val split, and "
        f"{name_of(dataset)} has none: set a share, such as dataset.split.val=0.2, since every run "
        "is measured on the val split after each epoch"
    )
