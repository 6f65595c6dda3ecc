"""timm's mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019), with a seed of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from frostline import schema

if TYPE_CHECKING:
    from timm.data import Mixup


def mixes(config: schema.Augment) -> bool:
    """Return whether `mix` changes a batch."""
    return bool(config.mixup or config.cutmix)


def mix(
    images: torch.Tensor, labels: torch.Tensor, classes: int, config: schema.Augment, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix each image with that at the mirrored position of the batch, and their labels alike.

    If both alphas are set, each batch uses one of the methods with equal probability (timm's `switch_prob`).
    If N is odd, the last image is not mixed.

    Args:
        images: (N, C, H, W) float32.
        labels: (N,) int64, or (N, K) float32 shares.
        classes: K.
        config: `mixup` and `cutmix`, the α of Beta(α, α), from which the proportion is drawn; not both 0.

    Returns:
        The images, a new tensor, and the (N, K) float32 target probabilities.
    """
    even = len(labels) // 2 * 2
    targets = F.one_hot(labels, classes) if labels.ndim == 1 else labels
    images, targets = images.clone(), targets.to(images.dtype)
    if even and labels.ndim == 1:
        with _numpy_seeded(seed):
            images[:even], targets[:even] = _mixer(config.mixup, config.cutmix, classes)(
                images[:even], labels[:even]
            )
    elif even:
        # timm takes one class per image: with each image as its own class, it returns the images' shares.
        own = torch.arange(even, device=labels.device)
        with _numpy_seeded(seed):
            images[:even], shares = _mixer(config.mixup, config.cutmix, even)(images[:even], own)
        targets[:even] = shares.to(targets) @ targets[:even]
    return images, targets


@cache
def _mixer(mixup: float, cutmix: float, classes: int) -> "Mixup":
    from timm.data import Mixup

    # Label smoothing is done by the loss.
    return Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.0, num_classes=classes)


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which timm uses, inside the block; restore its state afterwards."""
    before: Any = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)
