"""predictions.csv and per_class.csv of a network for several labels per image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from frostline.base.files import write_text
from frostline.base.formats import csv_text
from frostline.base.multi_label_metrics import least_certain, per_class, probabilities
from frostline.base.run_folder import PER_CLASS, PREDICTIONS
from frostline.data.prepared.index import Index
from frostline.data.reading.label_sets import joined, text_of

IMAGE_COLUMNS = ("id", "labels", "predictions", "confidence")
CLASS_COLUMNS = ("class", "threshold", "images", "average_precision", "precision", "recall", "f1")


def write(
    index: Index, rows: NDArray[np.int64], logits: Tensor, thresholds: Sequence[float], out: Path
) -> None:
    """Write both tables of some images.

    predictions.csv has a row per image: its labels and those predicted, each separated by ``;``, and the
    probability of the least certain decision on a label. per_class.csv has a row per class: its threshold,
    the images with the label, and metrics, empty where they are undefined.

    Args:
        index: of the data set.
        rows: (N,) positions in the index.
        logits: (N, K).
        thresholds: K probabilities from which a label is predicted.
        out: the folder.
    """
    shares = probabilities(logits)
    chosen = shares >= np.asarray(thresholds)
    confidence = least_certain(shares, chosen)
    images = (
        [
            index.keys[row],
            text_of(index.labels[row], index.classes),
            joined([index.classes[k] for k in np.flatnonzero(own)]),
            _digits(share),
        ]
        for row, own, share in zip(rows.tolist(), chosen, confidence.tolist(), strict=True)
    )
    write_text(out / PREDICTIONS, csv_text(IMAGE_COLUMNS, images))
    measured = per_class(logits, index.labels[rows], thresholds)
    classes = (
        [name, threshold, count, *map(_digits, metrics)]
        for name, (threshold, count, *metrics) in zip(index.classes, measured, strict=True)
    )
    write_text(out / PER_CLASS, csv_text(CLASS_COLUMNS, classes))


def _digits(value: float | None) -> float | None:
    """Round to seven digits, the precision of float32."""
    return None if value is None else float(f"{value:.7g}")
