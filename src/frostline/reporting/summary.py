"""Summarize a study: compare every arm with the from-scratch baseline."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from frostline.base.metrics import MAP, MEAN_DIGITS, SHARES
from frostline.reporting.inputs import Arm, SeedRun
from frostline.reporting.learned import Learning, Majority, learning, majority_class
from frostline.reporting.notes import report_notes, selection_of
from frostline.reporting.repeats import Repeats
from frostline.reporting.results import ArmSummary, BaselineComparison, Point, Summary
from frostline.stats import transfer
from frostline.stats.transfer import BASELINE, Estimate, Gain

SHARE, ANY = (0.0, 1.0), (-math.inf, math.inf)
"""The bounds of a share, and of a quantity without bounds."""


def summarize(
    study: str,
    monitor: str,
    repeats: Repeats,
    arms: Sequence[Arm],
    omitted: Mapping[str, str] | None = None,
) -> Summary:
    """Compare `arms` with the from-scratch baseline among them, the arm `scratch`.

    Args:
        monitor: what chose each run's best epoch.
        arms: at least one.
    """
    baseline = next((arm for arm in arms if arm.name == BASELINE), None)
    longest = max(len(run.val_curve) - 1 for arm in arms for run in arm.runs.values())
    over = _Over(repeats.overlap, longest)
    majority = _majority(arms)
    # Chosen on validation, so that the gain on test is not selected on itself; ties go to the first.
    candidates = [arm for arm in arms if arm is not baseline]
    best = max(candidates, key=_val_score, default=None)
    learned = {
        arm.name: learning(list(arm.runs.values()), arm.held_out, majority, over.overlap) for arm in arms
    }
    comparison = _comparisons(arms, baseline, best, learned, over)
    summaries = [_summary(arm, baseline, comparison.get(arm.name), learned[arm.name], over) for arm in arms]
    chosen = next((arm for arm in summaries if best and arm.name == best.name), None)
    return Summary(
        study=study,
        monitor=monitor,
        metric=arms[0].headline,
        repeats=repeats,
        arms=summaries,
        baseline_best=fmean(max(curve) for curve in baseline.val_curves().values()) if baseline else None,
        chosen=chosen,
        majority=majority,
        omitted=dict(omitted or {}),
        notes=report_notes(repeats, arms, summaries, majority, omitted or {}),
        selection=selection_of(arms),
    )


def _val_score(arm: Arm) -> float:
    """Return the arm's validation accuracy or mAP, the mean over its runs."""
    return round(fmean(arm.metric("val", arm.headline).values()), MEAN_DIGITS)


@dataclass(frozen=True)
class _Over:
    """What estimates are over."""

    overlap: float
    """Of the training sets; see `stats.transfer.estimate`."""
    epochs: int
    """Of the longest run of all arms."""


def _majority(arms: Sequence[Arm]) -> Majority | None:
    """Return the majority class; all runs of a fold are measured on the same images. None: several labels."""
    if arms[0].headline == MAP:
        return None
    of_fold = {repetition.fold: run.labels for repetition, run in arms[0].runs.items()}
    return majority_class(arms[0].held_out, of_fold.values())


def _comparisons(
    arms: Sequence[Arm],
    baseline: Arm | None,
    best: Arm | None,
    learned: Mapping[str, Learning],
    over: _Over,
) -> dict[str, BaselineComparison]:
    """Compare each arm with the baseline, where they share a repetition."""
    if baseline is None:
        return {}
    overlap = over.overlap
    gains: dict[str, Gain] = {}
    pairs: dict[str, tuple[Estimate, Estimate]] = {}
    for arm in arms:
        split = baseline.held_out
        own_values, base_values = (each.metric(split, arm.headline) for each in (arm, baseline))
        gain = transfer.paired_gain(own_values, base_values, overlap=overlap)
        if arm is not baseline and gain is not None:
            gains[arm.name] = gain
            shared = [key for key in own_values if key in base_values]
            pairs[arm.name] = (
                transfer.estimate([own_values[key] for key in shared], bounds=SHARE, overlap=overlap),
                transfer.estimate([base_values[key] for key in shared], bounds=SHARE, overlap=overlap),
            )
    corrected = transfer.holm({name: gain.p for name, gain in gains.items() if gain.p is not None})
    result: dict[str, BaselineComparison] = {}
    for arm in arms:
        if arm.name not in gains:
            continue
        own, base = arm.val_curves(), baseline.val_curves()
        jumpstart = transfer.jumpstart(own, base, overlap=overlap)
        asymptote = transfer.asymptote(own, base, overlap=overlap)
        assert asymptote is not None
        result[arm.name] = BaselineComparison(
            learned={learned[arm.name], learned[baseline.name]} != {"none"},
            gain=gains[arm.name],
            pair=pairs[arm.name],
            p_holm=corrected.get(arm.name),
            planned=arm is best,
            jumpstart=jumpstart if _is_informed(arm) else None,
            asymptote=asymptote,
            transfer_ratio=transfer.transfer_ratio(own, base, over.epochs, overlap=overlap),
        )
    return result


def _summary(
    arm: Arm,
    baseline: Arm | None,
    comparison: BaselineComparison | None,
    learned: Learning,
    over: _Over,
) -> ArmSummary:
    def share(values: Sequence[float]) -> Estimate:
        return transfer.estimate(values, bounds=SHARE, overlap=over.overlap)

    runs = list(arm.runs.values())
    first = arm.runs[min(arm.runs)].scores.test
    metrics = {name: arm.metric("test", name) for name in first if name != "n"}
    to_baseline = _times_to_baseline(arm, baseline) if baseline else []
    return ArmSummary(
        name=arm.name,
        repetitions=list(arm.runs),
        test={
            name: transfer.estimate(
                list(values.values()), bounds=SHARE if name in SHARES else ANY, overlap=over.overlap
            )
            for name, values in sorted(metrics.items())
            if len(values) == len(runs)
        },
        val_score=share(list(arm.metric("val", arm.headline).values())),
        curve=[Point(epoch, share(values)) for epoch, values in enumerate(_padded(runs, over.epochs))],
        best_epoch=median(run.training.best_epoch for run in runs),
        epochs=max(len(run.val_curve) - 1 for run in runs),
        train_seconds=transfer.estimate([run.clock.train_seconds for run in runs], bounds=(0, math.inf)),
        all_train_seconds=sum(run.clock.train_seconds for run in runs),
        epochs_to_baseline=transfer.time_to_threshold([epoch for epoch, _ in to_baseline])
        if to_baseline
        else None,
        seconds_to_baseline=transfer.time_to_threshold([time for _, time in to_baseline])
        if to_baseline
        else None,
        comparison=comparison,
        learned=learned,
        test_sets={
            name: share(values)
            for name in arm.runs[min(arm.runs)].scores.test_sets
            if (values := _accuracies(runs, name))
        },
    )


def _accuracies(runs: Sequence[SeedRun], test_set: str) -> list[float]:
    """Return the accuracies on a further test set of the runs that were measured on it."""
    measured = [run.scores.test_sets.get(test_set, {}).get(run.metric) for run in runs]
    return [value for value in measured if value is not None]


def _padded(runs: Sequence[SeedRun], epochs: int) -> Iterable[tuple[float, ...]]:
    """Return the runs' validation accuracies after 0, 1, … epochs."""
    return zip(*(transfer.pad_curve(run.val_curve, epochs) for run in runs), strict=True)


def _times_to_baseline(arm: Arm, baseline: Arm) -> list[tuple[int | None, float | None]]:
    """Return when the arm reaches the baseline's best in each repetition: epochs and seconds, or None."""
    times: list[tuple[int | None, float | None]] = []
    for key in sorted(arm.runs.keys() & baseline.runs.keys()):
        run = arm.runs[key]
        epoch = transfer.epochs_to_threshold(run.val_curve, max(baseline.runs[key].val_curve))
        if epoch is None:
            times.append((None, None))
        else:
            times.append((epoch, run.clock.epoch_seconds[epoch - 1] if epoch else 0.0))
    return times


def _is_informed(arm: Arm) -> bool:
    """Whether the arm's predictions before any training come from the weights' head."""
    heads = [run.training.head for run in arm.runs.values()]
    return all(head is None or head.start in ("kept", "matched") for head in heads)
