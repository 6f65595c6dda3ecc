"""Further test sets of a data set: another scanner, site or style, measured once, at the end."""

import difflib
from collections.abc import Sequence

import numpy as np

from frostline import schema
from frostline.base.names import nfc
from frostline.console.errors import FrostlineError, allowed
from frostline.data.prepared.index import Index
from frostline.data.reading.checks import some
from frostline.data.reading.decode import printable
from frostline.data.reading.source import Source
from frostline.data.reading.sources import open_test_set
from frostline.duplicates.search import Pair, near_matches
from frostline.preparation.assignment import check_labelled
from frostline.preparation.examine import Reading


def open_named(name: str, dataset: schema.Dataset) -> Source:
    """Return a further test set.

    Raises:
        FrostlineError: as `open_test_set`; the sentence names the key of the test set.
    """
    try:
        return open_test_set(dataset)
    except FrostlineError as error:
        raise FrostlineError(f"dataset.test_sets.{name}.{str(error).removeprefix('dataset.')}") from None


def index_of_test_set(
    name: str, dataset: schema.Dataset, reading: Reading, known: Sequence[str], place: str
) -> Index:
    """Return the index of a further test set, all of whose images are in the split test.

    Args:
        place: names it in errors.
        known: the classes of its data set, whose numbers its labels get.

    Raises:
        FrostlineError: it has classes that its data set does not have, or no image with a label.
    """
    check_labelled(reading.rows.labels, place)
    own = reading.source.classes
    numbers = {label: number for number, label in enumerate(known)}
    labels = reading.rows.labels
    several = labels.ndim == 2
    present = np.flatnonzero(labels.any(axis=0)) if several else np.unique(labels)
    check_known([own[number] for number in present.tolist()], known, place)
    mapped = np.array([numbers.get(nfc(label), -1) for label in own], dtype=np.int64)
    if several:
        renumbered = np.zeros((len(labels), len(known)), dtype=labels.dtype)
        renumbered[:, mapped[present]] = labels[:, present]
    else:
        renumbered = mapped[labels]
    tests = np.full(len(labels), "test", dtype="<U5")
    return reading.index(name, dataset.kind, tests, classes=tuple(known), labels=renumbered)


def check_known(classes: Sequence[str], known: Sequence[str], place: str) -> None:
    """Refuse classes that a data set does not have.

    Args:
        known: the data set's classes.
        place: names the further test set.

    Raises:
        FrostlineError: names the classes, and the nearest of `known`.
    """
    unknown = [label for label in classes if nfc(label) not in known]
    if not unknown:
        return
    named = some(repr(printable(label)) for label in unknown)
    which = f"the class {named}" if len(unknown) == 1 else f"{len(unknown)} classes, {named}"
    near = [name for label in unknown for name in difflib.get_close_matches(label.lower(), known, n=1)]
    raise FrostlineError(
        f"{place}: has {which}, which the training images do not have; "
        f"{allowed(unknown[0], known, near=list(dict.fromkeys(near)) or None)}"
    )


def check_apart(name: str, tested: Reading, reading: Reading, index: Index) -> list[Pair]:
    """Refuse a test set with images on which the data set's runs train or choose an epoch.

    Returns:
        Near-duplicates: positions of images of the data set, in train or val, and of the test set.

    Args:
        tested: the test set's images.
        reading: the data set's images, in the order of `index`.

    Raises:
        FrostlineError: names the images.
    """
    # With folds, an image is in the test split of one fold, and is used by all others.
    splits = index.splits.tolist() if index.fold_splits is None else ["train"] * len(index)
    used = {digest: row for row, digest in enumerate(reading.digests) if splits[row] != "test"}
    same = [(i, used[digest]) for i, digest in enumerate(tested.digests) if digest in used]
    if same:
        named = some(f"{tested.rows.keys[i]} = {reading.rows.keys[row]} ({splits[row]})" for i, row in same)
        many = "image that is" if len(same) == 1 else "images that are"
        raise FrostlineError(
            f"dataset.test_sets.{name}: has {len(same)} {many} also in the data set's train or val split, "
            f"{named}; remove them from one of the two"
        )
    seen = np.flatnonzero([split != "test" for split in splits])
    matches = near_matches(reading.thumbnails[seen], tested.thumbnails)
    return [Pair(int(seen[first]), second) for first, second in matches]
