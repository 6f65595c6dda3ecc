"""The results of a study: each arm's estimates, its comparison with the baseline, the verdict."""

from collections.abc import Mapping
from dataclasses import dataclass

from frostline.reporting import words
from frostline.stats.transfer import TWIN, Estimate, Gain, Outcome, Reach


@dataclass(frozen=True)
class Point:
    """Validation accuracy of an arm after some epochs, over seeds."""

    epoch: int
    accuracy: Estimate


@dataclass(frozen=True)
class Against:
    """An arm held against the twin, over the seeds that both have."""

    outcome: Outcome
    gain: Gain
    """In test accuracy."""
    p_holm: float | None
    """The gain's p-value, corrected for the number of arms compared."""
    jumpstart: Gain | None
    """In validation accuracy, before any training; None where the arm's head starts anew."""
    asymptote: Gain
    """In the best validation accuracy of the run."""
    transfer_ratio: Estimate | None
    """Of the areas under the validation curves: (arm − twin) / twin."""


@dataclass(frozen=True)
class ArmSummary:
    """One arm's results over its seeds."""

    name: str
    seeds: list[int]
    test: dict[str, Estimate]
    """By metric, of the epoch that validation chose; empty where there is no test split."""
    val_accuracy: Estimate
    """Of the same epoch."""
    curve: list[Point]
    best_epoch: float
    """Median over seeds."""
    epochs: int
    """Of the longest run."""
    train_seconds: Estimate
    """One run's."""
    all_train_seconds: float
    """All runs'."""
    to_twin_epochs: Reach | None
    """To reach the best validation accuracy that the twin of the same seed reaches; None without a twin."""
    to_twin_seconds: Reach | None
    against: Against | None
    """None for the twin, and where the study has none."""

    @property
    def accuracy(self) -> Estimate:
        """On test, or on validation where there is no test split."""
        return self.test["accuracy"] if self.test else self.val_accuracy


@dataclass(frozen=True)
class Majority:
    """What always answering the most frequent class would come to."""

    split: str
    """Of which it is: test, or validation where there is no test split."""
    name: str
    """The class; the first of those that are as frequent."""
    rate: float
    """Its share of the split's images, 0…1."""

    @property
    def sentence(self) -> str:
        """Say so."""
        return (
            f"Always answering the most frequent class of the {self.split} split, {self.name}, is right for"
            f" {words.percent(self.rate)} of its images."
        )


@dataclass(frozen=True)
class Summary:
    """A study's results."""

    study: str
    monitor: str
    seeds: list[int]
    arms: list[ArmSummary]
    twin_best: float | None
    """The best validation accuracy of the twin's runs, mean over seeds; None without a twin."""
    chosen: ArmSummary | None
    """The arm that stands for the transfer: of those that are not the twin, the best on validation."""
    majority: Majority
    omitted: Mapping[str, str]
    """Arms that the study does without, and why."""
    notes: list[str]
    """What a reader should know beside the numbers."""

    @property
    def twin(self) -> ArmSummary | None:
        """The arm trained from scratch."""
        return next((arm for arm in self.arms if arm.name == TWIN), None)

    @property
    def outcome(self) -> Outcome:
        """Whether transfer helped, by the chosen arm."""
        against = self.chosen.against if self.chosen else None
        return against.outcome if against else "undecided"

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        chosen, twin = self.chosen, self.twin
        return words.verdict_sentence(
            self.outcome,
            chosen.name if chosen else None,
            chosen.against.gain if chosen and chosen.against else None,
            chosen.accuracy if chosen else None,
            twin.accuracy if twin else None,
            self.measured,
        )

    @property
    def headline(self) -> str:
        """The verdict in a few words."""
        against = self.chosen.against if self.chosen else None
        return words.headline(self.outcome, against.gain if against else None, self.measured)

    @property
    def measured(self) -> str:
        """What accuracies and gains are of: ``test``, or ``validation`` where there is no test split."""
        return "test" if all(arm.test for arm in self.arms) else "validation"
