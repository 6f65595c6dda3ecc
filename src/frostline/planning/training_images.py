"""Training images as the network sees them: plain, then augmented views, made as training makes a batch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frostline.data.loading.mix import mixes
from frostline.data.reading.decode import shown

if TYPE_CHECKING:
    from frostline.models.input_spec import InputSpec
    from frostline.schema import Augment
    from frostline.training.data_module import ImageData

Picture = NDArray[np.uint8]
"""(H, W) or (H, W, 3)."""

VIEWS = 4
"""Augmented views of each image."""
SHARE = 0.005
"""Shares of mixed labels below this are not listed."""


def spread(labels: NDArray[np.integer[Any]], classes: int, count: int) -> NDArray[np.int64]:
    """Choose up to `count` images, evenly from all classes and from each class's images.

    Args:
        labels: (N,) of all images; or (N, K), several labels per image, by which nothing is chosen.

    Returns:
        Positions of images, ordered by class.
    """
    if labels.ndim == 2:
        return np.linspace(0, len(labels) - 1, min(count, len(labels))).astype(int)
    of_class = [np.flatnonzero(labels == label) for label in range(classes)]
    share = -(-count // classes)
    chosen = [own[np.linspace(0, len(own) - 1, min(share, len(own))).astype(int)] for own in of_class]
    turns = [own[turn] for turn in range(share) for own in chosen if turn < len(own)]
    return np.array(sorted(turns[:count], key=lambda place: (labels[place], place)))


def changes(config: "Augment") -> bool:
    """Return whether training images change from step to step."""
    return config.changes_images or mixes(config)


def views(data: "ImageData", which: Tensor) -> list[tuple[list[Picture], Tensor]]:
    """Return for each view its images and (N, K) shares of labels; without augmentation there is none.

    Args:
        data: the run's images.
        which: (N,) places of training images.
    """
    if not changes(data.augmentation):
        return []
    drawn = []
    for step in range(VIEWS):
        batch, mixed = data.training_images(which, step, torch.device("cpu"))
        shares = mixed if mixed.ndim == 2 else torch.nn.functional.one_hot(mixed, data.classes).float()
        drawn.append(([picture(image) for image in _denormalized(batch, data.spec)], shares))
    return drawn


def _denormalized(batch: Tensor, spec: "InputSpec") -> Tensor:
    """Undo `pixels.normalize`: (N, C, H, W) float32 → uint8."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    return ((batch * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def picture(image: Tensor) -> Picture:
    """(C, H, W) → (H, W) or (H, W, 3) uint8."""
    return shown(image.permute(1, 2, 0).numpy())


def label_text(shares: Tensor, classes: Sequence[str]) -> str:
    """Return ``70 % cat + 30 % dog``."""
    parts = [(classes[k], share) for k, share in enumerate(shares.tolist()) if share >= SHARE]
    return " + ".join(f"{100 * share:.0f} % {name}" for name, share in parts)
