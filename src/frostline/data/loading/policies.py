"""Policies of random operations: RandAugment, TrivialAugment Wide and AugMix, with torchvision's kernels.

torchvision's own classes draw from torch's global generator, which the training thread uses for dropout while
another thread prepares batches. Here each image has a generator of its own. The spaces of operations are
those of torchvision 0.29; a test compares every operation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

Policy = Callable[[Tensor, np.random.Generator], Tensor]
"""(C, H, W) uint8 with one or three channels → the same, changed at random."""

SIGNED = (
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    *("brightness", "color", "contrast", "sharpness"),
)
FLAT = ("identity", "auto_contrast", "equalize")
"""Operations without a strength."""


@dataclass(frozen=True)
class Space:
    """The operations of a policy, with their largest strengths."""

    shear: float
    rotate: float
    """Degrees."""
    colour: float
    """Change of brightness, saturation, contrast and sharpness, share."""
    posterize: tuple[int, int]
    """Bits that stay, at the lowest and the highest strength."""
    translate: Callable[[int], float]
    """Side of the image → pixels."""
    identity: bool
    interpolation: InterpolationMode

    @property
    def operations(self) -> tuple[str, ...]:
        """Names of the operations, each drawn with the same probability."""
        return (*FLAT[not self.identity :], *SIGNED, "posterize", "solarize")

    def strength(self, operation: str, share: float, size: tuple[int, int]) -> float:
        """Return the strength of an operation at a share, 0…1, of its range.

        Args:
            size: height and width of the image.
        """
        match operation:
            case "shear_x" | "shear_y":
                return share * self.shear
            case "translate_x" | "translate_y":
                return share * self.translate(size[operation == "translate_x"])
            case "rotate":
                return share * self.rotate
            case "posterize":
                low, high = self.posterize
                return round(low - share * (low - high))
            case "solarize":
                return 1 - share
            case _:
                return share * self.colour


RAND = Space(0.3, 30.0, 0.9, (8, 4), lambda side: 150 / 331 * side, True, InterpolationMode.NEAREST)
TRIVIAL = Space(0.99, 135.0, 0.99, (8, 2), lambda side: 32.0, True, InterpolationMode.NEAREST)
AUGMIX = Space(0.3, 30.0, 0.9, (4, 0), lambda side: side / 3, False, InterpolationMode.BILINEAR)


def rand_augment(magnitude: int, operations: int = 2) -> Policy:
    """Return RandAugment (Cubuk et al. 2020): some operations in a row, all of one strength.

    Args:
        magnitude: 0…30.
    """

    def policy(image: Tensor, random: np.random.Generator) -> Tensor:
        for _ in range(operations):
            image = _drawn(image, RAND, magnitude / 30, random)
        return image

    return policy


def trivial_augment(image: Tensor, random: np.random.Generator) -> Tensor:
    """Apply TrivialAugment Wide (Müller & Hutter 2021): one operation of random strength."""
    return _drawn(image, TRIVIAL, random.integers(31) / 30, random)


def augmix(image: Tensor, random: np.random.Generator) -> Tensor:
    """Mix an image with three chains of up to three weak operations (AugMix; Hendrycks et al. 2020)."""
    share = random.beta(1.0, 1.0)
    mixed = (1 - share) * image.float()
    for weight in random.dirichlet((1.0, 1.0, 1.0)).tolist():
        chain = image
        for _ in range(random.integers(1, 4)):
            chain = _drawn(chain, AUGMIX, random.integers(3) / 9, random)
        mixed += share * weight * chain
    return mixed.round_().clamp_(0, 255).to(torch.uint8)


def _drawn(image: Tensor, space: Space, share: float, random: np.random.Generator) -> Tensor:
    """Apply a random operation of a space."""
    names = space.operations
    name = names[random.integers(len(names))]
    strength = space.strength(name, share, (image.shape[-2], image.shape[-1]))
    if name in SIGNED and random.random() < 0.5:
        strength = -strength
    return operation(image, name, strength, space.interpolation)


def operation(image: Tensor, name: str, strength: float, interpolation: InterpolationMode) -> Tensor:
    """Apply one operation to an image, (C, H, W) uint8."""
    match name:
        case "identity":
            return image
        case "shear_x" | "shear_y":
            degrees = math.degrees(math.atan(strength))
            shear = [degrees, 0.0] if name == "shear_x" else [0.0, degrees]
            return F.affine(
                image,
                angle=0.0,
                translate=[0, 0],
                scale=1.0,
                shear=shear,
                interpolation=interpolation,
                center=[0, 0],
            )
        case "translate_x" | "translate_y":
            by = [int(strength), 0] if name == "translate_x" else [0, int(strength)]
            return F.affine(
                image, angle=0.0, translate=by, scale=1.0, shear=[0.0, 0.0], interpolation=interpolation
            )
        case "rotate":
            return F.rotate(image, angle=strength, interpolation=interpolation)
        case "brightness":
            return F.adjust_brightness(image, 1 + strength)
        case "color":
            return F.adjust_saturation(image, 1 + strength)
        case "contrast":
            return F.adjust_contrast(image, 1 + strength)
        case "sharpness":
            return F.adjust_sharpness(image, 1 + strength)
        case "posterize":
            return F.posterize(image, bits=int(strength))
        case "solarize":
            return F.solarize(image, threshold=255 * strength)
        case "auto_contrast":
            return F.autocontrast(image)
        case "equalize":
            return F.equalize(image)
    raise AssertionError(name)
