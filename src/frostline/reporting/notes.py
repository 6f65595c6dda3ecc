"""Notes of a report on what limits its numbers, such as missing seeds or a saturated baseline."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from frostline.base.metrics import ACCURACY
from frostline.console import units
from frostline.reporting import words
from frostline.reporting.inputs import Arm, Selection
from frostline.reporting.learned import Majority
from frostline.reporting.repeats import Repeats
from frostline.reporting.results import ArmSummary
from frostline.stats.transfer import BASELINE

SATURATED = 0.99
"""A baseline with this accuracy leaves a transfer little to gain."""


def report_notes(
    repeats: Repeats,
    arms: Sequence[Arm],
    summaries: Sequence[ArmSummary],
    majority: Majority | None,
    omitted: Mapping[str, str],
) -> list[str]:
    """Return the notes, one or more sentences each; omitted arms first, heads last."""
    return [
        *(f"There is no arm {name}: {reason}." for name, reason in omitted.items()),
        *filter(None, [repeats.sentence]),
        *_tta(arms),
        *_limits(repeats, arms, summaries, majority),
        *_heads(arms),
    ]


def selection_of(arms: Sequence[Arm]) -> Selection | None:
    """Return what chose the epochs of the arms that train; all have the same data set."""
    trainings = (run.training for arm in arms for run in arm.runs.values())
    return next((training.selection for training in trainings if training.epochs), None)


def _tta(arms: Sequence[Arm]) -> list[str]:
    """Return a note with the arms' metric without test-time augmentation, if that is used."""
    metric = next(run.metric for arm in arms for run in arm.runs.values())
    without = {arm.name: list(arm.metric("without_tta", metric).values()) for arm in arms}
    means = [f"{name} {words.percent(fmean(values))}" for name, values in without.items() if values]
    if not means:
        return []
    split = "test" if arms[0].held_out == "test" else "validation"
    plain = f"{'Accuracies' if metric == ACCURACY else metric} without it: {', '.join(means)}."
    return [f"Metrics on {split} are measured with test-time augmentation. {plain}"]


def _heads(arms: Sequence[Arm]) -> list[str]:
    """Return the notices about the arms' heads; arms with the same notice share a sentence."""
    notices: dict[str, list[str]] = {}
    for arm in arms:
        head = next(iter(arm.runs.values())).training.head
        if head is not None and head.notice:
            notices.setdefault(head.notice, []).append(arm.name)
    return [f"{', '.join(names)}: {notice}." for notice, names in notices.items()]


def _limits(
    repeats: Repeats, arms: Sequence[Arm], summaries: Sequence[ArmSummary], majority: Majority | None
) -> list[str]:
    notes: list[str] = []
    if not all(summary.test for summary in summaries):
        selection = selection_of(arms)
        own = selection is None or selection.chooses == "val"
        bias = ", which also selected each run's epoch: accuracies are overestimated" if own else ""
        notes.append(f"There is no test split: accuracies and gains are on validation{bias}.")
    if len(repeats.all) == 1:
        notes.append(f"A single {repeats.noun}: there are no intervals, and nothing can be decided.")
    if all(arm.name != BASELINE for arm in arms):
        notes.append(f"There is no arm named {BASELINE}, so no gain can be measured.")
    for arm, summary in zip(arms, summaries, strict=True):
        notes += filter(
            None,
            [
                _missing(repeats, summary),
                _unlearned(summary, majority) if summary.name == BASELINE else _below(summary, majority),
                _never(summary, arm.headline, repeats),
                _ceiling(summary),
                _alike(summary, repeats),
            ],
        )
        lengths = {len(run.val_curve) - 1 for run in arm.runs.values()}
        if len(lengths) > 1:
            notes.append(
                f"The runs of {arm.name} last {min(lengths)} to {max(lengths)} epochs; in the curves, one "
                "that ended keeps its last value."
            )
    return notes


def _missing(repeats: Repeats, arm: ArmSummary) -> str:
    missing = [repetition for repetition in repeats.all if repetition not in arm.repetitions]
    if not missing:
        return ""
    return (
        f"{arm.name} has {len(arm.repetitions)} of {units.counted(len(repeats.all), repeats.noun)} "
        f"(without {repeats.listed(missing)}), so its numbers rest on fewer runs."
    )


def _below(arm: ArmSummary, majority: Majority | None) -> str:
    accuracy = arm.score.mean
    if majority is None or majority.is_beaten_by(accuracy):
        return ""
    return (
        f"{arm.name} is at {words.percent(accuracy)} on {majority.split}, not above the"
        f" {words.percent(majority.rate)} of always predicting {majority.name}."
    )


def _unlearned(baseline: ArmSummary, majority: Majority | None) -> str:
    """Return a note if the baseline is not clearly better than always predicting one class."""
    if majority is None or baseline.learned == "clear":
        return ""
    score, epochs = baseline.score, units.counted(baseline.epochs, "epoch")
    own = f"it is at {words.percent(score.mean)} on {majority.split}"
    rate = f"{words.percent(majority.rate)} of always predicting {majority.name}"
    if baseline.learned == "none":
        found = f"has learned nothing in {epochs}: {own}, not above the {rate}"
    else:
        interval = f"95 % interval, {words.interval(score)}, includes the {rate}"
        found = f"may have learned nothing in {epochs}: {own}, and the {interval}"
    return (
        f"The from-scratch baseline {found}. So a gain over it says little of the transfer: set"
        f" trainer.epochs above {baseline.epochs}."
    )


def _never(arm: ArmSummary, metric: str, repeats: Repeats) -> str:
    if arm.comparison is None or arm.epochs_to_baseline is None or arm.epochs == 0:
        return ""
    if arm.epochs_to_baseline.reached == 0:
        return f"{arm.name} never reaches the baseline's best validation {metric}."
    missed = words.missed(arm.epochs_to_baseline, repeats.noun)
    return f"{arm.name} does not reach the baseline's best validation {metric} in {missed}." if missed else ""


def _ceiling(arm: ArmSummary) -> str:
    accuracy, split = arm.score.mean, "test" if arm.test else "validation"
    if accuracy < SATURATED:
        return ""
    if arm.name == BASELINE:
        return (
            f"The from-scratch baseline is already at {words.percent(accuracy)} on {split}, which leaves "
            "little to gain; fewer shots or a harder target would tell the arms apart."
        )
    return f"{arm.name} is at {words.percent(accuracy)} on {split}: near the ceiling, where gains shrink."


def _alike(arm: ArmSummary, repeats: Repeats) -> str:
    if arm.comparison is None or arm.comparison.gain.std != 0:
        return ""
    gain = words.points(arm.comparison.gain.mean)
    return (
        f"{arm.name} differs from the baseline by the same {gain} points in every {repeats.noun}; without a "
        + ("spread, its p-value is that of sign flips." if repeats.folds is None else "spread, it has no p.")
    )
