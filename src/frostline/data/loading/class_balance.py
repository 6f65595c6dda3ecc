"""Class imbalance: class weights of the loss, and class-balanced sampling."""

from typing import Literal

import torch
from torch import Tensor

from frostline import schema
from frostline.console.errors import FrostlineError


def counts(labels: Tensor, classes: int) -> Tensor:
    """Return the number of images per class, (K,) int64, from `labels`, (N,) int64.

    With several labels per image, (N, K), return the images without and with each label, (2, K) int64.
    """
    if labels.ndim == 2:
        positive = labels.sum(0).long()
        return torch.stack([len(labels) - positive, positive])
    return torch.bincount(labels, minlength=classes)


def positive_weights(weighting: Literal["balanced"] | list[float] | None, count: Tensor) -> Tensor | None:
    """Return the weights of positive images in the binary cross-entropy, (K,) float32; None: all 1.

    Args:
        weighting: `loss.pos_weight`; balanced: images without the label per image with it, 1 where there are
            none with it.
        count: images without and with each label, (2, K) int64.

    Raises:
        FrostlineError: the number of weights is not K.
    """
    if weighting is None:
        return None
    if weighting == "balanced":
        without, positive = count.double()
        return torch.where(positive > 0, without / positive.clamp(min=1), 1.0).float()
    if len(weighting) != count.shape[1]:
        raise FrostlineError(
            f"loss.pos_weight: found {len(weighting)} numbers, and the data set has {count.shape[1]} "
            "classes: give one for each class, or balanced"
        )
    return torch.tensor(weighting)


def balanced_weights(count: Tensor) -> Tensor:
    """Return the weight n/(K·n_k) of each class, (K,) float32 (King & Zeng 2001; scikit-learn's "balanced").

    The mean over the images is 1. A class without images has weight 0 and is not counted in K.

    >>> balanced_weights(torch.tensor([6, 2])).tolist()
    [0.6666666865348816, 2.0]
    """
    return _where_seen(count, count.sum() / ((count > 0).sum() * count.double()))


def effective_weights(count: Tensor, beta: float) -> Tensor:
    """Return weights proportional to 1/E_k, E_k = (1 − βⁿᵏ)/(1 − β), that sum to K (Cui et al. 2019, eq. 2).

    β = 0 gives equal weights, β → 1 inverse class sizes. A class without images has weight 0 and is not
    counted in K.

    Args:
        count: images per class, (K,) int64.
        beta: 0 ≤ β < 1; the paper tries 0.9, 0.99, 0.999 and 0.9999.
    """
    inverse = _where_seen(count, (1 - beta) / (1 - beta ** count.double()))
    return inverse / inverse.sum() * (count > 0).sum()


def class_weights(weighting: Literal["balanced"] | schema.Effective | None, count: Tensor) -> Tensor | None:
    """Return the class weights of the loss, (K,) float32; None: equal weights.

    Args:
        weighting: `loss.class_weights`.
        count: images per class, (K,) int64.
    """
    if weighting is None:
        return None
    return (
        balanced_weights(count) if weighting == "balanced" else effective_weights(count, weighting.effective)
    )


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw N images with class-balanced sampling: a class with equal probability, then one of its images.

    Sampling is with replacement (Kang et al. 2020, eq. 1 with q = 0): an image of a small class may be drawn
    several times, and one of a large class never.

    Args:
        labels: (N,) int64.
        generator: source of the random numbers; the same state gives the same order.

    Returns:
        (N,) int64, indices into `labels`.
    """
    by_class = torch.argsort(labels, stable=True)
    present, sizes = torch.unique(labels, return_counts=True)
    starts = sizes.cumsum(0) - sizes
    drawn = torch.randint(len(present), labels.shape, generator=generator)
    place = torch.rand(labels.shape, generator=generator, dtype=torch.float64)
    return by_class[starts[drawn] + (place * sizes[drawn]).long()]


def _where_seen(count: Tensor, weights: Tensor) -> Tensor:
    return torch.where(count > 0, weights, 0.0).float()
