"""The results of a study as data: report.json, metrics.json and curves.csv."""

from dataclasses import asdict
from typing import Any

from frostline.reporting.repeats import Repeats
from frostline.reporting.results import ArmSummary, Summary
from frostline.stats.transfer import BASELINE, Estimate, TimeToThreshold

GAIN_DECIMALS = 10
"""Decimals of a gain in metrics.json, where it is a share: 0.01 for one point."""
SELECTED = "freeze"
"""The column of curves.csv with the arm that params.yaml selects."""


def as_json(summary: Summary) -> dict[str, Any]:
    """Return what report.json holds, without `gate`."""
    return {
        "study": summary.study,
        "monitor": summary.monitor,
        "seeds": list(summary.repeats.seeds),
        **_folds_json(summary.repeats),
        "twin": BASELINE if summary.baseline else None,
        "verdict": {
            "outcome": summary.outcome,
            "arm": summary.chosen.name if summary.chosen else None,
            "sentence": summary.sentence,
        },
        "majority": asdict(summary.majority) if summary.majority else None,
        "selection": _selection_json(summary),
        "omitted": dict(summary.omitted),
        "notes": summary.notes,
        "arms": {arm.name: _arm_json(arm, summary.metric) for arm in summary.arms},
    }


def _folds_json(repeats: Repeats) -> dict[str, Any]:
    """Return the folds, and the correction for the overlap of their training sets; nothing without folds."""
    if repeats.folds is None:
        return {}
    folds = {"run": list(repeats.folds), "of": repeats.of_folds, "overlap": repeats.overlap}
    return {"folds": {**folds, "sentence": repeats.sentence}}


def _selection_json(summary: Summary) -> dict[str, Any] | None:
    chosen = summary.selection
    return None if chosen is None else {**chosen.model_dump(), "sentence": chosen.sentence}


def _arm_json(arm: ArmSummary, metric: str) -> dict[str, Any]:
    def plain(value: Estimate | TimeToThreshold | None) -> dict[str, Any] | None:
        return None if value is None else asdict(value)

    comparison = arm.comparison
    tested = {name: {metric: asdict(value)} for name, value in arm.test_sets.items()}
    return {
        **({"test_sets": tested} if tested else {}),
        "seeds": sorted({repetition.seed for repetition in arm.repetitions}),
        "test": {name: asdict(value) for name, value in arm.test.items()},
        "val": {metric: asdict(arm.val_score)},
        "best_epoch": arm.best_epoch,
        "epochs": arm.epochs,
        "train_seconds": {**asdict(arm.train_seconds), "all": arm.all_train_seconds},
        "epochs_to_twin": plain(arm.epochs_to_baseline),
        "seconds_to_twin": plain(arm.seconds_to_baseline),
        "verdict": comparison.outcome if comparison else None,
        "gain": {**asdict(comparison.gain), "p_holm": comparison.p_holm} if comparison else None,
        "jumpstart": plain(comparison.jumpstart) if comparison else None,
        "asymptote": plain(comparison.asymptote) if comparison else None,
        "transfer_ratio": plain(comparison.transfer_ratio) if comparison else None,
    }


def flat_metrics(summary: Summary) -> dict[str, float]:
    """Return what metrics.json holds: each arm's test accuracy or mAP and its gain over the baseline.

    DVC prints a column per number, so report.json has all others.
    """
    flat: dict[str, float] = {}
    for arm in summary.arms:
        flat[f"{arm.name}.{summary.metric}"] = arm.score.mean
        if arm.comparison:
            # Without the errors of sums, which DVC and MLflow would show: -3.3e-13 for 0, or -0.0.
            flat[f"{arm.name}.gain"] = round(arm.comparison.gain.mean, GAIN_DECIMALS) + 0.0
    return flat


def curve_columns(summary: Summary, selected: str | None) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and rows of curves.csv: a row per epoch; each arm's validation result and interval.

    The arms stand side by side, since `dvc plots show` draws a line per column. A last column, `freeze`,
    repeats the selected arm: `dvc plots diff` leaves out a revision that lacks one of the columns, as with a
    column named by the schedule, which differs between revisions.

    Args:
        selected: the arm whose schedule params.yaml selects; None: no such column.
    """
    names = [*(arm.name for arm in summary.arms), *summary.omitted]
    columns = ["epoch"] + [f"{name}{end}" for name in names for end in ("", ".low", ".high")]
    rows: list[list[Any]] = []
    for points in zip(*(arm.curve for arm in summary.arms), strict=True):
        ends: list[Any] = [points[0].epoch]
        for point in points:
            ends += [point.score.mean, point.score.low, point.score.high]
        # dvc.yaml names a column for each arm, so an omitted arm has an empty one.
        rows.append([*ends, *[None] * (len(columns) - len(ends))])
    if selected in names:
        place = columns.index(selected)
        return [*columns, SELECTED], [[*row, row[place]] for row in rows]
    return columns, rows
