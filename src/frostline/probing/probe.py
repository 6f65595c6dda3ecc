"""Probes a frozen network's features: linear heads, ridge regression, k nearest neighbours."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from frostline.base.files import publish, write_text
from frostline.base.formats import canonical_json, csv_text
from frostline.base.hashes import sha256_of
from frostline.base.metrics import Spread, score, spread, task_metrics
from frostline.base.run_folder import HEADS, OUTPUTS, PROBE, THRESHOLDS, WEIGHTS
from frostline.config.overrides import HEAD_KEYS
from frostline.console.errors import TrainingFailed, resource_errors
from frostline.console.progress import Advance, Progress
from frostline.data.loading.label_budget import LabelBudget
from frostline.data.loading.pixels import Images, images_of, load_pixels
from frostline.data.prepared.index import Index
from frostline.evaluation import evaluate
from frostline.features.execution import device_of
from frostline.models.pretrained import load_initial_weights
from frostline.probing import heads
from frostline.probing.closed_form import KnnFit, RidgeFit, choose_k, knn, metric, ridge
from frostline.probing.feature_set import FeatureSet
from frostline.probing.heads import FeatureGroup, TrainedHead
from frostline.probing.results import (
    HYPERPARAMETERS,
    TEMPERATURE,
    ClosedFormProbe,
    Configuration,
    ProbeResult,
    csv_rows,
    label,
    result_columns,
    to_json,
    tracker_metrics,
    values_of,
)
from frostline.schema import Run, backbone_name
from frostline.training.inputs import TrainingInputs, load_inputs
from frostline.training.outputs import write_outputs
from frostline.training.run_info import run_info
from frostline.training.services import RunInfo, Services, Tracker

PENALTIES = tuple(10 ** (half / 2) for half in range(-8, 13))
"""Of ridge regression, for the loss summed over the images."""
KS = (1, 3, 5, 10, 20, 50, 100, 200)


@resource_errors()
def run(runs: Sequence[Run], data: Path, out: Path, services: Services) -> ProbeResult:
    """Train a head for each of `runs`; write probe.json, heads.csv and the best head as a run to `out`.

    Validation chooses the configuration with the best mean over seeds, then its best seed. Only then the test
    split is read, for the heads of that configuration and the closed-form probes.

    Args:
        runs: equal except for `overrides.HEAD_KEYS`, in the order of heads.csv.
        data: the folder of the prepared data.
        services: progress, tracker and feature cache.

    Raises:
        NotBatchable: batched linear heads do not support the config.
        FrostlineError: the config is invalid otherwise; before any training.
        TrainingFailed: every configuration has a failed head.
    """
    first, watch = runs[0], _Stopwatch(services.progress)
    heads.check(first)
    with publish(out, OUTPUTS) as work:
        initial = load_initial_weights(first.backbone, first.weights)
        inputs = load_inputs(first, data, initial, services)
        groups = heads.group_by_features(runs, inputs, replace(services, progress=watch))
        with services.tracker.run(_info(runs, inputs.index, groups[0].budget)) as tracked_run:
            if initial.sha256 is not None:
                tracked_run.log_initial_weights(initial.sha256)
            trained = heads.train(groups, services)
            configurations = _ranked(runs, trained)
            winner = max(configurations[0].heads, key=lambda head: _rank([head], first.trainer.monitor))
            chosen = _fit_closed_form(winner.group, services)
            write_outputs(winner.run, inputs, winner.trained_network(), work)
            quiet = replace(services, progress=watch, tracker=Tracker())
            measured = evaluate.measure(winner.run, data, work, work, quiet)
            images = _test_images(inputs, services)
            closed, near = _closed_form_probes(*chosen, winner.group, images)
            result = ProbeResult(
                configurations=configurations,
                winner=winner,
                test=_test_spread(configurations[0], winner, measured, images),
                ridge=closed,
                knn=near,
                images={
                    part.split: len(part)
                    for part in (winner.group.train, winner.group.val, images)
                    if part is not None
                },
                features_seconds=watch.seconds,
                train_seconds=sum(head.seconds for head in trained),
            )
            write_text(work / HEADS, csv_text([*HEAD_KEYS, *result_columns(winner)], csv_rows(runs, trained)))
            write_text(work / PROBE, canonical_json(to_json(result, work)))
            tracked_run.log_metrics(tracker_metrics(result))
            tracked_run.set_tags({"weights.sha256": sha256_of(work / WEIGHTS), "best": label(result)})
            tracked_run.log_outputs(work)
    return result


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
    complete = [configuration for configuration in by_values.values() if not configuration.failed]
    if not complete:
        reason = next(head.fit.failure for head in trained if head.fit.failure)
        raise TrainingFailed(
            f"in every configuration a head failed, for example since {reason};"
            " lower optimizer.lr, or set optimizer.clip_norm=1.0"
        )
    monitor = runs[0].trainer.monitor
    complete.sort(key=lambda configuration: _rank(configuration.heads, monitor), reverse=True)
    return [*complete, *(configuration for configuration in by_values.values() if configuration.failed)]


def _rank(several: Sequence[TrainedHead], monitor: str) -> tuple[float, ...]:
    """Return the score of heads: the mean of the monitor, then of the loss; larger is better."""
    return tuple(
        score(name, statistics.fmean(float(head.best[name] or 0) for head in several))
        for name in (monitor, "val/loss")
    )


def _fit_closed_form(group: FeatureGroup, services: Services) -> tuple[FeatureSet, RidgeFit, KnnFit]:
    """Return the training features, and the closed-form probes that validation chose."""
    device = device_of(group.runs[0].trainer.device)
    # Without augmentation, even if heads are trained on augmented views.
    plain = group.reuse.features(group.split_point, group.train)
    train = FeatureSet([plain.to(device).float()], group.train.labels.to(device))
    val = FeatureSet([group.validation.to(device).float()], group.val.labels.to(device))
    weight, _ = group.starts[group.runs[0].seed]
    classes = len(weight)
    with services.progress("ridge regression, nearest neighbours", 2) as advance:
        fit = ridge(train, val, classes, PENALTIES)
        advance(1)
        ks = [k for k in KS if k <= len(train)]
        near = choose_k(train, val, classes, ks, TEMPERATURE)
        advance(1)
    return train, fit, near


# ── the test split ──────────────────────────────────────────────────────────────────────────────────────────


def _test_images(inputs: TrainingInputs, services: Services) -> Images | None:
    index, spec = inputs.index, inputs.spec
    rows = index.rows("test")
    if not len(rows):
        return None
    pixels = load_pixels(inputs.data, rows, spec, services.progress, services.scratch)
    return images_of(index, rows, pixels, spec, "test")


def _test_spread(
    best: Configuration, winner: TrainedHead, measured: evaluate.Metrics, images: Images | None
) -> dict[str, Spread]:
    """Return the test metrics of the best configuration's heads; empty without a test split.

    Args:
        best: the best configuration.
        winner: its best head.
        measured: the winner's metrics, of its whole network.
        images: the test images.
    """
    if images is None:
        return {}
    test = [measured["test"] if head is winner else _measured(head, images) for head in best.heads]
    return {name: spread([metrics[name] for metrics in test]) for name in test[0]}


def _measured(head: TrainedHead, images: Images) -> dict[str, float]:
    """Return a head's metrics, as `evaluation` computes them for its network."""
    features = head.group.reuse.features(head.group.split_point, images)
    trainer, device = head.run.trainer, device_of(head.run.trainer.device)
    weight, bias = head.fit.weight.to(device), head.fit.bias.to(device)
    parts = features.split(trainer.eval_batch_size)
    logits = torch.cat([functional.linear(part.to(device).float(), weight, bias).cpu() for part in parts])
    return task_metrics(logits, images.labels, head.thresholds.get(THRESHOLDS))


def _closed_form_probes(
    train: FeatureSet, fit: RidgeFit, near: KnnFit, group: FeatureGroup, images: Images | None
) -> list[ClosedFormProbe]:
    of_ridge = of_knn = None
    if images is not None:
        device = fit.bias.device
        features = group.reuse.features(group.split_point, images).to(device).float()
        labels = images.labels.to(device)
        shares = knn(train, features, len(fit.bias), near.k, TEMPERATURE)
        of_ridge = metric(functional.linear(features, fit.weight, fit.bias), labels)
        of_knn = metric(shares, labels)
    return [
        ClosedFormProbe("ridge", fit.penalty, dict(fit.scores)[fit.penalty], of_ridge),
        ClosedFormProbe("knn", near.k, dict(near.scores)[near.k], of_knn),
    ]


# ── output files and tracking ───────────────────────────────────────────────────────────────────────────────


def _info(runs: Sequence[Run], index: Index, budget: LabelBudget) -> RunInfo:
    """Return the probe's info for the tracker; config keys that differ between runs become lists."""
    info = run_info(runs[0], index, budget)
    config: dict[str, Any] = {**info.config}
    for key in HEAD_KEYS:
        values = list(dict.fromkeys(values_of(run)[key] for run in runs))
        if len(values) > 1:
            group, _, name = key.rpartition(".")
            if group:
                config[group] = {**config[group], name: values}
            else:
                config[name] = values
    tags = {key: value for key, value in info.tags.items() if key != "seed"}
    name = "·".join(["probe", backbone_name(runs[0].backbone), index.name])
    tags["heads"] = str(len(runs))
    return replace(info, setting=name, stage="probe", config=config, tags=tags, seed=None)
