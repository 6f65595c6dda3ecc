"""`python -m benchmarks.defaults.running_statistics`: which running statistics of BatchNorm measure best.

Training does not read them. So one training of `full` as it comes keeps several estimates beside each other,
and each is measured on the same weights and test images: differences are free of the noise of training.
"""

import argparse
import json
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.defaults import plan, runs, table

Statistics = list[tuple[Tensor, Tensor]]
"""Mean and variance of each layer."""
MOMENTUM = 0.1
ESTIMATES = {
    "moving average": lambda step: MOMENTUM,
    "first batch": lambda step: 1.0 if step == 1 else MOMENTUM,
    "ten batches": lambda step: max(MOMENTUM, 1 / step),
}
"""Estimate → its momentum at a step, counted from 1; all start from the source's statistics."""
ALL_IMAGES = "all images"
"""The statistics of the training images in one batch, with the final weights (Wu & Johnson 2021)."""


def main(words: Sequence[str] | None = None) -> None:
    """Append a line for each seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", choices=plan.TARGETS)
    parser.add_argument("shots", type=int)
    parser.add_argument("start", choices=plan.STARTS)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets (.npz)")
    parser.add_argument("--pretrained", type=Path, default=Path("pretrained"))
    parser.add_argument("--size", type=int, help="side of the images in pixels; default: the benchmark's")
    parser.add_argument("--tests", type=int, default=200, help="test images at most")
    parser.add_argument("--seeds", type=int, default=plan.SEEDS)
    parser.add_argument("--out", type=Path, default=Path("running-statistics.jsonl"))
    options = parser.parse_args(words)
    out, data, pretrained = (path.resolve() for path in (options.out, options.data, options.pretrained))
    work = Path(f"{out}.work")
    (work / "runs").mkdir(parents=True, exist_ok=True)
    runs.begin(str(work))
    for seed in range(options.seeds):
        trial = plan.Trial(
            options.target, options.shots, options.start, "frostline", "full", "default", (), seed
        )
        overrides = trial.overrides(str(data), str(pretrained), "cpu")
        size = [f"input.size={options.size}"] if options.size else []
        found = measure([*overrides, *size], options.tests)
        cell = {
            "target": options.target,
            "shots": options.shots,
            "start": options.start,
            "size": options.size,
        }
        with out.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({**cell, "size": options.size, "seed": seed, **found}) + "\n")


def measure(words: list[str], tests: int) -> dict[str, Any]:
    """Train, and return steps, test images, and the test accuracy with each estimate."""
    from frostline.config import compose, stage_configs
    from frostline.data.loading.batches import sizes
    from frostline.freezing.curves import build_curve
    from frostline.models.optimizers import make_optimizer

    config = stage_configs.finetune_config(*compose.experiment(words))
    arrays = runs._arrays(words)
    network, (images, labels) = arrays.network, arrays.parts["train"]
    layers: Any = [
        module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    source = statistics(layers)
    estimates = dict.fromkeys(ESTIMATES, source)
    optimizer = make_optimizer(config.optimizer, _groups(network, config.optimizer.weight_decay))
    curve, order = build_curve(config.optimizer.schedule), torch.Generator().manual_seed(config.seed)
    parts = sizes(len(images), plan.BATCH)
    total = plan.EPOCHS * len(parts)
    network.train()
    for layer in layers:
        layer.momentum = 1.0  # the batch's own statistics
    epochs = (torch.randperm(len(images), generator=order).split(parts) for _ in range(plan.EPOCHS))
    for step, rows in enumerate(chain.from_iterable(epochs)):
        for group in optimizer.param_groups:
            group["lr"] = config.optimizer.lr * curve.factor(step, total)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
        optimizer.step()
        of_batch = statistics(layers)
        for name, momentum in ESTIMATES.items():
            estimates[name] = moved(estimates[name], of_batch, momentum(step + 1))
    with torch.no_grad():
        network(images)
    estimates[ALL_IMAGES] = statistics(layers)
    chosen = torch.randperm(len(arrays.parts["test"][1]), generator=torch.Generator().manual_seed(1))[:tests]
    test = tuple(part[chosen] for part in arrays.parts["test"])
    accuracies = {name: accuracy(network, layers, found, test) for name, found in estimates.items()}
    return {"steps": total, "tests": len(chosen), "accuracy": accuracies}


def rows(path: Path) -> list[list[str]]:
    """Return rows of a table of results: mean test accuracies over seeds, in percent."""
    cells: dict[tuple[str, str], list[dict[str, float]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        cell = f"{row['target']}, {row['shots']}, {table.STARTS[row['start']]}"
        cells.setdefault((cell, str(row["steps"])), []).append(row["accuracy"])
    names = [*ESTIMATES, ALL_IMAGES]
    body = []
    for (cell, steps), found in cells.items():
        measured = ([100 * each[name] for each in found if name in each] for name in names)
        means = (f"{mean(some):.1f}" if some else "–" for some in measured)
        body.append([cell, steps, str(len(found)), *means])
    return [["cell", "steps", "seeds", *names], *body]


def statistics(layers: Any) -> Statistics:
    """Return a copy of the layers' running statistics."""
    return [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]


def moved(old: Statistics, new: Statistics, share: float) -> Statistics:
    """Return the old statistics moved towards the new ones by a share of the difference."""
    pairs = zip(old, new, strict=True)
    return [(a.lerp(to_a, share), b.lerp(to_b, share)) for (a, b), (to_a, to_b) in pairs]


@torch.no_grad()
def accuracy(network: nn.Module, layers: Any, found: Statistics, test: tuple[Tensor, ...]) -> float:
    """Return the network's accuracy on test images, with running statistics."""
    for layer, (means, variances) in zip(layers, found, strict=True):
        layer.running_mean.copy_(means)
        layer.running_var.copy_(variances)
    network.eval()
    images, labels = test
    guesses = torch.cat([network(part).argmax(1) for part in images.split(runs.EVAL_BATCH)])
    return round(float((guesses == labels).float().mean()), 4)


def _groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Return parameter groups: weight decay for matrices and kernels only."""
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
