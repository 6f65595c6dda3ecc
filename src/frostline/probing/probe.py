"""Judge a frozen network's features by probes: linear heads, ridge regression, nearest neighbours."""

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
from frostline.base.run_folder import OUTPUTS, WEIGHTS
from frostline.config.overrides import HEAD_KEYS
from frostline.console.errors import TrainingFailed, resource_errors
from frostline.console.progress import Advance, Progress
from frostline.data.loading.pixels import Images, images_key, load_pixels
from frostline.data.prepared.index import Index
from frostline.evaluation import evaluate
from frostline.features.execution import device_of
from frostline.models.pretrained import load_initial_weights
from frostline.probing import heads
from frostline.probing.closed_form import choose_k, knn, ridge
from frostline.probing.heads import Company, Trained
from frostline.schema import Run
from frostline.training.losses import hits
from frostline.training.material import Material, load_material
from frostline.training.outputs import write_outputs
from frostline.training.run_info import backbone_name, run_info
from frostline.training.services import NoTracker, RunInfo, Services

PROBE, HEADS = "probe.json", "heads.csv"
SETTINGS = HEAD_KEYS[:-1]
"""All but the seed."""
OF_HEADS = ("best_epoch", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "failure")
"""Columns of heads.csv, after `HEAD_KEYS`."""
PENALTIES = tuple(10 ** (half / 2) for half in range(-8, 13))
"""Of ridge regression, on the scale of the sum over the images."""
KS = (1, 3, 5, 10, 20, 50, 100, 200)
TEMPERATURE = 0.07
"""Of the neighbours' votes (Wu et al. 2018)."""


@dataclass(frozen=True)
class Setting:
    """The heads of one setting, a seed each."""

    values: dict[str, Any]
    """Key of `SETTINGS` → value; without label smoothing for a loss that has none."""
    heads: list[Trained]

    @property
    def failed(self) -> int:
        """How many heads broke down."""
        return sum(head.fit.failure is not None for head in self.heads)

    @cached_property
    def val(self) -> dict[str, Spread]:
        """accuracy and loss of the heads that did not, after their best epochs."""
        rows = [head.best for head in self.heads if head.fit.failure is None]
        return {
            name: spread([float(row[f"val/{name}"] or 0) for row in rows]) for name in ("accuracy", "loss")
        }


@dataclass(frozen=True)
class Other:
    """A probe that needs no training, with what validation chose."""

    name: str
    chosen: float
    """The penalty, or k."""
    val: float
    """Accuracy."""
    test: float | None
    """Accuracy; None without a test split."""


@dataclass(frozen=True)
class Judged:
    """What a probe found."""

    settings: list[Setting]
    """The best on validation first; those with a head that broke down last."""
    winner: Trained
    """The best head of the best setting."""
    test: dict[str, Spread]
    """Metric → of the best setting's heads, on the test split; empty without one."""
    ridge: Other
    """On the winner's features."""
    knn: Other
    """On the winner's features."""
    images: dict[str, int]
    """Split → how many the winner's features are of."""
    features_seconds: float
    """That computing them took; 0: they were there."""
    train_seconds: float

    @property
    def varied(self) -> list[str]:
        """The keys of `SETTINGS` in which settings differ."""
        first = self.settings[0].values
        return [key for key in first if any(each.values[key] != first[key] for each in self.settings)]


@resource_errors()
def run(runs: Sequence[Run], data: Path, out: Path, services: Services) -> Judged:
    """Train a head for each of `runs`, at once; leave probe.json, heads.csv and the best as a run in `out`.

    Heads are compared on validation: settings by the mean over their seeds, then the best one's seeds. The
    test split is read afterwards, for that setting and the probes that need no training.

    Args:
        runs: each with one seed, alike but for `overrides.HEAD_KEYS`, in the order of heads.csv.
        data: the prepared data's folder.
        out: the folder.
        services: to show, record and keep features.

    Raises:
        NotAtOnce: the runs ask for what only fine-tuning can do.
        FrostlineError: something else does not fit; before any training.
        TrainingFailed: no setting is without a head that broke down.
    """
    first, watch = runs[0], _Watch(services.progress)
    heads.check(first)
    with publish(out, OUTPUTS) as work:
        start = load_initial_weights(first.backbone, first.weights)
        given = load_material(first, data, start, services)
        companies = heads.gather(runs, start, given, replace(services, progress=watch))
        with services.tracker.run(_info(runs, given.index)) as recorded:
            if start.sha256 is not None:
                recorded.started_from(start.sha256)
            trained = heads.train(companies, services)
            settings = _ranked(runs, trained)
            winner = max(settings[0].heads, key=lambda head: _rank([head], first.trainer.monitor))
            chosen = _choose(winner.company, services)
            _leave(winner, given, work)
            quiet = replace(services, progress=watch, tracker=NoTracker())
            measured = evaluate.measure(winner.run, winner.seed, data, work, work, quiet)
            images = _test_images(first, given, data, services)
            test = [
                measured["test"] if head is winner else _measured(head, images)
                for head in settings[0].heads
                if images
            ]
            closed, near = _others(chosen, winner.company, images)
            judged = Judged(
                settings=settings,
                winner=winner,
                test={name: spread([each[name] for each in test]) for name in (test[0] if test else ())},
                ridge=closed,
                knn=near,
                images={
                    each.split: len(each)
                    for each in (winner.company.train, winner.company.val, images)
                    if each is not None
                },
                features_seconds=watch.seconds,
                train_seconds=sum(head.seconds for head in trained),
            )
            write_text(work / HEADS, csv_text([*HEAD_KEYS, *OF_HEADS], _rows(runs, trained)))
            write_text(work / PROBE, canonical_json(_plain(judged, work)))
            recorded.metrics(_metrics(judged))
            recorded.tags({"weights.sha256": sha256_of(work / WEIGHTS), "best": label(judged)})
            recorded.finished(work)
    return judged


def values_of(run: Run) -> dict[str, Any]:
    """Return what a run has for each of `overrides.HEAD_KEYS`."""
    return {
        "optimizer.lr": run.optimizer.lr,
        "optimizer.weight_decay": run.optimizer.weight_decay,
        "loss.label_smoothing": getattr(run.loss, "label_smoothing", None),
        "seed": run.seeds[0],
    }


def label(judged: Judged) -> str:
    """Return the winner's setting, such as ``lr=0.01 seed=1``."""
    values = {key: judged.settings[0].values[key] for key in judged.varied} | {"seed": judged.winner.seed}
    return " ".join(f"{short(key)}={value:g}" for key, value in values.items())


def short(key: str) -> str:
    """Return the last part of a key."""
    return key.rpartition(".")[2]


class _Watch:
    """Shows the progress of computing features, and adds up how long it took."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.seconds = progress, 0.0

    @contextmanager
    def __call__(self, description: str, total: int) -> Iterator[Advance]:
        begun = time.perf_counter()
        with self.progress(description, total) as advance:
            yield advance
        self.seconds += time.perf_counter() - begun


# ── what is best, on validation ─────────────────────────────────────────────────────────────────────────────


def _ranked(runs: Sequence[Run], trained: Sequence[Trained]) -> list[Setting]:
    """The settings, the best first."""
    of_run = {id(head.run): head for head in trained}
    found: dict[tuple[Any, ...], Setting] = {}
    for run in runs:
        values = {
            key: value for key, value in values_of(run).items() if key in SETTINGS and value is not None
        }
        found.setdefault(tuple(values.values()), Setting(values, [])).heads.append(of_run[id(run)])
    whole = [each for each in found.values() if not each.failed]
    if not whole:
        reason = next(head.fit.failure for head in trained if head.fit.failure)
        raise TrainingFailed(
            f"in every setting a head broke down, such as {reason};"
            " lower optimizer.lr, or set optimizer.clip_norm=1.0"
        )
    monitor = runs[0].trainer.monitor
    whole.sort(key=lambda each: _rank(each.heads, monitor), reverse=True)
    return [*whole, *(each for each in found.values() if each.failed)]


def _rank(several: Sequence[Trained], monitor: str) -> tuple[float, ...]:
    """What to compare heads by: the monitor, then the loss, means of both; the larger the better."""
    return tuple(
        score(name, statistics.fmean(float(head.best[name] or 0) for head in several))
        for name in (monitor, "val/loss")
    )


@dataclass(frozen=True)
class _Chosen:
    """What validation chose for the probes that need no training."""

    train: Tensor
    penalty: float
    weight: Tensor
    bias: Tensor
    ridge_val: float
    k: int
    knn_val: float


def _choose(company: Company, services: Services) -> _Chosen:
    device = device_of(company.runs[0].trainer.device)
    # As they are, even where heads are trained on augmented views.
    plain = company.reuse.features(company.cut, company.train)
    train, val = plain.to(device).float(), company.validation.to(device).float()
    labels, truth = company.train.labels.to(device), company.val.labels.to(device)
    weight, _ = company.starts[company.runs[0].seeds[0]]
    classes = len(weight)
    with services.progress("ridge regression, nearest neighbours", 2) as advance:
        fit = ridge(train, labels, classes, PENALTIES, val, truth)
        advance(1)
        ks = [k for k in KS if k <= len(train)]
        near = choose_k(train, labels, classes, ks, TEMPERATURE, val, truth)
        advance(1)
    ridge_val, knn_val = dict(fit.accuracies)[fit.penalty], dict(near.accuracies)[near.k]
    return _Chosen(train, fit.penalty, fit.weight, fit.bias, ridge_val, near.k, knn_val)


# ── the test split ──────────────────────────────────────────────────────────────────────────────────────────


def _test_images(run: Run, given: Material, data: Path, services: Services) -> Images | None:
    index, spec = given.index, given.spec
    rows = index.rows("test")
    if not len(rows):
        return None
    pixels = load_pixels(run.dataset, index, data, rows, spec, services.progress, services.scratch)
    labels = torch.as_tensor(index.labels)[torch.as_tensor(rows)]
    return Images(pixels, labels, images_key(index, rows, spec), index.name, "test")


def _measured(head: Trained, images: Images) -> dict[str, float]:
    """Metrics of a head, as `evaluate` has them for its network."""
    features = head.company.reuse.features(head.company.cut, images)
    trainer, device = head.run.trainer, device_of(head.run.trainer.device)
    weight, bias = head.fit.weight.to(device), head.fit.bias.to(device)
    parts = features.split(trainer.eval_batch_size)
    logits = torch.cat([functional.linear(part.to(device).float(), weight, bias).cpu() for part in parts])
    return classification_metrics(logits, images.labels)


def _others(chosen: _Chosen, company: Company, images: Images | None) -> list[Other]:
    if images is None:
        return [
            Other("ridge", chosen.penalty, chosen.ridge_val, None),
            Other("knn", chosen.k, chosen.knn_val, None),
        ]
    device = chosen.train.device
    features = company.reuse.features(company.cut, images).to(device).float()
    labels = images.labels.to(device)
    shares = knn(
        chosen.train, company.train.labels.to(device), len(chosen.bias), features, chosen.k, TEMPERATURE
    )
    of_ridge, of_knn = (
        int(hits(logits, labels)) / len(labels)
        for logits in (functional.linear(features, chosen.weight, chosen.bias), shares)
    )
    return [
        Other("ridge", chosen.penalty, chosen.ridge_val, of_ridge),
        Other("knn", chosen.k, chosen.knn_val, of_knn),
    ]


# ── what is left, and recorded ──────────────────────────────────────────────────────────────────────────────


def _leave(winner: Trained, given: Material, out: Path) -> None:
    company, count = winner.company, len(winner.company.train)
    write_outputs(winner.run, winner.seed, given, winner, company.plan, company.report, count, out, {})


def _rows(runs: Sequence[Run], trained: Sequence[Trained]) -> Iterator[list[Any]]:
    """Of heads.csv, in the order of `runs`; a head that broke down has no numbers."""
    of_run = {id(head.run): head.fit for head in trained}
    for run in runs:
        fit = of_run[id(run)]
        best: dict[str, Any] = (
            {} if fit.failure else {"best_epoch": fit.best_epoch, **fit.history[fit.best_epoch]}
        )
        numbers = [fit.failure if name == "failure" else best.get(name) for name in OF_HEADS]
        yield [*values_of(run).values(), *numbers]


def _plain(judged: Judged, out: Path) -> dict[str, Any]:
    """What probe.json holds."""
    winner, cut = judged.winner, judged.winner.company.cut
    return {
        "features": {"at": cut.name, "width": cut.shape[0], "images": judged.images},
        "settings": [
            {**each.values, "val": each.val, "seeds": len(each.heads), "failed": each.failed}
            for each in judged.settings
        ],
        "best": {
            **values_of(winner.run),
            "test": judged.test,
            "weights_sha256": sha256_of(out / WEIGHTS),
        },
        "ridge": {"penalty": judged.ridge.chosen, **_accuracies(judged.ridge)},
        "knn": {"k": judged.knn.chosen, "temperature": TEMPERATURE, **_accuracies(judged.knn)},
    }


def _accuracies(other: Other) -> dict[str, dict[str, float]]:
    found = {"val": other.val, "test": other.test}
    return {split: {"accuracy": value} for split, value in found.items() if value is not None}


def _metrics(judged: Judged) -> dict[str, float]:
    best = judged.settings[0]
    found = {
        "heads": float(sum(len(each.heads) for each in judged.settings)),
        "features_seconds": judged.features_seconds,
        "train_seconds": judged.train_seconds,
        "ridge/penalty": judged.ridge.chosen,
        "knn/k": judged.knn.chosen,
    }
    for split, metrics in (("val", best.val), ("test", judged.test)):
        found |= {f"{split}/{name}/{what}": v for name, s in metrics.items() for what, v in s.items()}
    for other in (judged.ridge, judged.knn):
        found |= {f"{other.name}/{split}/accuracy": s["accuracy"] for split, s in _accuracies(other).items()}
    if judged.varied:
        for each in judged.settings:
            name = " ".join(f"{short(key)} {each.values[key]:g}" for key in judged.varied)
            found |= {f"{name}/val/{metric}": s["mean"] for metric, s in each.val.items() if s["n"]}
    return found


def _info(runs: Sequence[Run], index: Index) -> RunInfo:
    """Of a run's config, the keys that differ have lists."""
    info = run_info(runs[0], runs[0].seeds[0], index)
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
    name = "·".join([backbone_name(runs[0]), "probe", runs[0].dataset.kind])
    tags["heads"] = str(len(runs))
    return replace(info, setting=name, stage="probe", config=config, tags=tags, seed=None)
