"""Metrics of several labels per image, and the thresholds of their predictions, with reproducible bits."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

DEFAULT_THRESHOLD = 0.5
"""Of a label that no validation image has."""


def probabilities(logits: ArrayLike) -> NDArray[np.float64]:
    """Return the sigmoids of logits of any shape."""
    scores = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(scores))  # never overflows
    result: NDArray[np.float64] = np.where(scores >= 0, 1, small) / (1 + small)
    return result


def least_certain(shares: NDArray[np.float64], predicted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the probability of the least certain decision of each image, (N,).

    Args:
        shares: (N, K) probabilities.
        predicted: (N, K): which labels are predicted.
    """
    certainty: NDArray[np.float64] = np.where(predicted, shares, 1 - shares).min(axis=1)
    return certainty


def multi_label_metrics(
    logits: ArrayLike, labels: ArrayLike, thresholds: Sequence[float] | None = None
) -> dict[str, float]:
    """Score `logits` (N, K) against `labels` (N, K), 1 where an image has the label; sums are in float64.

    Args:
        logits: (N, K) float32.
        labels: (N, K), 0 and 1; mixed labels count as 1 from 0.5.
        thresholds: K probabilities from which a label is predicted; None: 0.5.

    Returns:
        mAP: as `mean_average_precision`.
        f1_micro: F1 of all decisions together; 0 where it is undefined.
        f1_macro: mean of the labels' F1; 0 where one is undefined.
        loss: mean binary cross-entropy over images and labels, nats.
        n: number of images.

    Raises:
        ValueError: no image, shapes that don't match, or logits that are not finite.
    """
    scores, truth = _checked(logits, labels)
    given = np.full(scores.shape[1], DEFAULT_THRESHOLD) if thresholds is None else np.asarray(thresholds)
    predicted = probabilities(scores) >= given
    # log(1 + e^x) − x·y
    losses = np.maximum(scores, 0) + np.log1p(np.exp(-np.abs(scores))) - scores * np.asarray(labels)
    return {
        "mAP": mean_average_precision(scores, truth),
        "f1_micro": float(f1(truth.ravel(), predicted.ravel())),
        "f1_macro": float(f1(truth, predicted).mean()),
        "loss": math.fsum(losses.ravel()) / losses.size,
        "n": float(len(scores)),
    }


def mean_average_precision(logits: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean of the average precision of the labels that occur; 0 if none does.

    Args:
        logits: (N, K).
        labels: (N, K), 0 and 1; mixed labels count as 1 from 0.5.
    """
    scores, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels) >= 0.5
    occurring = np.flatnonzero(truth.any(axis=0))
    precisions = [average_precision(scores[:, k], truth[:, k]) for k in occurring]
    return math.fsum(precisions) / len(precisions) if precisions else 0.0


def average_precision(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Return Σ (Rᵢ − Rᵢ₋₁)·Pᵢ over the distinct scores, as scikit-learn's `average_precision_score`.

    Args:
        scores: (N,).
        truth: (N,), at least one True.
    """
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    last = _last_of_equals(scores[order])
    found, predicted = hits[last], last + 1
    gained = np.diff(found, prepend=0)
    return math.fsum(gained * (found / predicted)) / int(hits[-1])


def _last_of_equals(ranked: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the position of the last of each run of equal scores, (N,), in descending order."""
    return np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)


def f1(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return F1 along the first axis, 2·hits / (labels + predictions), 0 where both are 0."""
    both = truth.sum(axis=0) + predicted.sum(axis=0)
    scores: NDArray[np.float64] = 2 * (truth & predicted).sum(axis=0) / np.maximum(both, 1)
    return scores


def fixed_thresholds(kind: str | float, count: int) -> list[float]:
    """Return thresholds that no image chooses: the number `loss.threshold`, or 0.5."""
    return [DEFAULT_THRESHOLD if isinstance(kind, str) else float(kind)] * count


def best_thresholds(logits: ArrayLike, labels: ArrayLike, kind: Literal["one", "per_class"]) -> list[float]:
    """Return K thresholds of the probability.

    Args:
        logits: (N, K), of the validation images.
        labels: (N, K), 0 and 1.
        kind: one: the same for all, with the best micro F1; per_class: each with the best F1 of its label,
            0.5 if no image has it.
    """
    scores, truth = _checked(logits, labels)
    count = scores.shape[1]
    shares = probabilities(scores)
    if kind == "one":
        return [_best_threshold(shares.ravel(), truth.ravel())] * count
    return [_best_threshold(shares[:, k], truth[:, k]) for k in range(count)]


def _best_threshold(shares: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Return the threshold with the best F1, halfway to the next lower probability; ties: the higher one."""
    if not truth.any():
        return DEFAULT_THRESHOLD
    order = np.argsort(-shares, kind="stable")
    ranked, hits = shares[order], np.cumsum(truth[order])
    last = _last_of_equals(ranked)
    scores = 2 * hits[last] / (last + 1 + int(hits[-1]))
    best = int(last[int(scores.argmax())])
    lower = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    # Six digits: a rounding difference of a probability should not depend on more.
    halfway = (ranked[best] + lower) / 2
    rounded = float(f"{halfway:.6g}")
    return rounded if lower < rounded <= ranked[best] else float(halfway)


def per_class(
    logits: ArrayLike, labels: ArrayLike, thresholds: Sequence[float]
) -> list[tuple[float, int, float | None, float | None, float | None, float]]:
    """Return threshold, images, average precision, precision, recall and F1 of each of K labels.

    Average precision and recall are None without an image, precision without a prediction.
    """
    scores, truth = _checked(logits, labels)
    predicted = probabilities(scores) >= np.asarray(thresholds)
    rows = []
    for k, threshold in enumerate(thresholds):
        own, guessed = truth[:, k], predicted[:, k]
        hits, images, guesses = int((own & guessed).sum()), int(own.sum()), int(guessed.sum())
        rows.append(
            (
                threshold,
                images,
                average_precision(scores[:, k], own) if images else None,
                hits / guesses if guesses else None,
                hits / images if images else None,
                float(f1(own, guessed)),
            )
        )
    return rows


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    scores, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if scores.ndim != 2 or truth.shape != scores.shape:
        raise ValueError(f"logits {scores.shape} and labels {truth.shape} don't match: (N, K) is expected")
    if scores.size == 0:
        raise ValueError("there is no image to score")
    if not np.isfinite(scores).all():
        raise ValueError("logits hold a value that is not finite")
    return scores, truth >= 0.5
