"""A study's files as the stages leave them, made up: learning curves that rise as such curves do."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from frostline.base import repetitions
from frostline.base.files import write_text
from frostline.base.formats import canonical_json, csv_text

EPOCHS = 40
STEPS_PER_EPOCH = 5
TEST_IMAGES = 360
SEEDS = (0, 1, 2, 3, 4)
MONITOR = "val/accuracy"


@dataclass(frozen=True)
class Shape:
    """How an arm's curve rises, from `start` to `end` with a time constant of `tau` epochs."""

    start: float
    end: float
    tau: float
    epochs: int = EPOCHS
    noise: float = 0.012
    phases: tuple[tuple[tuple[str, ...] | str, int], ...] = ((("all",), 0),)
    """Trained groups, and the epochs before them."""
    seconds_per_epoch: float = 0.31


DEFAULT: Mapping[str, Shape] = {
    "scratch": Shape(0.10, 0.86, 9.0, phases=(("all", 0),)),
    "zero_shot": Shape(0.62, 0.62, 1.0, epochs=0, noise=0.0, phases=()),
    "linear_probe": Shape(0.62, 0.90, 3.0, phases=((("head",), 0),), seconds_per_epoch=0.02),
    "full": Shape(0.62, 0.955, 2.2, phases=(("all", 0),)),
    "gradual": Shape(
        0.62, 0.95, 2.8, phases=((("head",), 0), (("head", "top"), 8), ("all", 15)), seconds_per_epoch=0.19
    ),
}


def write_study(
    artifacts: Path,
    shapes: Mapping[str, Shape] = DEFAULT,
    seeds: Sequence[int] = SEEDS,
    classes: Sequence[str] = tuple("0123456789"),
    folds: Sequence[int] | None = None,
) -> Path:
    """Write finetune/, timing/ and evaluate/ of a study into `artifacts`, and return it."""
    for arm, shape in shapes.items():
        scores, clocks = {}, {}
        for repetition in repetitions.repetitions(seeds, folds):
            seed = repetition.seed + 100 * (repetition.fold or 0)
            val, train = _curve(arm, shape, seed, "val"), _curve(arm, shape, seed, "train")
            best = max(range(len(val)), key=lambda epoch: val[epoch])
            _write_training(artifacts / "finetune" / arm / repetition.folder, shape, val, train, best)
            rows = _predictions(arm, shape, seed, classes)
            accuracy = sum(row[1] == row[2] for row in rows) / len(rows)
            write_text(
                artifacts / "evaluate" / arm / repetition.folder / "predictions.csv",
                csv_text(("id", "label", "prediction", "confidence"), rows),
            )
            test = {
                "accuracy": accuracy,
                "loss": 1.4 * (1 - accuracy),
                "f1_macro": accuracy - 0.003,
                "ece": 0.03,
            }
            scores[repetition] = {
                "test": {**test, "n": float(len(rows))},
                "val": {"accuracy": val[best]},
                "train": {"accuracy": train[best]},
            }
            ends = [
                round(shape.seconds_per_epoch * (e + 1) * (1 + 0.03 * seed), 6) for e in range(shape.epochs)
            ]
            total = ends[-1] if ends else 0.0
            clocks[repetition] = {"train_seconds": total, "epoch_seconds": ends, "images_per_second": 320.0}
        write_text(
            artifacts / "evaluate" / arm / "metrics.json",
            canonical_json({"test": {}, **repetitions.as_json(scores)}),
        )
        write_text(artifacts / "timing" / f"{arm}.json", canonical_json(repetitions.as_json(clocks)))
    return artifacts


def _write_training(folder: Path, shape: Shape, val: list[float], train: list[float], best: int) -> None:
    columns = ("epoch", "step", "phase", "lr", "train/loss", "train/accuracy", "val/loss", "val/accuracy")
    rows: list[tuple[object, ...]] = [(0, 0, None, None, None, None, 2.4 * (1 - val[0]), val[0])]
    for epoch in range(1, shape.epochs + 1):
        phase = sum(before < epoch for _, before in shape.phases) - 1
        losses = (1.2 * (1 - train[epoch]), train[epoch], 1.5 * (1 - val[epoch]), val[epoch])
        rows.append((epoch, epoch * STEPS_PER_EPOCH, phase, 0.001, *losses))
    write_text(folder / "history.csv", csv_text(columns, rows))
    phases = [
        {
            "index": index,
            "train": groups if groups == "all" else list(groups),
            "first_epoch": before + 1,
            "first_step": before * STEPS_PER_EPOCH,
        }
        for index, (groups, before) in enumerate(shape.phases)
    ]
    training = {
        "best_epoch": best,
        "epochs": shape.epochs,
        "steps": shape.epochs * STEPS_PER_EPOCH,
        "phases": phases,
        "weights_sha256": "0" * 64,
    }
    write_text(folder / "training.json", canonical_json(training))


def _curve(arm: str, shape: Shape, seed: int, split: str) -> list[float]:
    """Return an accuracy after 0, 1, … epochs; whole counts of 360 images, as real ones are."""
    rng = random.Random(f"{arm} {seed} {split}")
    if arm != "scratch":
        rng_start = random.Random("pretrained")
        start = shape.start + rng_start.gauss(0, shape.noise)
    else:
        start = shape.start + rng.gauss(0, shape.noise)
    end = min(0.999, shape.end + rng.gauss(0, 0.8 * shape.noise) + (0.04 if split == "train" else 0.0))
    values = []
    for epoch in range(shape.epochs + 1):
        wobble = rng.gauss(0, shape.noise * (0.4 + math.exp(-epoch / 8))) if epoch else 0.0
        value = start + (end - start) * (1 - math.exp(-epoch / shape.tau)) + wobble
        values.append(round(TEST_IMAGES * min(1.0, max(0.0, value))) / TEST_IMAGES)
    return values


def _predictions(arm: str, shape: Shape, seed: int, classes: Sequence[str]) -> list[tuple[object, ...]]:
    """Return test predictions; later classes are harder, and a class is mostly mistaken for its neighbour."""
    rng = random.Random(f"{arm} {seed if shape.epochs else 0} test")
    rows: list[tuple[object, ...]] = []
    for image in range(TEST_IMAGES):
        truth = image % len(classes)
        hardness = 2 * (1 - shape.end) * (truth + 0.5) / len(classes)
        guess = truth
        if rng.random() < hardness:
            guess = (truth + rng.choice((1, 1, 1, -1, 3))) % len(classes)
        rows.append((f"test/{image:04d}.png", classes[truth], classes[guess], round(rng.uniform(0.5, 1), 6)))
    return rows
