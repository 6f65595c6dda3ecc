"""The study in numbers: every arm held against its twin. Page, Markdown and picture show these."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, median

from frostline.base.metrics import SHARES
from frostline.reporting.inputs import Arm, SeedRun
from frostline.reporting.notes import report_notes
from frostline.reporting.results import Against, ArmSummary, Majority, Point, Summary
from frostline.stats import transfer
from frostline.stats.transfer import TWIN, Gain

SHARE, ANY = (0.0, 1.0), (-math.inf, math.inf)
"""The bounds of a share, and of a quantity without bounds."""


def summarise(
    study: str,
    monitor: str,
    seeds: Sequence[int],
    arms: Sequence[Arm],
    omitted: Mapping[str, str] | None = None,
) -> Summary:
    """Compare `arms` with the from-scratch baseline among them, the arm `scratch`.

    Args:
        study: its name.
        monitor: what chose each run's best epoch.
        seeds: of the study.
        arms: at least one.
        omitted: arms that the study does without, and why.
    """
    twin = next((arm for arm in arms if arm.name == TWIN), None)
    longest = max(len(run.val_accuracy) - 1 for arm in arms for run in arm.runs.values())
    against = _against(arms, twin, longest)
    summaries = [_summary(arm, twin, against.get(arm.name), longest) for arm in arms]
    candidates = [arm for arm in summaries if arm.name != TWIN]
    # Chosen on validation, so that the gain on test is no pick of the luckiest; ties go to the first.
    chosen = max(candidates, key=lambda arm: arm.val_accuracy.mean, default=None)
    majority = _majority(arms, "test" if summaries[0].test else "validation")
    return Summary(
        study=study,
        monitor=monitor,
        seeds=list(seeds),
        arms=summaries,
        twin_best=fmean(max(curve) for curve in twin.val_curves().values()) if twin else None,
        chosen=chosen,
        majority=majority,
        omitted=dict(omitted or {}),
        notes=report_notes(seeds, arms, summaries, majority, omitted or {}),
    )


def _majority(arms: Sequence[Arm], split: str) -> Majority:
    """All runs are measured on the same images."""
    labels = next(iter(arms[0].runs.values())).labels
    name, count = min(Counter(labels).items(), key=lambda item: (-item[1], item[0]))
    return Majority(split, name, count / len(labels))


def _against(arms: Sequence[Arm], twin: Arm | None, epochs: int) -> dict[str, Against]:
    """Compare each arm with the twin, where they share a seed."""
    if twin is None:
        return {}
    gains: dict[str, Gain] = {}
    for arm in arms:
        split = twin.held_out
        gain = transfer.paired_gain(arm.metric(split, "accuracy"), twin.metric(split, "accuracy"))
        if arm is not twin and gain is not None:
            gains[arm.name] = gain
    corrected = transfer.holm({name: gain.p for name, gain in gains.items() if gain.p is not None})
    result: dict[str, Against] = {}
    for arm in arms:
        if arm.name not in gains:
            continue
        own, base = arm.val_curves(), twin.val_curves()
        jumpstart, asymptote = transfer.jumpstart(own, base), transfer.asymptote(own, base)
        assert asymptote is not None
        result[arm.name] = Against(
            outcome=transfer.verdict(gains[arm.name]),
            gain=gains[arm.name],
            p_holm=corrected.get(arm.name),
            jumpstart=jumpstart if _is_informed(arm) else None,
            asymptote=asymptote,
            transfer_ratio=transfer.transfer_ratio(own, base, epochs),
        )
    return result


def _summary(arm: Arm, twin: Arm | None, against: Against | None, longest: int) -> ArmSummary:
    runs = list(arm.runs.values())
    first = arm.runs[min(arm.runs)].scores.test
    metrics = {name: arm.metric("test", name) for name in first if name != "n"}
    to_twin = _to_twin(arm, twin) if twin else []
    return ArmSummary(
        name=arm.name,
        seeds=list(arm.runs),
        test={
            name: transfer.estimate(list(values.values()), bounds=SHARE if name in SHARES else ANY)
            for name, values in sorted(metrics.items())
            if len(values) == len(runs)
        },
        val_accuracy=transfer.estimate(list(arm.metric("val", "accuracy").values()), bounds=SHARE),
        curve=_curve(runs, longest),
        best_epoch=median(run.training.best_epoch for run in runs),
        epochs=max(len(run.val_accuracy) - 1 for run in runs),
        train_seconds=transfer.estimate([run.clock.train_seconds for run in runs], bounds=(0, math.inf)),
        all_train_seconds=sum(run.clock.train_seconds for run in runs),
        to_twin_epochs=transfer.reach([epoch for epoch, _ in to_twin]) if to_twin else None,
        to_twin_seconds=transfer.reach([time for _, time in to_twin]) if to_twin else None,
        against=against,
    )


def _curve(runs: Sequence[SeedRun], longest: int) -> list[Point]:
    curves = [transfer.held(run.val_accuracy, longest) for run in runs]
    return [
        Point(epoch, transfer.estimate(values, bounds=SHARE))
        for epoch, values in enumerate(zip(*curves, strict=True))
    ]


def _to_twin(arm: Arm, twin: Arm) -> list[tuple[int | None, float | None]]:
    """Return for each shared seed when the arm reaches the twin's best: epochs and seconds, or None."""
    times: list[tuple[int | None, float | None]] = []
    for seed in sorted(arm.runs.keys() & twin.runs.keys()):
        run = arm.runs[seed]
        epoch = transfer.epochs_to(run.val_accuracy, max(twin.runs[seed].val_accuracy))
        if epoch is None:
            times.append((None, None))
        else:
            times.append((epoch, run.clock.epoch_seconds[epoch - 1] if epoch else 0.0))
    return times


def _is_informed(arm: Arm) -> bool:
    """Whether the arm's predictions before any training come from the weights' head."""
    heads = [run.training.head for run in arm.runs.values()]
    return all(head is None or head.start in ("kept", "matched") for head in heads)
