"""What the means of a study are over: seeds, or folds and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from frostline.base.repetitions import Repetition, repetitions
from frostline.console import units
from frostline.stats.transfer import fold_overlap


@dataclass(frozen=True)
class Repeats:
    """The repetitions of every arm, and the words for them."""

    seeds: Sequence[int]
    folds: Sequence[int] | None = None
    """The folds that were run; None: no folds."""
    of_folds: int = 1
    """The number of folds of the data set."""
    all: list[Repetition] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "all", repetitions(self.seeds, self.folds))

    @property
    def overlap(self) -> float:
        """The overlap of the training sets, for `stats.transfer.estimate`."""
        return fold_overlap(len(self.folds or ()), self.of_folds)

    @property
    def noun(self) -> str:
        """What is counted: seed, or run with folds."""
        return "seed" if self.folds is None else "run"

    @property
    def over(self) -> str:
        """What means are over."""
        return "seeds" if self.folds is None else "folds and seeds"

    @property
    def pair(self) -> str:
        """What an arm's run and the baseline's share."""
        return "seed" if self.folds is None else "fold and seed"

    def counted(self, n: int) -> str:
        """Return a number of repetitions: ``3 seeds``, or ``15 runs (5 folds × 3 seeds)``."""
        text = units.counted(n, self.noun)
        if self.folds is None or n != len(self.all):
            return text
        factors = units.counted(len(self.folds), "fold"), units.counted(len(self.seeds), "seed")
        return f"{text} ({' × '.join(factors)})"

    @property
    def sentence(self) -> str:
        """What intervals are over, and how they are corrected; empty without folds."""
        if self.folds is None:
            return ""
        text = f"Intervals and p-values are over {self.counted(len(self.all))}"
        if not self.overlap:
            return f"{text}."
        return (
            f"{text}; since the folds' training images overlap, they are those of the corrected resampled "
            f"t-test (Nadeau & Bengio 2003): the variance of a mean is (1/{len(self.all)} + "
            f"1/{self.of_folds - 1})·s²."
        )

    def listed(self, missing: Sequence[Repetition]) -> str:
        """Return the names of repetitions: ``1, 2``, or ``fold 0, seed 1; fold 2, seed 1``."""
        if self.folds is None:
            return ", ".join(str(repetition.seed) for repetition in missing)
        return "; ".join(map(str, missing))
