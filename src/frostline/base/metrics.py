"""Classification metrics of logits, with reproducible bits."""

import math
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from frostline.base.confusion import Confusion
from frostline.base.multi_label_metrics import multi_label_metrics

Spread = dict[str, float]
"""mean, std and n, over seeds."""

METRICS = ("accuracy", "balanced_accuracy", "ece", "f1_macro", "loss", "top5_accuracy")
"""What `classification_metrics` returns, without `n`."""
MULTI_LABEL_METRICS = ("f1_macro", "f1_micro", "loss", "mAP")
"""What `multi_label_metrics` returns, without `n`."""
SHARES = frozenset((*METRICS, *MULTI_LABEL_METRICS)) - {"loss"}
"""The metrics that lie between 0 and 1."""
SMALLER_IS_BETTER = ("ece", "loss")
WITHOUT_TTA = "_without_tta"
"""Suffix of the held-out split's name for its metrics without test-time augmentation, if that is used."""
ACCURACY, MAP = "accuracy", "mAP"
"""The headline metrics with one label per image and with several; see `headline`."""
BALANCED = "balanced_accuracy"
EPOCH_METRICS = {ACCURACY: (ACCURACY, BALANCED, "f1_macro"), MAP: (MAP,)}
"""Headline metric → what is measured on validation images after each epoch, besides the loss. F1 of several
labels is not among it: its thresholds are chosen after training."""
DETAILS = {
    ACCURACY: {BALANCED: "balanced", "f1_macro": "macro F1"},
    MAP: {"f1_micro": "micro F1", "f1_macro": "macro F1"},
}
"""Headline metric → what is shown beside it, with its short name: it differs where classes are unbalanced."""
MAJORITY = "test/majority_rate"
"""MLflow's metric for the accuracy of always predicting the most frequent class."""
ECE_BINS = 15
TOP = 5
_BLOCK = 1 << 20
"""Logits that are scored at once: 10,000 images of 10,000 classes would need several GiB."""


def classification_metrics(logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Score `logits` (N, K) float32 against `labels` (N,) int64; CPU tensors and arrays alike.

    Ties between logits go to the lower class. Sums are in float64.

    Returns:
        accuracy: share of images whose label has the highest logit.
        balanced_accuracy: mean recall of the classes that occur among the labels.
        f1_macro: mean F1 of the classes that occur among labels or predictions; 0 where it is undefined.
        loss: mean negative log-likelihood of the label, nats.
        ece: expected calibration error over 15 bins of equal width (Guo et al. 2017, eq. 3).
        top5_accuracy: share of images whose label is among the five highest logits; only where K > 5.
        n: number of images.

    Raises:
        ValueError: no image, shapes that don't match, labels outside 0…K−1, or logits that are not finite.
    """
    raw, truth = _checked(logits, labels)
    n, k = raw.shape
    blocks = list(_scored(raw, truth))
    scored = _Scored(*(np.concatenate(columns) for columns in zip(*blocks, strict=True)))
    right = scored.prediction == truth
    counts = Confusion.of(truth, scored.prediction, k)
    metrics = {
        "loss": math.fsum(-scored.log_p) / n,
        "ece": expected_calibration_error(np.exp(scored.best_log_p), right),
        "n": float(n),
        **class_metrics(counts.hits, counts.labelled, counts.predicted),
    }
    if k > TOP:
        metrics["top5_accuracy"] = float((scored.rank < TOP).mean())
    return metrics


def class_metrics(
    hits: NDArray[np.int64], labelled: NDArray[np.int64], predicted: NDArray[np.int64]
) -> dict[str, float]:
    """Return the metrics of `EPOCH_METRICS` with one label per image, from counts of images by class, (K,).

    Args:
        hits: images of the class whose prediction is right.
        labelled: images of the class.
        predicted: images that are predicted to be of the class.
    """
    known = labelled > 0
    seen = labelled + predicted > 0
    return {
        ACCURACY: float(hits.sum() / labelled.sum()),
        BALANCED: float((hits[known] / labelled[known]).mean()),
        "f1_macro": float((2 * hits[seen] / (labelled + predicted)[seen]).mean()),
    }


def task_metrics(
    logits: ArrayLike, labels: ArrayLike, thresholds: Sequence[float] | None = None
) -> dict[str, float]:
    """Return `classification_metrics` of labels (N,), or `multi_label_metrics` of labels (N, K)."""
    if np.ndim(labels) == 2:
        return multi_label_metrics(logits, labels, thresholds)
    return classification_metrics(logits, labels)


def measured_metrics(*, several_labels: bool) -> tuple[str, ...]:
    """Return the names of what `task_metrics` measures."""
    return MULTI_LABEL_METRICS if several_labels else METRICS


def monitors(*, several_labels: bool) -> tuple[str, ...]:
    """Return the names of the metrics that can choose an epoch, such as ``val/accuracy``."""
    measured = EPOCH_METRICS[MAP if several_labels else ACCURACY]
    return *(f"val/{name}" for name in measured), "val/loss"


def headline(metrics: Collection[str]) -> str:
    """Return the metric that results are reported with: mAP where it is measured, else accuracy.

    Args:
        metrics: names of metrics, with or without a split, such as ``val/mAP``.
    """
    several = any(name.rpartition("/")[2] == MAP for name in metrics)
    return MAP if several else ACCURACY


def headline_value(metrics: Mapping[str, float]) -> float:
    """Return the value of the headline metric on one split."""
    return metrics[headline(metrics)]


def headlines(
    measured: Mapping[str, Mapping[str, float]], splits: Iterable[str], *, details: bool = False
) -> str:
    """Return the headline metric of some splits as text: ``test accuracy 0.9400, val accuracy 0.9500``.

    Args:
        measured: split → its metrics.
        splits: those that are not measured are left out.
        details: whether `DETAILS` of the first split follow in brackets.
    """
    texts: list[str] = []
    for split in splits:
        if part := measured.get(split):
            text = f"{split} {headline(part)} {headline_value(part):.4f}"
            shown = ", ".join(f"{name} {part[key]:.4f}" for key, name in DETAILS[headline(part)].items())
            texts.append(f"{text} ({shown})" if details and not texts else text)
    return ", ".join(texts)


def held_out(measured: Mapping[str, Any]) -> str:
    """Return the split that results are reported on: test, or val without a test split.

    Args:
        measured: split → its metrics.
    """
    return "test" if "test" in measured else "val"


MEAN_DIGITS = 12
"""The decimals to which means are compared: what lies below is rounding, as in (53/61 + 51/61)/2 = 52/61."""


def score(metric: str, value: float) -> float:
    """Return `value` so that larger is better: losses, such as ``val/loss``, are negated."""
    return -value if metric.endswith(SMALLER_IS_BETTER) else value


def deciding_metrics(monitor: str, split: str) -> tuple[str, ...]:
    """Return the metrics that choose an epoch, in order: the monitor, and for ties the loss.

    Args:
        monitor: one of `monitors`.
        split: the split that chooses the epoch; ``last``: none does, and there are no such metrics.

    >>> deciding_metrics("val/accuracy", "selection")
    ('selection/accuracy', 'selection/loss')
    """
    if split == "last":
        return ()
    return f"{split}/{monitor.partition('/')[2]}", f"{split}/loss"


def spread(numbers: Sequence[float]) -> Spread:
    """Return mean, standard deviation (n − 1; 0 for one number) and n; for no numbers, n alone."""
    if not numbers:
        return {"n": 0.0}
    std = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return {"mean": statistics.fmean(numbers), "std": std, "n": float(len(numbers))}


def expected_calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the expected calibration error (Guo et al. 2017, eq. 3).

    The images fall into 15 bins ((m−1)/15, m/15] by `confidence` (N,); `right` (N,) says which are correct.
    """
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    # |B_m|/n · |acc(B_m) − conf(B_m)|, with the |B_m| cancelled
    gap = np.bincount(bins, weights=right - confidence, minlength=ECE_BINS)
    return float(np.abs(gap).sum() / len(confidence))


class _Scored(NamedTuple):
    """What the metrics need to know of each image, (N,) each."""

    log_p: NDArray[np.float64]
    """Log-likelihood of its label."""
    best_log_p: NDArray[np.float64]
    """The largest one."""
    prediction: NDArray[np.int64]
    rank: NDArray[np.int64]
    """The classes before its label; of equal scores, the first class leads."""


def _scored(raw: NDArray[Any], truth: NDArray[np.int64]) -> Iterator[_Scored]:
    """Yield the scores of blocks of images, given logits (N, K) and labels (N,)."""
    k = raw.shape[1]
    step = max(_BLOCK // k, 1)
    for start in range(0, len(raw), step):
        scores, labels = raw[start : start + step].astype(np.float64), truth[start : start + step]
        rows = np.arange(len(scores))
        log_p = _log_softmax(scores)
        own = scores[rows, labels][:, None]
        # Sorting 10,000 classes takes too long.
        before = (scores > own) | ((scores == own) & (np.arange(k) < labels[:, None]))
        yield _Scored(log_p[rows, labels], log_p.max(axis=1), scores.argmax(axis=1), before.sum(axis=1))


def _log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = scores - scores.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _checked(logits: ArrayLike, labels: ArrayLike) -> tuple[NDArray[Any], NDArray[np.int64]]:
    scores, truth = np.asarray(logits), np.asarray(labels)
    if scores.ndim != 2 or truth.shape != scores.shape[:1]:
        raise ValueError(
            f"logits {scores.shape} and labels {truth.shape} don't match: (N, K) and (N,) are expected"
        )
    if scores.size == 0:
        raise ValueError("there is no image to score")
    if not np.isfinite(scores).all():
        raise ValueError("logits hold a value that is not finite")
    if not np.issubdtype(truth.dtype, np.integer) or truth.min() < 0 or truth.max() >= scores.shape[1]:
        raise ValueError(f"labels must be whole numbers from 0 to {scores.shape[1] - 1}")
    return scores, truth.astype(np.int64)
