"""The study in numbers: every arm held against its twin. Page, Markdown and picture show these."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

from frostline.base.metrics import METRICS
from frostline.reporting import words
from frostline.reporting.inputs import Arm, SeedRun
from frostline.stats import transfer
from frostline.stats.transfer import TWIN, Estimate, Gain, Outcome, Reach

SATURATED = 0.99
"""A twin at this test accuracy leaves a transfer next to nothing to gain."""
SHARE, ANY = (0.0, 1.0), (-math.inf, math.inf)
SHARES = frozenset(METRICS) - {"loss"}


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
        notes=[*_without(omitted or {}), *_notes(seeds, arms, summaries, majority), *_anew(arms)],
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


# ── what a reader should know ───────────────────────────────────────────────────────────────────────────────


def _is_informed(arm: Arm) -> bool:
    """Whether the arm's predictions before any training come from the weights' head."""
    heads = [run.training.head for run in arm.runs.values()]
    return all(head is None or head.start in ("kept", "matched") for head in heads)


def _without(omitted: Mapping[str, str]) -> list[str]:
    return [f"There is no arm {name}: {reason}." for name, reason in omitted.items()]


def _anew(arms: Sequence[Arm]) -> list[str]:
    """What is said of the arms' heads, once for all of which it is true."""
    notices: dict[str, list[str]] = {}
    for arm in arms:
        head = next(iter(arm.runs.values())).training.head
        if head is not None and head.notice:
            notices.setdefault(head.notice, []).append(arm.name)
    return [f"{', '.join(names)}: {notice}." for notice, names in notices.items()]


def _notes(
    seeds: Sequence[int], arms: Sequence[Arm], summaries: Sequence[ArmSummary], majority: Majority
) -> list[str]:
    notes: list[str] = []
    if not all(summary.test for summary in summaries):
        notes.append(
            "There is no test split: accuracies and gains are on validation, which also chose each run's "
            "epoch, so they flatter every arm."
        )
    if len(seeds) == 1:
        notes.append("A single seed: there are no intervals, and nothing can be decided.")
    if all(arm.name != TWIN for arm in arms):
        notes.append(f"There is no arm named {TWIN}, so no gain can be measured.")
    for arm, summary in zip(arms, summaries, strict=True):
        notes += filter(
            None,
            [
                _missing(seeds, summary),
                _below(summary, majority),
                _never(summary),
                _ceiling(summary),
                _alike(summary),
            ],
        )
        lengths = {len(run.val_accuracy) - 1 for run in arm.runs.values()}
        if len(lengths) > 1:
            notes.append(
                f"The runs of {arm.name} last {min(lengths)} to {max(lengths)} epochs; in the curves, one "
                "that ended keeps its last value."
            )
    return notes


def _missing(seeds: Sequence[int], arm: ArmSummary) -> str:
    missing = [str(seed) for seed in seeds if seed not in arm.seeds]
    if not missing:
        return ""
    return (
        f"{arm.name} has {len(arm.seeds)} of {words.counted(len(seeds), 'seed')} "
        f"(without {', '.join(missing)}), so its numbers rest on fewer runs."
    )


def _below(arm: ArmSummary, majority: Majority) -> str:
    accuracy = arm.accuracy.mean
    if accuracy >= majority.rate:
        return ""
    return (
        f"{arm.name} is at {words.percent(accuracy)} on {majority.split}, below the"
        f" {words.percent(majority.rate)} of always answering {majority.name}."
    )


def _never(arm: ArmSummary) -> str:
    if arm.against is None or arm.to_twin_epochs is None or arm.epochs == 0:
        return ""
    if arm.to_twin_epochs.reached == 0:
        return f"{arm.name} never reaches the twin's best validation accuracy."
    missed = words.missed(arm.to_twin_epochs)
    return f"{arm.name} does not reach the twin's best validation accuracy in {missed}." if missed else ""


def _ceiling(arm: ArmSummary) -> str:
    accuracy, split = arm.accuracy.mean, "test" if arm.test else "validation"
    if accuracy < SATURATED:
        return ""
    if arm.name == TWIN:
        return (
            f"The twin is already at {words.percent(accuracy)} on {split}, which leaves little to gain; "
            "fewer shots or a harder target would tell the arms apart."
        )
    return f"{arm.name} is at {words.percent(accuracy)} on {split}: near the ceiling, where gains shrink."


def _alike(arm: ArmSummary) -> str:
    if arm.against is None or arm.against.gain.std != 0:
        return ""
    gain = words.points(arm.against.gain.mean)
    return (
        f"{arm.name} differs from the twin by the same {gain} points in every seed; without a spread, its "
        "p-value is that of sign flips."
    )


# ── as data ─────────────────────────────────────────────────────────────────────────────────────────────────


def as_json(summary: Summary) -> dict[str, Any]:
    """Return what report.json holds, without `gate`."""
    return {
        "study": summary.study,
        "monitor": summary.monitor,
        "seeds": summary.seeds,
        "twin": TWIN if summary.twin else None,
        "verdict": {
            "outcome": summary.outcome,
            "arm": summary.chosen.name if summary.chosen else None,
            "sentence": summary.sentence,
        },
        "majority": asdict(summary.majority),
        "omitted": dict(summary.omitted),
        "notes": summary.notes,
        "arms": {arm.name: _arm_json(arm) for arm in summary.arms},
    }


def _arm_json(arm: ArmSummary) -> dict[str, Any]:
    def plain(value: Estimate | Reach | None) -> dict[str, Any] | None:
        return None if value is None else asdict(value)

    against = arm.against
    return {
        "seeds": arm.seeds,
        "test": {name: asdict(value) for name, value in arm.test.items()},
        "val": {"accuracy": asdict(arm.val_accuracy)},
        "best_epoch": arm.best_epoch,
        "epochs": arm.epochs,
        "train_seconds": {**asdict(arm.train_seconds), "all": arm.all_train_seconds},
        "epochs_to_twin": plain(arm.to_twin_epochs),
        "seconds_to_twin": plain(arm.to_twin_seconds),
        "verdict": against.outcome if against else None,
        "gain": {**asdict(against.gain), "p_holm": against.p_holm} if against else None,
        "jumpstart": plain(against.jumpstart) if against else None,
        "asymptote": plain(against.asymptote) if against else None,
        "transfer_ratio": plain(against.transfer_ratio) if against else None,
    }


def flat_metrics(summary: Summary) -> dict[str, float]:
    """Return what metrics.json holds, for `dvc metrics show`: nothing that a clock measured."""
    flat: dict[str, float] = {}
    for arm in summary.arms:
        flat[f"{arm.name}.accuracy"] = arm.accuracy.mean
        if arm.against:
            flat[f"{arm.name}.gain"] = arm.against.gain.mean
        if arm.against and arm.against.jumpstart:
            flat[f"{arm.name}.jumpstart"] = arm.against.jumpstart.mean
        if arm.to_twin_epochs and arm.to_twin_epochs.median is not None:
            flat[f"{arm.name}.epochs_to_twin"] = arm.to_twin_epochs.median
    return flat


def curve_columns(summary: Summary) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and rows of curves.csv: a row an epoch; each arm's validation accuracy and interval.

    The arms stand side by side, since `dvc plots show` draws one line a column.
    """
    names = [*(arm.name for arm in summary.arms), *summary.omitted]
    columns = ["epoch"] + [f"{name}{end}" for name in names for end in ("", ".low", ".high")]
    rows: list[list[Any]] = []
    for points in zip(*(arm.curve for arm in summary.arms), strict=True):
        ends: list[Any] = [points[0].epoch]
        for point in points:
            ends += [point.accuracy.mean, point.accuracy.low, point.accuracy.high]
        # dvc.yaml names a column for each arm: that of one that is omitted is there, and empty.
        rows.append([*ends, *[None] * (len(columns) - len(ends))])
    return columns, rows
