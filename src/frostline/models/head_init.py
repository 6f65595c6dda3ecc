"""The initial head of a network: that of the weights, with classes matched by name, or a new one."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from frostline.console.errors import FrostlineError

DIFFER = "the classes differ"
NAMED = 4
"""Maximum number of classes that a sentence names."""


class HeadNotUsable(FrostlineError):
    """The weights' head can't be used and no phase trains it, so predictions would be meaningless."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        """Why the weights' head can't be used."""
        super().__init__(
            f"freeze: nothing trains, and the head would start anew, since {reason}; choose a schedule that"
            " trains the head, such as freeze=linear_probe"
        )


@dataclass(frozen=True)
class HeadInit:
    """How a head is initialized."""

    start: Literal["random", "reset", "kept", "matched"]
    """random: no weights are loaded. reset: the weights' head is not loaded; the new one starts at zero.
    kept: the weights' head. matched: its rows for the classes that it has, their mean for others."""
    rows: tuple[int | None, ...] | None = None
    """For each class of the data set its row in the weights' head, or None if the weights lack the class. If
    `rows` is None, the head's rows are used as they are."""
    notice: str = ""
    """Message to the user, which begins with the config key; empty if there is nothing to say."""
    warns: bool = False
    """Whether the notice is a warning."""

    @property
    def short_notice(self) -> str:
        """The notice without the names of classes, which training.json has."""
        return re.sub(rf"{DIFFER}: .*", f"{DIFFER} (training.json names them)", self.notice)

    @property
    def is_informed(self) -> bool:
        """Whether predictions are meaningful before any training."""
        return self.start in ("kept", "matched")

    def to_dict(self) -> dict[str, str]:
        """Return the entries of training.json."""
        return {"start": self.start, "notice": self.notice}


RANDOM = HeadInit("random")


def choose_head_init(
    head: Literal["auto", "keep", "reset"],
    known: Sequence[str] | None,
    classes: Sequence[str],
    *,
    source: str,
    trains: bool,
) -> HeadInit:
    """Choose the initialization of the head.

    Args:
        head: `weights.head`. keep: the weights' head, or an error. auto: the weights' head if it has the data
            set's classes, else a new head, or the rows of the shared classes if nothing trains.
        known: classes of the weights' head, in order; None: not recorded.
        classes: classes of the data set, in order.
        source: name of the weights in errors.
        trains: whether the run trains anything.

    Raises:
        HeadNotUsable: nothing trains, and the weights' head can't be used.
        FrostlineError: `keep`, and the classes differ.
    """
    if head == "reset" or known is None:
        reason = (
            "the weights' head is not used" if head == "reset" else "the weights do not record their classes"
        )
        if head == "keep":
            assumed = f"assumed to be the data set's in the same order: {_named(classes)}"
            return HeadInit(
                "kept", None, f"weights.head: kept; the weights do not record their classes, {assumed}", True
            )
        if not trains:
            raise HeadNotUsable(reason)
        return HeadInit("reset", notice="" if head == "reset" else f"weights.head: reset, since {reason}")
    shared = set(known) & set(classes)
    rows = tuple(known.index(name) if name in shared else None for name in classes)
    if set(known) == set(classes):
        if tuple(known) == tuple(classes):
            return HeadInit("kept")
        return HeadInit("kept", rows, "weights.head: kept; its rows are matched to the classes by name")
    differ = _difference(known, classes)
    if head == "keep":
        raise FrostlineError(
            f"weights.head: found keep for {source}, but {differ}; a head can be kept for the same classes"
            " only: set weights.head=reset"
        )
    if trains:
        return HeadInit("reset", notice=f"weights.head: reset, since {differ}")
    if not shared:
        raise HeadNotUsable(differ)
    others = ", the others start at the mean of the weights' rows" if None in rows else ""
    return HeadInit(
        "matched",
        rows,
        f"weights.head: {len(shared)} of {len(classes)} classes are matched by name{others}, since {differ}",
        warns=True,
    )


def check_new_head_trains(head: HeadInit, names: Collection[str], trained: Collection[str]) -> None:
    """Refuse a head that starts at zero and never trains: no gradient would reach the layers below.

    Args:
        trained: names of all tensors that any phase trains.
    """
    if head.start == "reset" and trained and not set(trained) & set(names):
        reason = head.notice.removeprefix("weights.head: ") or "the weights' head is not used"
        raise FrostlineError(
            f"freeze.phases: none trains the head, which starts at zero ({reason}); let one train it, as"
            " freeze=linear_probe does"
        )


def reorder_classes(tensor: torch.Tensor, rows: Sequence[int | None], dim: int) -> torch.Tensor:
    """Return a tensor of a head with its rows along `dim` in the order of `rows`.

    A class without a row gets the mean of the weights' rows, so that its logit is the mean of the logits of
    all K classes of the weights. A constant added to all rows shifts its logit as it shifts the others, and
    does not change the softmax.

    Args:
        tensor: (…, K, …), K classes of the weights along `dim`.
        rows: row of each of the C classes, or None.
        dim: dimension of the classes.

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
    return f"{DIFFER}: {' and '.join(parts)}"


def _named(names: Sequence[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > NAMED else ""
    return ", ".join(repr(name) for name in names[:NAMED]) + more
