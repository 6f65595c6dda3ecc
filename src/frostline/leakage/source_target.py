"""Images of the source that the target is measured on: pretraining would have seen the answers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from frostline.console.errors import FrostlineError
from frostline.data.prepared.index import PreparedData
from frostline.data.reading.checks import some
from frostline.duplicates.hashes import read_hashes
from frostline.duplicates.search import near_matches


@dataclass(frozen=True)
class _Part:
    """Images of one data set that may have leaked, or that may have been seen."""

    data: PreparedData
    name: str
    rows: NDArray[np.int64]
    """(N,) positions in the index, those in train before those in val."""
    splits: NDArray[np.str_]
    """(N,)"""
    table: NDArray[Any]
    """(N,) records of `duplicates.hashes`."""

    def named(self, place: int) -> str:
        """Return the key and the split of one of the images."""
        return f"{self.data.index.keys[self.rows[place]]} ({self.splits[place]})"


class _Leak(NamedTuple):
    """An image that pretraining sees, and one that the target is measured on, by place in their parts."""

    seen: int
    measured: int


@dataclass(frozen=True)
class NearDuplicates:
    """Images on which the target is measured that look like images of the source."""

    warning: str
    """A sentence."""
    measured: PreparedData
    """The target, or a further test set."""
    pairs: list[tuple[int, int]]
    """Positions in the indexes of the source and of `measured`, those in a test split first."""


def check_source(source: PreparedData, target: PreparedData) -> list[NearDuplicates]:
    """Compare what a pretraining reads with what the target is measured on.

    Source images in train must not be in the target's val, test or further test sets, and those in val not in
    its test and further test sets. The same images in both train splits are no leak. A target with folds is
    measured on all of its images.

    Returns:
        The near-duplicates, per data set and further test set that has any.

    Raises:
        FrostlineError: an image of the source is one that the target is measured on; names the images, and
            first those of train in a test split, which do most harm.
    """
    seen = _part(source, ("train", "val"))
    measured = [_measured(target)]
    measured += [_part(data, ("test",), f"the test set {name}") for name, data in target.test_sets().items()]
    found = []
    for part in measured:
        if same := _worst_first(_identical(seen, part), seen, part):
            what = "image that is" if len(same) == 1 else "images that are"
            raise FrostlineError(
                f"source: {seen.name} has {len(same)} {what} also in {part.name}, on which the target is "
                f"measured{_tally(same, seen, part)}: {_named(same, seen, part, '=')}; remove them from the "
                "source, or choose another source"
            )
        if pairs := _worst_first(_alike(seen, part), seen, part):
            images = "image of" if len(pairs) == 1 else "images of"
            looks = "looks" if len(pairs) == 1 else "look"
            found.append(
                NearDuplicates(
                    f"{len(pairs)} {images} {part.name} {looks} like one that the pretraining on {seen.name} "
                    "sees; if they show the same thing, accuracies are overestimated"
                    f"{_tally(pairs, seen, part)}: {_named(pairs, seen, part, '≈')}",
                    part.data,
                    [(int(seen.rows[leak.seen]), int(part.rows[leak.measured])) for leak in pairs],
                )
            )
    return found


def overlap(trained_on: PreparedData, tested: PreparedData, whose: str = "the run's own") -> list[str]:
    """Compare a further test set of a finished run with the images that the run used.

    Args:
        trained_on: the run's data; images in train and val were used.
        tested: the test set.
        whose: whose splits these are, for the sentences.

    Returns:
        A sentence on images that are the same, and one on those that look alike, if there are any.
    """
    seen, measured = _part(trained_on, ("train", "val")), _part(tested, ("test",))
    same, sentences = _identical(seen, measured), []
    copies = {leak.measured for leak in same}
    alike = [leak for leak in _alike(seen, measured) if leak.measured not in copies]
    if same := _worst_first(same, seen, measured):
        which = f"image of {measured.name} is" if len(same) == 1 else f"images of {measured.name} are"
        sentences.append(
            f"{len(same)} {which} also in {whose} {_used_as(same, seen)}, so that the metrics are "
            f"overestimated: {_named(same, seen, measured, '=')}"
        )
    if alike := _worst_first(alike, seen, measured):
        which = f"image of {measured.name} looks" if len(alike) == 1 else f"images of {measured.name} look"
        sentences.append(
            f"{len(alike)} {which} like one in {whose} {_used_as(alike, seen)}; if they show the same "
            f"thing, the metrics are overestimated: {_named(alike, seen, measured, '≈')}"
        )
    return sentences


def _used_as(leaks: Sequence[_Leak], seen: _Part) -> str:
    """Return the splits of the seen images, with their numbers: ``train split (3) and val split (1)``."""
    splits = Counter(str(seen.splits[leak.seen]) for leak in leaks)
    return " and ".join(f"{split} split ({count})" for split, count in splits.items())


def _part(data: PreparedData, splits: tuple[str, ...], name: str = "") -> _Part:
    # Split by split, since a search returns the first match: that in train, which does most harm.
    rows = np.concatenate([np.flatnonzero(data.index.splits == split) for split in splits])
    return _Part(data, name or data.index.name, rows, data.index.splits[rows], read_hashes(data)[rows])


def _measured(target: PreparedData) -> _Part:
    """Return the images that a target is measured on; over all folds, each is in the test split once."""
    if target.index.fold_splits is None or target.dataset.fold is not None:
        return _part(target, ("val", "test"))
    rows = np.arange(len(target.index))
    return _Part(target, target.index.name, rows, np.full(len(rows), "test"), read_hashes(target)[rows])


def _worst_first(leaks: Sequence[_Leak], seen: _Part, measured: _Part) -> list[_Leak]:
    """Return the pairs that are leaks: test images that pretraining trains on first."""

    def harmless(leak: _Leak) -> tuple[bool, bool]:
        return measured.splits[leak.measured] != "test", seen.splits[leak.seen] != "train"

    harmful = [leak for leak in leaks if not all(harmless(leak))]
    return sorted(harmful, key=lambda leak: (*harmless(leak), leak.measured))


def _identical(seen: _Part, measured: _Part) -> list[_Leak]:
    """Return for each measured image with the pixels of a seen one the first such pair, train before val."""
    first = np.lexsort((seen.rows, seen.splits == "val", seen.table["pixels"]))
    digests = seen.table["pixels"][first]
    if not len(digests):
        return []
    places = np.minimum(np.searchsorted(digests, measured.table["pixels"]), len(digests) - 1)
    same = np.flatnonzero(digests[places] == measured.table["pixels"])
    return [_Leak(int(first[places[row]]), row) for row in same.tolist()]


def _alike(seen: _Part, measured: _Part) -> list[_Leak]:
    return [_Leak(*pair) for pair in near_matches(seen.table["thumbnail"], measured.table["thumbnail"])]


def _tally(leaks: Sequence[_Leak], seen: _Part, measured: _Part) -> str:
    """Return the number of images per pair of splits, source and target; empty for a single image."""
    if len(leaks) == 1:
        return ""
    kinds = Counter((str(seen.splits[leak.seen]), str(measured.splits[leak.measured])) for leak in leaks)
    return f" ({', '.join(f'{n} of its {a} split in {b}' for (a, b), n in kinds.items())})"


def _named(leaks: Sequence[_Leak], seen: _Part, measured: _Part, sign: str) -> str:
    return some(f"{seen.named(leak.seen)} {sign} {measured.named(leak.measured)}" for leak in leaks)
