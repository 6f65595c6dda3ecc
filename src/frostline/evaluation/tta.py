"""Test-time augmentation: class probabilities are averaged over views of each image (Krizhevsky et al. 2012).

The first view is the image as it is measured without test-time augmentation. Corners are cut out of a larger
version of the image, as torchvision's FiveCrop and TenCrop do. Nothing is drawn at random.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import logsigmoid

from frostline.data.loading.pixels import ImageStack, PixelStack, load_pixels
from frostline.data.prepared.index import PreparedData
from frostline.models.input_spec import InputSpec
from frostline.schema import Tta

CORNER = 0.875
"""Side of a corner as a share of the whole image's, at most: 224 of 256 pixels."""
_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


@dataclass(frozen=True)
class View:
    """A further view of an image."""

    corner: tuple[int, int] | None
    """(bottom, right), each 0 or 1; None: the image as it is measured without test-time augmentation."""
    mirrored: bool

    @property
    def source(self) -> int:
        """The place, among `specs`, of the images that the view is cut from."""
        return 0 if self.corner is None else 1

    def of(self, images: Tensor, spec: InputSpec) -> Tensor:
        """Cut the view out of images.

        Args:
            images: (N, C, H, W), resized for the spec that `source` says.
            spec: the network's input.

        Returns:
            (N, C, height, width) of the spec.
        """
        if self.corner is not None:
            top = self.corner[0] * (images.shape[-2] - spec.height)
            left = self.corner[1] * (images.shape[-1] - spec.width)
            images = images[..., top : top + spec.height, left : left + spec.width]
        return images.flip(-1) if self.mirrored else images


@dataclass(frozen=True)
class Viewed:
    """A view of a stack of images, cut when it is read."""

    images: PixelStack
    view: View
    spec: InputSpec

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, which: slice) -> Tensor:
        return self.view.of(self.images[which], self.spec)


def loaded(
    data: PreparedData, rows: NDArray[np.int64], spec: InputSpec, tta: Tta | None, scratch: Path
) -> tuple[ImageStack, list[Viewed]]:
    """Load images at the network's input size, (N, C, H, W), and further views of them.

    Args:
        rows: (N,) positions in the index.
        scratch: folder of the cache of images.
    """
    stacks = [load_pixels(data, rows, size, scratch=scratch) for size in specs(tta, spec)]
    return stacks[0], [Viewed(stacks[view.source], view, spec) for view in views(tta)]


def views(tta: Tta | None) -> list[View]:
    """Return the views beside the image itself."""
    mirrored, corners = [View(None, True)], [View(corner, False) for corner in _CORNERS]
    match tta:
        case "flip":
            return mirrored
        case "five_crop":
            return corners
        case "ten_crop":
            return [*corners, *mirrored, *(replace(view, mirrored=True) for view in corners)]
    return []


def specs(tta: Tta | None, spec: InputSpec) -> list[InputSpec]:
    """Return what images are resized for: the network's input, and a larger one that corners are cut from."""
    if all(view.corner is None for view in views(tta)):
        return [spec]
    share = min(spec.crop, CORNER)
    height, width = (math.floor(side / share) for side in (spec.height, spec.width))
    return [spec, replace(spec, size=height if height == width else (height, width), crop=1.0)]


def averaged(logits: Sequence[Tensor], *, several_labels: bool = False) -> Tensor:
    """Return logits, (N, K) float64, whose probabilities are the means of the views' probabilities.

    Args:
        logits: those of each view, (N, K).
        several_labels: whether probabilities are sigmoids, as with several labels per image, else a softmax.
    """
    if several_labels:
        views = torch.stack(list(logits)).double()
        return logsigmoid(views).logsumexp(0) - logsigmoid(-views).logsumexp(0)
    log_p = torch.stack([view.double().log_softmax(1) for view in logits])
    return log_p.logsumexp(0) - math.log(len(logits))
