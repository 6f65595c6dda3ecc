"""Compare runs: group them by configuration, estimate over seeds, test gains over the first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from frostline.base.keys import named_value, short_key
from frostline.base.metrics import SHARES
from frostline.comparison.ranking import preference, rank, run_rank
from frostline.stats.transfer import DIFFERENCES, Estimate, Gain, estimate, fold_overlap, holm, paired_gain
from frostline.training.services import setting_of

PARAMS_IN_NAMES = ("stage", "arm", "freeze_name", "backbone.kind", "backbone.name", "dataset.kind")
"""Parameters that are part of a run's name."""
DECIDING_PARAMS = {
    "freeze": ("freeze_name",),
    "weights": ("arm", "freeze_name"),
    "backbone": ("backbone.kind", "backbone.name"),
    "input": ("backbone.kind", "backbone.name"),
    "dataset": ("dataset.kind",),
}
"""{config group: the parameters that name its option}; they may determine all other keys of the group."""
UNSET = "null"
"""The value, in MLflow, of a parameter that is not set."""
LONGEST_VALUE = 32
"""Most characters of a value in a table; longer parameters get no column."""


Repetition = tuple[int, int]
"""Fold, −1 without folds, and seed: what the runs of a configuration differ in."""


@dataclass(frozen=True)
class Result:
    """One finished run."""

    id: str
    name: str
    configuration: str
    """The same for runs that differ only in their seed and fold."""
    seed: int
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    fold: int | None = None
    """The fold that is the test split; None: no folds."""
    trial: int | None = None
    """The number in its sweep; None: trained in a batch, or not in a sweep."""
    weights: str = ""
    """The sha256 of the weights that it made; empty: none."""

    @property
    def repetition(self) -> Repetition:
        """What identifies the run within its configuration."""
        return -1 if self.fold is None else self.fold, self.seed


@dataclass(frozen=True)
class Configuration:
    """The runs of one configuration, over seeds."""

    name: str
    values: Mapping[str, str]
    """Values of the parameters that differ."""
    runs: tuple[Result, ...]
    """By fold and seed."""
    results: Mapping[str, Estimate | None]
    """Metric → its mean over the seeds with an interval; None: no run has it."""
    gain: Gain | None = None
    """Gain over the first configuration, paired by seed; None for the first, and without shared seeds."""
    p: float | None = None
    """p-value of the paired t-test, corrected for all configurations (Holm)."""


@dataclass(frozen=True)
class Comparison:
    """Configurations, sorted from best to worst."""

    lines: tuple[Configuration, ...]
    varied: tuple[str, ...]
    """The parameters that differ."""
    unlisted: tuple[str, ...]
    """Other parameters that differ: their values are long, or determined by an option in the name.

    Those of a freeze schedule that has a name of its own are left out."""
    metrics: tuple[str, ...]
    tested: str
    """The metric of the gains."""


def is_share(metric: str) -> bool:
    """Return whether a metric, such as ``test/accuracy``, lies between 0 and 1."""
    return metric.rpartition("/")[2] in SHARES


def compare(results: Sequence[Result], metrics: Sequence[str], tested: str) -> Comparison:
    """Compare runs.

    Args:
        results: at least one; of several with the same configuration and seed the last counts.
        metrics: metrics to compare, at least one; the configurations are sorted by the first.
        tested: the metric whose differences from the first configuration's are tested, paired by fold and
            seed; over several folds, with the correction of `stats.transfer.estimate` for their overlap.
    """
    if not results:
        raise ValueError("there is no run to compare")
    groups: dict[str, dict[Repetition, Result]] = {}
    for result in results:
        groups.setdefault(result.configuration, {})[result.repetition] = result
    configurations = [tuple(runs[key] for key in sorted(runs)) for runs in groups.values()]
    varied, unlisted = _varied_params([runs[0].params for runs in configurations])
    most = max(map(len, configurations))
    lines = sorted(
        (_configuration(runs, varied, metrics) for runs in configurations),
        key=lambda line: _rank(line, metrics[0], most),
    )
    return Comparison(
        tuple(_with_gains(_distinct_names(lines), tested)), varied, unlisted, tuple(metrics), tested
    )


def _configuration(runs: tuple[Result, ...], varied: Sequence[str], metrics: Sequence[str]) -> Configuration:
    results: dict[str, Estimate | None] = {}
    for metric in metrics:
        measured = [run for run in runs if metric in run.metrics]
        numbers = [run.metrics[metric] for run in measured]
        lowest = 0.0 if is_share(metric) or metric.endswith(("loss", "seconds")) else -math.inf
        bounds = lowest, 1.0 if is_share(metric) else math.inf
        results[metric] = estimate(numbers, bounds=bounds, overlap=_overlap(measured)) if numbers else None
    values = {key: runs[0].params.get(key, "") for key in varied}
    return Configuration(setting_of(runs[0].name), values, runs, results)


def _overlap(runs: Sequence[Result]) -> float:
    """Return the overlap of `stats.transfer.estimate` for some runs of a configuration; 0 for none."""
    used = len({run.fold for run in runs})
    if used < 2:
        return 0.0
    return fold_overlap(used, int(runs[0].params.get("dataset.folds", used)))


def _distinct_names(lines: Sequence[Configuration]) -> list[Configuration]:
    """Let names that several configurations share begin with the values that tell them apart."""
    renamed = []
    for line in lines:
        alike = [other for other in lines if other.name == line.name]
        words = []
        for key, value in line.values.items():
            if len(fewer := [other for other in alike if other.values[key] == value]) < len(alike):
                alike = fewer
                words.append(named_value(short_key(key, line.values), value or UNSET))
        renamed.append(replace(line, name="·".join([*words, line.name])))
    return renamed


def _rank(line: Configuration, metric: str, most: int) -> tuple[float, ...]:
    """Return the sort key, best first, as `ranking.ordered` sorts; without the metric, a line is last."""
    runs = [run for run in line.runs if metric in run.metrics]
    if not runs:
        return (math.inf,)
    best = min(runs, key=lambda run: run_rank(metric, run.metrics[metric], run.trial))
    return *rank(metric, [run.metrics[metric] for run in runs], most), *preference(best.trial)


def _with_gains(lines: Sequence[Configuration], metric: str) -> list[Configuration]:
    def values(line: Configuration) -> dict[Repetition, float]:
        return {run.repetition: run.metrics[metric] for run in line.runs if metric in run.metrics}

    first, *others = lines
    bounds = DIFFERENCES if is_share(metric) else (-math.inf, math.inf)
    baseline = values(first)

    def shared(line: Configuration) -> list[Result]:
        return [run for run in line.runs if run.repetition in baseline and metric in run.metrics]

    gains = [
        paired_gain(values(line), baseline, bounds=bounds, overlap=_overlap(shared(line))) for line in others
    ]
    together = holm({str(i): gain.p for i, gain in enumerate(gains) if gain and gain.p is not None})
    compared = [first]
    for i, (line, gain) in enumerate(zip(others, gains, strict=True)):
        compared.append(replace(line, gain=gain, p=together.get(str(i))))
    return compared


def _varied_params(configurations: Sequence[Mapping[str, str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the parameters that differ: those with a column, and others; see `Comparison.unlisted`."""

    def of(params: Mapping[str, str], key: str) -> str:
        return params.get(key, UNSET)  # a key that is not used is not recorded

    def decided(key: str) -> bool:
        owners = DECIDING_PARAMS.get(key.partition(".")[0])
        if owners is None:
            return False
        choices = {tuple(of(params, owner) for owner in owners) for params in configurations}
        both = {(*(of(params, owner) for owner in owners), of(params, key)) for params in configurations}
        return len(both) == len(choices)

    keys = dict.fromkeys(key for params in configurations for key in params)
    different = [key for key in keys if len({of(params, key) for params in configurations}) > 1]
    different = [key for key in different if key != "seed" and key not in PARAMS_IN_NAMES]
    long = {
        key for key in different if max(len(of(params, key)) for params in configurations) > LONGEST_VALUE
    }
    listed = [key for key in different if key not in long and not decided(key)]
    named = {key for key in different if key.startswith("freeze.") and decided(key)}
    return tuple(listed), tuple(key for key in different if key not in listed and key not in named)
