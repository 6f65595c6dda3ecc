"""The result of a probe, and its form in probe.json, heads.csv and the tracker."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from frostline.base.hashes import sha256_of
from frostline.base.metrics import Spread, spread
from frostline.base.run_folder import WEIGHTS
from frostline.config.overrides import HEAD_KEYS
from frostline.probing.heads import TrainedHead
from frostline.schema import Run

HYPERPARAMETERS = HEAD_KEYS[:-1]
"""The keys of `HEAD_KEYS` without the seed."""
TEMPERATURE = 0.07
"""Of the neighbours' votes (Wu et al. 2018)."""


@dataclass(frozen=True)
class Configuration:
    """Heads that differ only in their seeds."""

    values: dict[str, Any]
    """Key of `HYPERPARAMETERS` → value; without label smoothing for a loss that has none."""
    heads: list[TrainedHead]

    @property
    def failed(self) -> int:
        """The number of heads whose training failed."""
        return sum(head.fit.failure is not None for head in self.heads)

    @property
    def metric(self) -> str:
        """Accuracy, or mAP with several labels per image."""
        return self.heads[0].metric

    @cached_property
    def val(self) -> dict[str, Spread]:
        """Metrics of the other heads, after their best epochs."""
        rows = [head.best for head in self.heads if head.fit.failure is None]
        names = self.heads[0].shown_metrics
        return {name: spread([float(row[f"val/{name}"] or 0) for row in rows]) for name in names}


@dataclass(frozen=True)
class ClosedFormProbe:
    """A probe that needs no training, with the hyperparameter that validation chose."""

    name: str
    chosen: float
    """The penalty, or k."""
    val: float
    """Accuracy, or mAP with several labels per image."""
    test: float | None
    """As `val`; None without a test split."""


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe."""

    configurations: list[Configuration]
    """The best on validation first; those with failed heads last."""
    winner: TrainedHead
    """The best head of the best configuration."""
    test: dict[str, Spread]
    """Test metric → spread over the heads of the best configuration; empty without a test split."""
    ridge: ClosedFormProbe
    """On the winner's features."""
    knn: ClosedFormProbe
    """On the winner's features."""
    images: dict[str, int]
    """Split → number of images."""
    features_seconds: float
    """The time to compute features; 0: all were cached."""
    train_seconds: float

    @property
    def metric(self) -> str:
        """Accuracy, or mAP with several labels per image."""
        return self.winner.metric

    @property
    def varied(self) -> list[str]:
        """The keys of `HYPERPARAMETERS` in which the configurations differ."""
        first = self.configurations[0].values
        return [key for key in first if any(other.values[key] != first[key] for other in self.configurations)]


def values_of(run: Run) -> dict[str, Any]:
    """Return a run's value for each key of `overrides.HEAD_KEYS`."""
    return {
        "optimizer.lr": run.optimizer.lr,
        "optimizer.weight_decay": run.optimizer.weight_decay,
        "loss.label_smoothing": getattr(run.loss, "label_smoothing", None),
        "seed": run.seed,
    }


def label(result: ProbeResult) -> str:
    """Return the winner's hyperparameters, such as ``lr=0.01 seed=1``."""
    values = {key: result.configurations[0].values[key] for key in result.varied} | {
        "seed": result.winner.run.seed
    }
    return " ".join(f"{short(key)}={value:g}" for key, value in values.items())


def short(key: str) -> str:
    """Return the last part of a key."""
    return key.rpartition(".")[2]


def result_columns(head: TrainedHead) -> tuple[str, ...]:
    """Return the columns of heads.csv, after `HEAD_KEYS`."""
    train = "train/loss", f"train/{head.metric}"
    *others, loss = (f"val/{name}" for name in head.shown_metrics)
    return "best_epoch", *train, loss, *others, "failure"


def csv_rows(runs: Sequence[Run], trained: Sequence[TrainedHead]) -> Iterator[list[Any]]:
    """Yield the rows of heads.csv, in the order of `runs`; a failed head has no metrics."""
    of_run = {id(head.run): head for head in trained}
    for run in runs:
        head = of_run[id(run)]
        fit = head.fit
        best: dict[str, Any] = (
            {} if fit.failure else {"best_epoch": fit.best_epoch, **fit.history[fit.best_epoch]}
        )
        numbers = [fit.failure if name == "failure" else best.get(name) for name in result_columns(head)]
        yield [*values_of(run).values(), *numbers]


def to_json(result: ProbeResult, out: Path) -> dict[str, Any]:
    """Return the content of probe.json."""
    winner, split_point = result.winner, result.winner.group.split_point
    return {
        "features": {"at": split_point.name, "width": split_point.shape[0], "images": result.images},
        "settings": [
            {
                **configuration.values,
                "val": configuration.val,
                "seeds": len(configuration.heads),
                "failed": configuration.failed,
            }
            for configuration in result.configurations
        ],
        "best": {**values_of(winner.run), "test": result.test, "weights_sha256": sha256_of(out / WEIGHTS)},
        "ridge": {"penalty": result.ridge.chosen, **_metrics(result.ridge, result.metric)},
        "knn": {"k": result.knn.chosen, "temperature": TEMPERATURE, **_metrics(result.knn, result.metric)},
    }


def _metrics(other: ClosedFormProbe, metric: str) -> dict[str, dict[str, float]]:
    values = {"val": other.val, "test": other.test}
    return {split: {metric: value} for split, value in values.items() if value is not None}


def tracker_metrics(result: ProbeResult) -> dict[str, float]:
    """Return the metrics that the tracker records."""
    best = result.configurations[0]
    values = {
        "heads": float(sum(len(configuration.heads) for configuration in result.configurations)),
        "features_seconds": result.features_seconds,
        "train_seconds": result.train_seconds,
        "ridge/penalty": result.ridge.chosen,
        "knn/k": result.knn.chosen,
    }
    for split, metrics in (("val", best.val), ("test", result.test)):
        values |= {f"{split}/{name}/{what}": v for name, s in metrics.items() for what, v in s.items()}
    for other in (result.ridge, result.knn):
        measured = _metrics(other, result.metric)
        values |= {f"{other.name}/{split}/{result.metric}": s[result.metric] for split, s in measured.items()}
    if result.varied:
        for configuration in result.configurations:
            name = " ".join(f"{short(key)} {configuration.values[key]:g}" for key in result.varied)
            values |= {f"{name}/val/{metric}": s["mean"] for metric, s in configuration.val.items() if s["n"]}
    return values
