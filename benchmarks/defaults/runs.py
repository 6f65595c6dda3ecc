"""One run of the benchmark: by frostline's own code, or by fastai's loop on what frostline would train on."""

import contextlib
import csv
import json
import os
import shutil
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.defaults.plan import BATCH, EPOCHS, Trial, pretraining
from frostline.console.errors import FrostlineError

FASTAI_LR = 2e-3
"""`Learner.fine_tune`'s default."""
HEAD_EPOCHS = 1
"""As above: freeze_epochs."""
EVAL_BATCH = 256
Part = tuple[Any, Any]
"""Images and labels."""


def begin(folder: str) -> None:
    """Make a worker process ready: one thread, no recording, a project of the benchmark's."""
    os.environ |= {"OMP_NUM_THREADS": "1", "FROSTLINE_TRACKING": "off"}
    warnings.filterwarnings("ignore")
    os.chdir(folder)
    import torch

    torch.set_num_threads(1)


def pretrain(source: str, data: str, pretrained: str, device: str) -> dict[str, Any]:
    """Pretrain on a source, unless it is done."""
    from frostline.evaluation.evaluate import read_metrics

    begun, out = time.monotonic(), Path(pretrained) / source
    try:
        metrics = read_metrics(out)
    except FrostlineError:
        metrics = _run("pretrain", pretraining(source, data, pretrained, device))
    return {"source": source, "seconds": time.monotonic() - begun, "test": metrics["test"]["accuracy"]}


def run(trial: Trial, data: str, pretrained: str, device: str) -> dict[str, Any]:
    """Train and measure; return accuracies and seconds, or the error."""
    begun = time.monotonic()
    words = trial.overrides(data, pretrained, device)
    try:
        found = fastai(words) if trial.by == "fastai" else frostline(words)
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"[:500]}
    return {**found, "seconds": round(time.monotonic() - begun, 2)}


def frostline(words: list[str]) -> dict[str, Any]:
    """Run `frostline finetune`."""
    out = Path("runs") / f"{os.getpid()}"
    try:
        metrics = _run("finetune", [*words, f"out={out}"])
        with (out / "history.csv").open() as stream:
            history = list(csv.DictReader(stream))
        record = json.loads((out / "training.json").read_text())
        curves = {
            name: [round(float(row[name]), 4) for row in history if row.get(name)]
            for split in ("train", "val", "selection")
            for name in (f"{split}/accuracy", f"{split}/loss")
        }
    finally:
        shutil.rmtree(out, ignore_errors=True)
    accuracies = {split: metrics[split]["accuracy"] for split in ("train", "val", "test")}
    return {**accuracies, "best_epoch": record["best_epoch"], "curves": curves}


def _run(stage: str, words: list[str]) -> Any:
    from frostline.config import compose
    from frostline.evaluation.evaluate import read_metrics
    from frostline.pipeline import standalone

    composed, choices = compose.experiment(words)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        done = standalone.Job(stage, force=True)(composed, choices)
    return read_metrics(done.out)


def fastai(words: list[str]) -> dict[str, Any]:
    """Run `Learner.fine_tune` with its defaults on the images, network and weights of a run of frostline's.

    The images are normalized and in memory; the last batch of an epoch is dropped, as fastai's loaders do.
    """
    import torch
    from fastai.callback.schedule import Learner  # it brings fine_tune
    from fastai.data.core import DataLoaders
    from fastai.learner import params
    from torch import nn
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

    torch.manual_seed(0)
    data = _arrays(words)
    torch.manual_seed(data.seed)
    head = {id(parameter) for parameter in data.network.get_classifier().parameters()}

    def split(module: nn.Module) -> list[list[nn.Parameter]]:
        every = params(module)
        return [[p for p in every if id(p) not in head], [p for p in every if id(p) in head]]

    def loader(part: Part, batch: int, *, train: bool) -> Any:
        images = TensorDataset(*part)
        order: Any = RandomSampler(images) if train else SequentialSampler(images)
        return DataLoader(images, sampler=BatchSampler(order, batch, drop_last=train), batch_size=None)

    train, val = data.parts["train"], data.parts["val"]
    loaders = DataLoaders(
        loader(train, min(BATCH, len(train[0])), train=True),
        loader(val, EVAL_BATCH, train=False),
        device=data.device,
    )
    learner = Learner(loaders, data.network, nn.CrossEntropyLoss(), splitter=split, path=Path("runs"))
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(EPOCHS - HEAD_EPOCHS, FASTAI_LR, freeze_epochs=HEAD_EPOCHS)
    data.network.eval()

    def accuracy(part: Part) -> float:
        pairs = zip(part[0].split(EVAL_BATCH), part[1].split(EVAL_BATCH), strict=True)
        with torch.inference_mode():
            return float(torch.cat([data.network(x).argmax(1) == y for x, y in pairs]).float().mean())

    return {split: accuracy(part) for split, part in data.parts.items()}


@dataclass(frozen=True)
class Arrays:
    """What a run of frostline's would train: normalized images on the device, and the initial network."""

    parts: dict[str, Part]
    network: Any
    seed: int
    device: Any


def _arrays(words: list[str]) -> Arrays:
    import torch

    from frostline.config import compose, stage_configs
    from frostline.data.loading.label_budget import label_budget
    from frostline.data.loading.pixels import load_pixels
    from frostline.data.prepared.index import PreparedData
    from frostline.models.pretrained import create_network, input_spec, load_initial_weights
    from frostline.pipeline.session import make_services
    from frostline.pipeline.standalone import prepared

    composed, choices = compose.experiment(words)
    config = stage_configs.finetune_config(composed, choices)
    index, place = prepared(composed, "target")
    data = PreparedData.read(config.dataset, place)
    initial = load_initial_weights(config.backbone, config.weights)
    spec = input_spec(config.backbone, initial, config.input)
    device = torch.device(config.trainer.device)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    scratch = make_services().scratch

    def part(rows: Any) -> Part:
        pixels = load_pixels(data, rows, spec, scratch=scratch)[:]
        labels = torch.as_tensor(index.labels[rows]).long()
        return ((pixels.float() / 255 - mean) / std).to(device), labels.to(device)

    rows = {split: index.rows(split) for split in ("val", "test")}
    rows["train"] = label_budget(index, config.dataset, config.seed).train
    network, _ = create_network(config, initial, spec, index.classes)
    parts = {split: part(chosen) for split, chosen in rows.items()}
    return Arrays(parts, network.to(device), config.seed, device)
