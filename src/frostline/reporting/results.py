"""The results of a study: each arm's estimates, its comparison with the baseline, the verdict."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from frostline.base.metrics import headline
from frostline.base.repetitions import Repetition
from frostline.reporting.inputs import Selection
from frostline.reporting.learned import Learning, Majority
from frostline.reporting.pretraining import Pretraining
from frostline.reporting.repeats import Repeats
from frostline.reporting.verdict import Verdict
from frostline.schema import StudySetup
from frostline.stats import transfer
from frostline.stats.transfer import BASELINE, Estimate, Gain, Outcome, TimeToThreshold


@dataclass(frozen=True)
class Point:
    """Validation accuracy, or mAP, of an arm after some epochs, over seeds."""

    epoch: int
    score: Estimate


@dataclass(frozen=True)
class BaselineComparison:
    """An arm compared with the baseline, over shared seeds."""

    learned: bool
    """Whether the arm or the baseline is better than always predicting one class."""
    gain: Gain
    """In test accuracy or mAP."""
    pair: tuple[Estimate, Estimate]
    """The arm's and the baseline's accuracy or mAP, over the same seeds as the gain."""
    p_holm: float | None
    """The gain's p-value, corrected for the number of arms compared."""
    planned: bool
    """Whether the arm is the one that validation chooses, whose comparison is the study's planned one."""
    jumpstart: Gain | None
    """In validation accuracy, before any training; None where the arm's head is reset."""
    asymptote: Gain
    """In the best validation accuracy of the run."""
    transfer_ratio: Estimate | None
    """Of the areas under the validation curves: (arm − baseline) / baseline."""

    @property
    def outcome(self) -> Outcome:
        """Whether transfer helped, by the corrected p; a planned comparison is decided by the gain's own.

        Undecided if nothing was learned.
        """
        if not self.learned:
            return "undecided"
        return transfer.verdict(self.gain, None if self.planned else self.p_holm)


@dataclass(frozen=True)
class ArmSummary:
    """One arm's results over its repetitions."""

    name: str
    repetitions: list[Repetition]
    test: dict[str, Estimate]
    """By metric, of the epoch that validation chose; empty where there is no test split."""
    val_score: Estimate
    """Of the same epoch."""
    curve: list[Point]
    best_epoch: float
    """Median over seeds."""
    epochs: int
    """Of the longest run."""
    train_seconds: Estimate
    """Training time of one run."""
    all_train_seconds: float
    """Sum over all runs."""
    epochs_to_baseline: TimeToThreshold | None
    """To reach the best validation accuracy of the baseline's run with the same fold and seed; None without a
    baseline."""
    seconds_to_baseline: TimeToThreshold | None
    comparison: BaselineComparison | None
    """None for the baseline, and in a study without one."""
    learned: Learning
    """Whether it is better than always predicting one class."""
    test_sets: Mapping[str, Estimate] = field(default_factory=dict)
    """Accuracy on the further test sets, by name."""

    @property
    def score(self) -> Estimate:
        """Accuracy or mAP on test, or on validation where there is no test split."""
        return self.test[headline(self.test)] if self.test else self.val_score


@dataclass(frozen=True)
class Summary:
    """A study's results."""

    study: str
    monitor: str
    metric: str
    """The metric of its results: accuracy, or mAP with several labels per image."""
    repeats: Repeats
    arms: list[ArmSummary]
    baseline_best: float | None
    """The best validation accuracy of the baseline's runs, mean over seeds; None without a baseline."""
    chosen: ArmSummary | None
    """The arm that represents the transfer: the best on validation of those other than the baseline."""
    majority: Majority | None
    """None with several labels per image."""
    omitted: Mapping[str, str]
    """Omitted arms, and why."""
    notes: list[str]
    """What limits the numbers, in sentences."""
    selection: Selection | None = None
    """What chose the epochs; None: nothing trained, or the runs predate this record."""
    setup: StudySetup | None = None
    """What the arms share; None: not known."""
    pretraining: Pretraining | None = None
    """None: nothing was pretrained, or it is not known."""

    @property
    def baseline(self) -> ArmSummary | None:
        """The arm trained from scratch."""
        return next((arm for arm in self.arms if arm.name == BASELINE), None)

    @property
    def has_jumpstart(self) -> bool:
        """Whether any arm has a jumpstart; none has where all heads are reset."""
        return any(arm.comparison is not None and arm.comparison.jumpstart is not None for arm in self.arms)

    @property
    def outcome(self) -> Outcome:
        """Whether transfer helped, by the chosen arm."""
        comparison = self.chosen.comparison if self.chosen else None
        return comparison.outcome if comparison else "undecided"

    @property
    def _baseline_learned(self) -> bool:
        return self.baseline is None or self.baseline.learned == "clear"

    def tone(self, outcome: Outcome) -> Outcome:
        """Return the outcome that colours one: undecided beside a baseline that hardly learned."""
        return outcome if self._baseline_learned else "undecided"

    @property
    def verdict(self) -> Verdict:
        """The verdict on the chosen arm."""
        chosen, baseline = self.chosen, self.baseline
        score = chosen.score if chosen else None
        own_baseline = baseline.score if baseline else None
        if chosen and chosen.comparison:
            score, own_baseline = chosen.comparison.pair
        return Verdict(
            self.outcome,
            arm=chosen.name if chosen else None,
            gain=chosen.comparison.gain if chosen and chosen.comparison else None,
            learned=chosen.comparison.learned if chosen and chosen.comparison else True,
            baseline_learned=self._baseline_learned,
            score=score,
            baseline=own_baseline,
            measured=self.measured,
            repeats=self.repeats,
            metric=self.metric,
            others={
                arm.name: arm.comparison.outcome for arm in self.arms if arm.comparison and arm is not chosen
            },
        )

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        return self.verdict.sentence

    @property
    def headline(self) -> str:
        """The verdict in a few words."""
        return self.verdict.headline

    @property
    def reported(self) -> str:
        """The name of the reported quantity: ``test accuracy``, ``validation mAP``, …"""
        return f"{self.measured} {self.metric}"

    @property
    def measured(self) -> str:
        """The split of accuracies and gains: ``test``, or ``validation`` where there is no test split."""
        return "test" if all(arm.test for arm in self.arms) else "validation"
