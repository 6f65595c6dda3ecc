"""The repetitions of a study's arm: its seeds, or its folds times its seeds."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

Value = TypeVar("Value")


class Repetition(NamedTuple):
    """What one of an arm's runs differs in from the others."""

    fold: int | None
    """The fold that is the test split; None: no folds."""
    seed: int

    @property
    def folder(self) -> str:
        """The run's folder below its arm's: ``seed-0``, or ``fold-1/seed-0``."""
        return f"seed-{self.seed}" if self.fold is None else f"fold-{self.fold}/seed-{self.seed}"

    def __str__(self) -> str:
        return f"seed {self.seed}" if self.fold is None else f"fold {self.fold}, seed {self.seed}"


def repetitions(seeds: Sequence[int], folds: Sequence[int] | None) -> list[Repetition]:
    """Return all pairs, fold by fold; without folds one repetition per seed."""
    of: Sequence[int | None] = [None] if folds is None else folds
    return [Repetition(fold, seed) for fold in of for seed in seeds]


def as_json(values: Mapping[Repetition, Value]) -> dict[str, Any]:
    """Return ``{"seeds": {seed: value}}``, with folds ``{"folds": {fold: {"seeds": {seed: value}}}}``.

    >>> as_json({Repetition(0, 7): "a"}), as_json({Repetition(None, 7): "a"})
    ({'folds': {'0': {'seeds': {'7': 'a'}}}}, {'seeds': {'7': 'a'}})
    """
    folds: dict[int | None, dict[str, Value]] = {}
    for repetition, value in values.items():
        folds.setdefault(repetition.fold, {})[str(repetition.seed)] = value
    if None in folds:
        return {"seeds": folds[None]}
    return {"folds": {str(fold): {"seeds": seeds} for fold, seeds in folds.items()}}


def from_json(content: Mapping[str, Any]) -> dict[Repetition, Any]:
    """Return what `as_json` wrote; a file without repetitions has none.

    Raises:
        ValueError: a fold or a seed is no number.
    """
    of_fold: dict[int | None, Mapping[str, Any]] = {None: content.get("seeds", {})}
    of_fold |= {int(fold): part["seeds"] for fold, part in content.get("folds", {}).items()}
    return {
        Repetition(fold, int(seed)): value for fold, seeds in of_fold.items() for seed, value in seeds.items()
    }
