"""Metrics of batched linear heads, from the logits of one epoch."""

import torch
from torch import Tensor

from frostline.base.metrics import ACCURACY, MAP, class_metrics
from frostline.base.multi_label_metrics import mean_average_precision


class Accuracy:
    """The share of images whose largest logit is their label's, for each head."""

    def __init__(self) -> None:
        self._right: list[Tensor] = []
        self._count = 0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count images by their (H, K, B) logits and (H, B) labels."""
        self._right.append((predictions(logits) == labels).sum(1))
        self._count += labels.shape[1]

    def values(self) -> list[dict[str, float]]:
        """Return the share of each head."""
        shares = torch.stack(self._right, 1).sum(1).double() / self._count
        return [{ACCURACY: share} for share in shares.tolist()]


class ClassMetrics:
    """What `class_metrics` returns, for each head."""

    def __init__(self) -> None:
        self._counts: Tensor | None = None
        """(3, H, K), by class: correct predictions, labels, predictions."""

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count images by their (H, K, B) logits and (H, B) labels."""
        if self._counts is None:
            self._counts = labels.new_zeros(3, *logits.shape[:2])
        predicted, ones = predictions(logits), torch.ones_like(labels)
        classes = torch.stack([labels, labels, predicted])
        self._counts.scatter_add_(2, classes, torch.stack([(predicted == labels).long(), ones, ones]))

    def values(self) -> list[dict[str, float]]:
        """Return the metrics of each head."""
        assert self._counts is not None
        return [class_metrics(*counts) for counts in self._counts.transpose(0, 1).cpu().numpy()]


class MeanAveragePrecision:
    """The mean average precision over labels, for each head."""

    def __init__(self) -> None:
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Keep (H, K, B) logits and (H, B, K) labels of images."""
        self._logits.append(logits.transpose(1, 2).cpu())
        self._labels.append(labels.cpu())

    def values(self) -> list[dict[str, float]]:
        """Return the metric of each head."""
        pairs = zip(torch.cat(self._logits, 1).float(), torch.cat(self._labels, 1), strict=True)
        return [{MAP: mean_average_precision(logits, labels)} for logits, labels in pairs]


Metric = Accuracy | ClassMetrics | MeanAveragePrecision


def predictions(logits: Tensor) -> Tensor:
    """Return the class with the largest logit, (H, B), for (H, K, B) logits."""
    return logits.max(1).indices
