"""The gate: fail, after results are recorded, if a metric of report.json is below its bound."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.base import metrics
from frostline.base.formats import read_json
from frostline.base.metrics import METRICS, headline
from frostline.console.errors import FrostlineError, GateFailed, allowed
from frostline.stats.transfer import BASELINE, Estimate, Gain, TimeToThreshold

SMALLER_IS_BETTER = {*metrics.SMALLER_IS_BETTER, "train_seconds", "epochs_to_twin", "seconds_to_twin"}
"""Parts of the names of metrics that can't be gated."""
COUNTS = ("n", "reached")


@dataclass(frozen=True)
class Check:
    """One metric compared with its bound."""

    metric: str
    """Dotted, as in report.json: ``arms.full.test.accuracy.mean``."""
    bound: float
    """The minimum that passes."""
    value: float | None
    """None: the report does not have this number."""
    sentence: str

    @property
    def passed(self) -> bool:
        """Whether the value is at least the bound."""
        return self.value is not None and self.value >= self.bound


def run(gate: Mapping[str, float], report_json: Path, echo: Callable[[str], None] = print) -> list[Check]:
    """Compare each metric of `gate` with its bound; metrics that pass are printed by `echo`.

    Raises:
        GateFailed: one is below its bound or not in report.json; one sentence per failure.
        FrostlineError: report.json is missing or damaged.
    """
    report = read_json(report_json)
    if not isinstance(report, dict):
        raise FrostlineError(f"{report_json} is not a report: run its stage again, with `dvc repro report`")
    checks = check(gate, report)
    for passed in (c for c in checks if c.passed):
        echo(passed.sentence)
    if failed := [c.sentence for c in checks if not c.passed]:
        raise GateFailed("\n".join(failed))
    return checks


def check(gate: Mapping[str, float], report: Mapping[str, Any]) -> list[Check]:
    """Compare each metric of `gate` with its value in `report`, the content of report.json."""
    arms = report.get("arms", {})
    leaves = dict(_leaves(arms, "arms"))
    checks = [_check(metric, bound, leaves, list(arms)) for metric, bound in sorted(gate.items())]
    without = report.get("omitted", {})
    return [dataclasses.replace(c, sentence=_omitted(c.metric, without) or c.sentence) for c in checks]


def check_names(
    gate: Mapping[str, float],
    arms: Sequence[str],
    omitted: Mapping[str, str] | None = None,
    reset_heads: Sequence[str] = (),
    measured: Sequence[str] = METRICS,
) -> None:
    """Raise an error for metrics that no report on `arms` can have, before anything trains.

    Args:
        gate: metric → bound.
        measured: the metrics of a split.

    Raises:
        FrostlineError: a name is unknown; the sentence gives the nearest ones.
    """
    names = metric_names(arms, measured)
    for metric in gate:
        if sentence := _omitted(metric, omitted or {}):
            raise FrostlineError(sentence)
        if any(metric.startswith(f"arms.{arm}.jumpstart.") for arm in reset_heads):
            raise FrostlineError(
                f"gate: {metric} has no value, since the head of this arm is reset; gate another metric"
            )
        if metric not in names:
            raise FrostlineError(f"gate: {metric} {_unknown(metric, names, arms)}")
        parts = metric.split(".")
        if not SMALLER_IS_BETTER.isdisjoint(parts) and parts[-1] not in COUNTS:
            raise FrostlineError(
                f"gate: {metric}: a bound is the lowest value that passes, and here smaller is better; gate "
                "another metric"
            )


def metric_names(arms: Sequence[str], measured: Sequence[str] = METRICS) -> list[str]:
    """Return the names of all metrics that a report on `arms` can have.

    Args:
        measured: the metrics of a split.
    """
    estimate, gain, reach = (_fields(kind) for kind in (Estimate, Gain, TimeToThreshold))
    of_any = {
        **{f"test.{metric}": estimate for metric in measured},
        f"val.{headline(measured)}": estimate,
        "train_seconds": [*estimate, "all"],
    }
    with_baseline = {"epochs_to_twin": reach, "seconds_to_twin": reach}
    over_baseline = {
        "gain": [*gain, "p_holm"],
        "jumpstart": gain,
        "asymptote": gain,
        "transfer_ratio": estimate,
    }
    names = []
    for arm in arms:
        parts = of_any | (with_baseline if BASELINE in arms else {})
        parts |= over_baseline if BASELINE in arms and arm != BASELINE else {}
        ends = [f"{part}.{field}" for part, fields in parts.items() for field in fields]
        names += [f"arms.{arm}.{end}" for end in ("best_epoch", "epochs", *ends)]
    return names


def _check(metric: str, bound: float, leaves: Mapping[str, Any], arms: Sequence[str]) -> Check:
    numbers = {name for name, value in leaves.items() if isinstance(value, int | float)}
    if metric in numbers:
        value = float(leaves[metric])
        if value >= bound:
            return Check(metric, bound, value, f"gate: {metric} is {value:.6g}, at least {bound:.6g}")
        short = f"{bound - value:.3g} below its bound {bound:.6g}"
        return Check(metric, bound, value, f"gate: {metric} is {value:.6g}, {short}")
    if any(
        metric == name or metric.startswith(f"{name}.") for name, value in leaves.items() if value is None
    ):
        reason = (
            f"has no value in this study, so it can't reach its bound {bound:.6g}; gate another or add seeds"
        )
    else:
        reason = _unknown(metric, numbers, arms)
    return Check(metric, bound, None, f"gate: {metric} {reason}")


def _omitted(metric: str, omitted: Mapping[str, str]) -> str:
    """Return a sentence if a metric belongs to an omitted arm, else an empty string."""
    for arm, reason in omitted.items():
        if metric.startswith(f"arms.{arm}."):
            return f"gate: {metric} belongs to an arm that is omitted, since {reason}; gate another arm"
    return ""


def _unknown(metric: str, names: Iterable[str], arms: Sequence[str]) -> str:
    """Return a clause for an unknown name: its arm, else the rest of it."""
    arm = metric.removeprefix("arms.").partition(".")[0]
    if not any(metric.startswith(f"arms.{known}.") for known in arms):
        return f"names no arm of the study, as in arms.ARM.test.accuracy.mean; {allowed(arm, arms)}"
    return f"is not a metric of the report; {allowed(metric, names)}"


def _leaves(node: Any, path: str) -> list[tuple[str, Any]]:
    if not isinstance(node, dict):
        return [(path, node)]
    return [leaf for key, value in node.items() for leaf in _leaves(value, f"{path}.{key}")]


def _fields(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]
