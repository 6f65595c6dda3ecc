"""mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019), timm's, drawn from a seed of their own."""

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
    """Say whether `mix` changes a batch."""
    return bool(config.mixup or config.cutmix)


def mix(
    images: torch.Tensor, labels: torch.Tensor, classes: int, config: schema.Augment, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix each image with the one that lies as far from the batch's other end, and their labels alike.

    With both alphas each batch is one or the other, with equal probability (timm's `switch_prob`). Of an odd
    number of images the last is left as it is.

    Args:
        images: (N, C, H, W) float32.
        labels: (N,) int64.
        classes: K.
        config: `mixup` and `cutmix`, the α of the Beta(α, α) that draws each one's share; not both 0.
        seed: draws the numbers.

    Returns:
        The images, a new tensor, and (N, K) float32 shares of each class.
    """
    even = len(labels) // 2 * 2
    images, targets = images.clone(), F.one_hot(labels, classes).to(images.dtype)
    if even:
        with _numpy_seeded(seed):
            images[:even], targets[:even] = _mixer(config.mixup, config.cutmix, classes)(
                images[:even], labels[:even]
            )
    return images, targets


@cache
def _mixer(mixup: float, cutmix: float, classes: int) -> "Mixup":
    from timm.data import Mixup

    # The loss smooths labels, if asked to.
    return Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=0.0, num_classes=classes)


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which timm draws from, and leave it as it was."""
    before: Any = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)
