"""Probes a frozen network's features: linear heads, ridge regression, k nearest neighbours."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from frostline.base.files import publish, write_text
from frostline.base.formats import canonical_json, csv_text
from frostline.base.hashes import sha256_of
from frostline.base.metrics import Spread, classification_metrics, score, spread
from frostline.base.run_folder import HEADS, PROBE, WEIGHTS, WRITTEN
from frostline.config.overrides import OF_A_HEAD
from frostline.console.errors import TrainingFailed, exhaustion
from frostline.console.progress import Advance, Progress
from frostline.data.loading.pixels import Images, images_key, load_pixels
from frostline.data.prepared.index import Index
from frostline.evaluation import evaluate
from frostline.features.execution import device_of
from frostline.models.pretrained import load_initial_weights
from frostline.probing import heads
from frostline.probing.closed_form import choose_k, knn, ridge
from frostline.probing.heads import FeatureGroup, TrainedHead
from frostline.schema import Run
from frostline.training.losses import hits
from frostline.training.material import Material, load_material
from frostline.training.outputs import write_outputs
from frostline.training.run_info import backbone_name, run_info
from frostline.training.services import NoTracker, RunInfo, Services

HYPERPARAMETERS = OF_A_HEAD[:-1]
"""The keys of `OF_A_HEAD` without the seed."""
RESULT_COLUMNS = ("best_epoch", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "failure")
"""Columns of heads.csv, after `OF_A_HEAD`."""
PENALTIES = tuple(10 ** (half / 2) for half in range(-8, 13))
"""Of ridge regression, for the loss summed over the images."""
KS = (1, 3, 5, 10, 20, 50, 100, 200)
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

    @cached_property
    def val(self) -> dict[str, Spread]:
        """accuracy and loss of the other heads, after their best epochs."""
        rows = [head.best for head in self.heads if head.fit.failure is None]
        return {
            name: spread([float(row[f"val/{name}"] or 0) for row in rows]) for name in ("accuracy", "loss")
        }


@dataclass(frozen=True)
class ClosedFormProbe:
    """A probe that needs no training, with the hyperparameter that validation chose."""

    name: str
    chosen: float
    """The penalty, or k."""
    val: float
    """Accuracy."""
    test: float | None
    """Accuracy; None without a test split."""


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
    def varied(self) -> list[str]:
        """The keys of `HYPERPARAMETERS` in which the configurations differ."""
        first = self.configurations[0].values
        return [key for key in first if any(other.values[key] != first[key] for other in self.configurations)]


@exhaustion()
def run(runs: Sequence[Run], data: Path, out: Path, services: Services) -> ProbeResult:
    """Train a head for each of `runs`; write probe.json, heads.csv and the best head as a run to `out`.

    Validation chooses the configuration with the best mean over seeds, then its best seed. Only then the test
    split is read, for the heads of that configuration and the closed-form probes.

    Args:
        runs: each with one seed, equal except for `overrides.OF_A_HEAD`, in the order of heads.csv.
        data: the folder of the prepared data.
        out: the folder to write to.
        services: progress, tracker and feature cache.

    Raises:
        NotBatchable: batched linear heads do not support the config.
        FrostlineError: the config is invalid otherwise; before any training.
        TrainingFailed: every configuration has a failed head.
    """
    first, watch = runs[0], _Stopwatch(services.progress)
    heads.check(first)
    with publish(out, WRITTEN) as work:
        start = load_initial_weights(first.backbone, first.weights)
        material = load_material(first, data, start, services)
        groups = heads.group_by_features(runs, start, material, replace(services, progress=watch))
        with services.tracker.run(_info(runs, material.index)) as recorded:
            if start.sha256 is not None:
                recorded.started_from(start.sha256)
            trained = heads.train(groups, services)
            configurations = _ranked(runs, trained)
            winner = max(configurations[0].heads, key=lambda head: _rank([head], first.trainer.monitor))
            chosen = _fit_closed_form(winner.group, services)
            _write_run(winner, material, work)
            quiet = replace(services, progress=watch, tracker=NoTracker())
            measured = evaluate.measure(winner.run, winner.seed, data, work, work, quiet)
            images = _test_images(first, material, data, services)
            test = [
                measured["test"] if head is winner else _measured(head, images)
                for head in configurations[0].heads
                if images
            ]
            closed, near = _closed_form_probes(chosen, winner.group, images)
            result = ProbeResult(
                configurations=configurations,
                winner=winner,
                test={name: spread([each[name] for each in test]) for name in (test[0] if test else ())},
                ridge=closed,
                knn=near,
                images={
                    each.split: len(each)
                    for each in (winner.group.train, winner.group.val, images)
                    if each is not None
                },
                features_seconds=watch.seconds,
                train_seconds=sum(head.seconds for head in trained),
            )
            write_text(work / HEADS, csv_text([*OF_A_HEAD, *RESULT_COLUMNS], _rows(runs, trained)))
            write_text(work / PROBE, canonical_json(_probe_json(result, work)))
            recorded.metrics(_metrics(result))
            recorded.tags({"weights.sha256": sha256_of(work / WEIGHTS), "best": label(result)})
            recorded.finished(work)
    return result


def values_of(run: Run) -> dict[str, Any]:
    """Return a run's value for each key of `overrides.OF_A_HEAD`."""
    return {
        "optimizer.lr": run.optimizer.lr,
        "optimizer.weight_decay": run.optimizer.weight_decay,
        "loss.label_smoothing": getattr(run.loss, "label_smoothing", None),
        "seed": run.seeds[0],
    }


def label(result: ProbeResult) -> str:
    """Return the winner's hyperparameters, such as ``lr=0.01 seed=1``."""
    values = {key: result.configurations[0].values[key] for key in result.varied} | {
        "seed": result.winner.seed
    }
    return " ".join(f"{short(key)}={value:g}" for key, value in values.items())


def short(key: str) -> str:
    """Return the last part of a key."""
    return key.rpartition(".")[2]


class _Stopwatch:
    """A `Progress` that measures the time of the blocks that it shows."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.seconds = progress, 0.0

    @contextmanager
    def __call__(self, description: str, total: int) -> Iterator[Advance]:
        begun = time.perf_counter()
        with self.progress(description, total) as advance:
            yield advance
        self.seconds += time.perf_counter() - begun


# ── selection on validation ─────────────────────────────────────────────────────────────────────────────────


def _ranked(runs: Sequence[Run], trained: Sequence[TrainedHead]) -> list[Configuration]:
    """Return the configurations, the best first."""
    of_run = {id(head.run): head for head in trained}
    by_values: dict[tuple[Any, ...], Configuration] = {}
    for run in runs:
        values = {
            key: value
            for key, value in values_of(run).items()
            if key in HYPERPARAMETERS and value is not None
        }
        by_values.setdefault(tuple(values.values()), Configuration(values, [])).heads.append(of_run[id(run)])
    complete = [each for each in by_values.values() if not each.failed]
    if not complete:
        reason = next(head.fit.failure for head in trained if head.fit.failure)
        raise TrainingFailed(
            f"in every configuration a head failed, for example since {reason};"
            " lower optimizer.lr, or set optimizer.clip_norm=1.0"
        )
    monitor = runs[0].trainer.monitor
    complete.sort(key=lambda each: _rank(each.heads, monitor), reverse=True)
    return [*complete, *(each for each in by_values.values() if each.failed)]


def _rank(several: Sequence[TrainedHead], monitor: str) -> tuple[float, ...]:
    """Return the score of heads: the mean of the monitor, then of the loss; larger is better."""
    return tuple(
        score(name, statistics.fmean(float(head.best[name] or 0) for head in several))
        for name in (monitor, "val/loss")
    )


@dataclass(frozen=True)
class _ClosedForm:
    """The closed-form probes, with the hyperparameters that validation chose."""

    train: Tensor
    penalty: float
    weight: Tensor
    bias: Tensor
    ridge_val: float
    k: int
    knn_val: float


def _fit_closed_form(group: FeatureGroup, services: Services) -> _ClosedForm:
    device = device_of(group.runs[0].trainer.device)
    # Without augmentation, even if heads are trained on augmented views.
    plain = group.reuse.features(group.cut, group.train)
    train, val = plain.to(device).float(), group.validation.to(device).float()
    labels, truth = group.train.labels.to(device), group.val.labels.to(device)
    weight, _ = group.starts[group.runs[0].seeds[0]]
    classes = len(weight)
    with services.progress("ridge regression, nearest neighbours", 2) as advance:
        fit = ridge(train, labels, classes, PENALTIES, val, truth)
        advance(1)
        ks = [k for k in KS if k <= len(train)]
        near = choose_k(train, labels, classes, ks, TEMPERATURE, val, truth)
        advance(1)
    ridge_val, knn_val = dict(fit.accuracies)[fit.penalty], dict(near.accuracies)[near.k]
    return _ClosedForm(train, fit.penalty, fit.weight, fit.bias, ridge_val, near.k, knn_val)


# ── the test split ──────────────────────────────────────────────────────────────────────────────────────────


def _test_images(run: Run, material: Material, data: Path, services: Services) -> Images | None:
    index, spec = material.index, material.spec
    rows = index.rows("test")
    if not len(rows):
        return None
    pixels = load_pixels(run.dataset, index, data, rows, spec, services.progress, services.scratch)
    labels = torch.as_tensor(index.labels)[torch.as_tensor(rows)]
    return Images(pixels, labels, images_key(index, rows, spec), index.name, "test")


def _measured(head: TrainedHead, images: Images) -> dict[str, float]:
    """Return a head's metrics, as `evaluation` computes them for its network."""
    features = head.group.reuse.features(head.group.cut, images)
    trainer, device = head.run.trainer, device_of(head.run.trainer.device)
    weight, bias = head.fit.weight.to(device), head.fit.bias.to(device)
    parts = features.split(trainer.eval_batch_size)
    logits = torch.cat([functional.linear(part.to(device).float(), weight, bias).cpu() for part in parts])
    return classification_metrics(logits, images.labels)


def _closed_form_probes(
    chosen: _ClosedForm, group: FeatureGroup, images: Images | None
) -> list[ClosedFormProbe]:
    if images is None:
        return [
            ClosedFormProbe("ridge", chosen.penalty, chosen.ridge_val, None),
            ClosedFormProbe("knn", chosen.k, chosen.knn_val, None),
        ]
    device = chosen.train.device
    features = group.reuse.features(group.cut, images).to(device).float()
    labels = images.labels.to(device)
    shares = knn(
        chosen.train, group.train.labels.to(device), len(chosen.bias), features, chosen.k, TEMPERATURE
    )
    of_ridge, of_knn = (
        int(hits(logits, labels)) / len(labels)
        for logits in (functional.linear(features, chosen.weight, chosen.bias), shares)
    )
    return [
        ClosedFormProbe("ridge", chosen.penalty, chosen.ridge_val, of_ridge),
        ClosedFormProbe("knn", chosen.k, chosen.knn_val, of_knn),
    ]


# ── output files and tracking ───────────────────────────────────────────────────────────────────────────────


def _write_run(winner: TrainedHead, material: Material, out: Path) -> None:
    group, count = winner.group, len(winner.group.train)
    write_outputs(winner.run, winner.seed, material, winner, group.plan, group.report, count, out, {})


def _rows(runs: Sequence[Run], trained: Sequence[TrainedHead]) -> Iterator[list[Any]]:
    """Yield the rows of heads.csv, in the order of `runs`; a failed head has no metrics."""
    of_run = {id(head.run): head.fit for head in trained}
    for run in runs:
        fit = of_run[id(run)]
        best: dict[str, Any] = (
            {} if fit.failure else {"best_epoch": fit.best_epoch, **fit.history[fit.best_epoch]}
        )
        numbers = [fit.failure if name == "failure" else best.get(name) for name in RESULT_COLUMNS]
        yield [*values_of(run).values(), *numbers]


def _probe_json(result: ProbeResult, out: Path) -> dict[str, Any]:
    """Return the content of probe.json."""
    winner, cut = result.winner, result.winner.group.cut
    return {
        "features": {"at": cut.name, "width": cut.shape[0], "images": result.images},
        "settings": [
            {**each.values, "val": each.val, "seeds": len(each.heads), "failed": each.failed}
            for each in result.configurations
        ],
        "best": {
            **values_of(winner.run),
            "test": result.test,
            "weights_sha256": sha256_of(out / WEIGHTS),
        },
        "ridge": {"penalty": result.ridge.chosen, **_accuracies(result.ridge)},
        "knn": {"k": result.knn.chosen, "temperature": TEMPERATURE, **_accuracies(result.knn)},
    }


def _accuracies(other: ClosedFormProbe) -> dict[str, dict[str, float]]:
    found = {"val": other.val, "test": other.test}
    return {split: {"accuracy": value} for split, value in found.items() if value is not None}


def _metrics(result: ProbeResult) -> dict[str, float]:
    best = result.configurations[0]
    found = {
        "heads": float(sum(len(each.heads) for each in result.configurations)),
        "features_seconds": result.features_seconds,
        "train_seconds": result.train_seconds,
        "ridge/penalty": result.ridge.chosen,
        "knn/k": result.knn.chosen,
    }
    for split, metrics in (("val", best.val), ("test", result.test)):
        found |= {f"{split}/{name}/{what}": v for name, s in metrics.items() for what, v in s.items()}
    for other in (result.ridge, result.knn):
        found |= {f"{other.name}/{split}/accuracy": s["accuracy"] for split, s in _accuracies(other).items()}
    if result.varied:
        for each in result.configurations:
            name = " ".join(f"{short(key)} {each.values[key]:g}" for key in result.varied)
            found |= {f"{name}/val/{metric}": s["mean"] for metric, s in each.val.items() if s["n"]}
    return found


def _info(runs: Sequence[Run], index: Index) -> RunInfo:
    """Return the probe's info for the tracker; config keys that differ between runs become lists."""
    info = run_info(runs[0], runs[0].seeds[0], index)
    config: dict[str, Any] = {**info.config}
    for key in OF_A_HEAD:
        values = list(dict.fromkeys(values_of(run)[key] for run in runs))
        if len(values) > 1:
            group, _, name = key.rpartition(".")
            if group:
                config[group] = {**config[group], name: values}
            else:
                config[name] = values
    tags = {key: value for key, value in info.tags.items() if key != "seed"}
    name = "·".join([backbone_name(runs[0]), "probe", runs[0].dataset.kind])
    tags["heads"] = str(len(runs))
    return replace(info, setting=name, stage="probe", config=config, tags=tags, seed=None)
