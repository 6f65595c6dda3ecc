"""How a network's head starts: from the weights' head, matched to the data set's classes by name, or anew."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from frostline.console.errors import FrostlineError

NAMED = 4
"""Classes that a sentence names, at most."""


class NoSharedClasses(FrostlineError):
    """The head would start anew and never train, so that its predictions would mean nothing."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        """Why the weights' head can't be used."""
        super().__init__(
            f"freeze: nothing trains, and the head would start anew, since {reason}; choose a schedule that"
            " trains the head, such as freeze=linear_probe"
        )


@dataclass(frozen=True)
class HeadStart:
    """What a head starts from."""

    start: Literal["random", "reset", "kept", "matched"]
    """random: as the network draws it. reset: the weights' head is not used. kept: the weights' head, whose
    classes are the data set's. matched: its rows of the classes that the data set has, too."""
    rows: tuple[int | None, ...] | None = None
    """For each class of the data set its row in the weights' head, None: it has none. No rows: as it is."""
    notice: str = ""
    """What people should know, beginning with the key; empty where all is as expected."""
    warns: bool = False
    """Whether that is a warning."""

    @property
    def is_informed(self) -> bool:
        """Whether predictions before any training mean something."""
        return self.start in ("kept", "matched")

    def to_dict(self) -> dict[str, str]:
        """Return what training.json says of it."""
        return {"start": self.start, "notice": self.notice}


RANDOM = HeadStart("random")


def head_start(
    head: Literal["auto", "keep", "reset"],
    known: Sequence[str] | None,
    classes: Sequence[str],
    *,
    source: str,
    trains: bool,
) -> HeadStart:
    """Decide how the head starts.

    Args:
        head: the config's word. keep: the weights' head, or an error. auto: the weights' head where its
            classes are the data set's, else anew; where nothing trains, the rows of the shared classes.
        known: the classes of the weights' head, in its order; None: not recorded.
        classes: the data set's.
        source: what to call the weights in an error.
        trains: whether the run trains anything.

    Raises:
        NoSharedClasses: nothing trains, and the weights' head can't be used.
        FrostlineError: `keep`, and the classes differ.
    """
    if head == "reset" or known is None:
        reason = (
            "the weights' head is not used" if head == "reset" else "the weights do not record their classes"
        )
        if head == "keep":
            assumed = f"assumed to be the data set's in the same order: {_named(classes)}"
            return HeadStart(
                "kept", None, f"weights.head: kept; the weights do not record their classes, {assumed}", True
            )
        if not trains:
            raise NoSharedClasses(reason)
        return HeadStart("reset", notice="" if head == "reset" else f"weights.head: reset, since {reason}")
    shared = set(known) & set(classes)
    rows = tuple(known.index(name) if name in shared else None for name in classes)
    if set(known) == set(classes):
        if tuple(known) == tuple(classes):
            return HeadStart("kept")
        return HeadStart("kept", rows, "weights.head: kept; its rows are matched to the classes by name")
    differ = _difference(known, classes)
    if head == "keep":
        raise FrostlineError(
            f"weights.head: found keep for {source}, but {differ}; a head can be kept for the same classes"
            " only: set weights.head=reset"
        )
    if trains:
        return HeadStart("reset", notice=f"weights.head: reset, since {differ}")
    if not shared:
        raise NoSharedClasses(differ)
    others = ", the others start at the mean of the weights' rows" if None in rows else ""
    return HeadStart(
        "matched",
        rows,
        f"weights.head: {len(shared)} of {len(classes)} classes are matched by name{others}, since {differ}",
        warns=True,
    )


def check_trained(head: HeadStart, names: Collection[str], trained: Collection[str]) -> None:
    """Refuse a head that starts at zero and never trains: below it, nothing would learn, either.

    Args:
        head: what it starts from.
        names: of its tensors.
        trained: the names of all that some phase trains.

    Raises:
        FrostlineError: it is so.
    """
    if head.start == "reset" and trained and not set(trained) & set(names):
        reason = head.notice.removeprefix("weights.head: ") or "the weights' head is not used"
        raise FrostlineError(
            f"freeze.phases: none trains the head, which starts at zero ({reason}); let one train it, as"
            " freeze=linear_probe does"
        )


def rearranged(tensor: torch.Tensor, rows: Sequence[int | None], dim: int) -> torch.Tensor:
    """Return a tensor of a head with its classes, along `dim`, in the order of `rows`.

    A class without a row gets the mean of all: its logit is the mean of the others', whatever the image, so
    that it neither wins nor depends on a constant that all rows share, which softmax does not see.

    Args:
        tensor: (…, K, …), K classes of the weights along `dim`.
        rows: for each of C classes its row, or None.
        dim: the dimension of the classes.

    Returns:
        (…, C, …)
    """
    mean = tensor.mean(dim, dtype=tensor.dtype)
    return torch.stack([mean if row is None else tensor.select(dim, row) for row in rows], dim)


def _difference(known: Collection[str], classes: Collection[str]) -> str:
    """Say how two sets of classes differ."""
    here, there = ([name for name in a if name not in b] for a, b in ((classes, known), (known, classes)))
    parts = [f"only the data set has {_named(here)}"] * bool(here)
    parts += [f"only the weights have {_named(there)}"] * bool(there)
    return f"the classes differ: {' and '.join(parts)}"


def _named(names: Sequence[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > NAMED else ""
    return ", ".join(repr(name) for name in names[:NAMED]) + more
