"""Classes of unequal size: what each class's loss weighs, and an order in which all come up as often."""

from typing import Literal

import torch
from torch import Tensor

from frostline import schema


def counts(labels: Tensor, classes: int) -> Tensor:
    """Return how many of `labels`, (N,) int64, each class has: (K,) int64."""
    return torch.bincount(labels, minlength=classes)


def balanced_weights(count: Tensor) -> Tensor:
    """Return n/(K·n_k) for each class, (K,) float32 (King & Zeng 2001; scikit-learn's "balanced").

    The mean over the images is 1. A class without an image weighs nothing and is not counted in K.

    >>> balanced_weights(torch.tensor([6, 2])).tolist()
    [0.6666666865348816, 2.0]
    """
    return _where_seen(count, count.sum() / ((count > 0).sum() * count.double()))


def effective_weights(count: Tensor, beta: float) -> Tensor:
    """Return weights in proportion to 1/E_k, E_k = (1 − βⁿᵏ)/(1 − β), that sum to K (Cui et al. 2019, eq. 2).

    β = 0 weighs all classes alike, β → 1 by their inverse sizes. A class without an image weighs nothing and
    is not counted in K.

    Args:
        count: images of each class, (K,) int64.
        beta: from 0 to below 1; the paper tries 0.9, 0.99, 0.999 and 0.9999.
    """
    inverse = _where_seen(count, (1 - beta) / (1 - beta ** count.double()))
    return inverse / inverse.sum() * (count > 0).sum()


def class_weights(given: Literal["balanced"] | schema.Effective | None, count: Tensor) -> Tensor | None:
    """Return what each class's loss weighs, (K,) float32, as `loss.class_weights` says; None: all alike.

    Args:
        given: the config's.
        count: images of each class, (K,) int64.
    """
    if given is None:
        return None
    return balanced_weights(count) if given == "balanced" else effective_weights(count, given.effective)


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draw as many images as there are: first a class, all alike, then one of its images.

    Class-balanced sampling (Kang et al. 2020, eq. 1 with q = 0): with replacement, so an image of a small
    class comes up several times and one of a large class perhaps not at all.

    Args:
        labels: (N,) int64.
        generator: draws the numbers; the same state gives the same order.

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
