"""Random transforms of single images with torchvision's v2 kernels: crops, policies, colour, blur, erasing.

Image i of a batch draws from a generator of (seed, i), so that images do not depend on threads, nor on each
other.
"""

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frostline import schema
from frostline.console.errors import FrostlineError
from frostline.data.loading import image_threads
from frostline.models.input_spec import InputSpec

UNCROPPED = 1.5
"""Side of an uncropped image in the cache, as a multiple of the input's: a crop of 44 % of the area needs no
enlargement."""
RATIO = 4 / 3
"""Largest change of the aspect ratio by a random crop (Szegedy et al. 2015)."""
TRIES = 10
"""Draws of a random box before the largest one in the centre is taken, as in torchvision."""
ERASED = (0.02, 0.33)
"""Smallest and largest share of the area that random erasing replaces (Zhong et al. 2020)."""
ERASED_RATIO = 3.3
SIGMA = (0.1, 2.0)
"""Smallest and largest standard deviation of the blur at 224 px (Chen et al. 2020)."""
_CROP, _CHANGE = 0, 1
"""Streams of random numbers of an image."""


def crops(config: schema.Augment) -> bool:
    """Return whether training images are random crops of uncropped ones."""
    return config.resized_crop is not None


def transforms(config: schema.Augment) -> bool:
    """Return whether `transform` changes a batch."""
    values = (config.flip_vertical, config.policy, config.saturation, config.hue, config.blur, config.erase)
    return any(values)


def uncropped(spec: InputSpec) -> InputSpec:
    """Return the spec of the uncropped images that random crops are taken from."""
    size = math.ceil(UNCROPPED * spec.height), math.ceil(UNCROPPED * spec.width)
    return replace(spec, size=size[0] if size[0] == size[1] else size, fit="squash", crop=1.0)


def check(config: schema.Augment, spec: InputSpec) -> None:
    """Refuse operations on colours for images that are neither 8-bit grey nor RGB.

    Raises:
        FrostlineError: names the key.
    """
    for key in ("policy", "saturation", "hue"):
        if getattr(config, key) and (spec.channels not in (1, 3) or spec.depth != 8):
            raise FrostlineError(
                f"augment.{key}: found {getattr(config, key)}, which takes 8-bit grey or RGB images, and"
                f" these have {spec.channels} channels of {spec.depth} bits; set augment.{key}=null"
            )


def random_crops(
    images: Tensor, aspects: NDArray[np.float64], config: schema.Augment, spec: InputSpec, seed: int
) -> Tensor:
    """Crop each image at random and resize it to the input size, as RandomResizedCrop does.

    Args:
        images: (N, C, H, W) uint8 or uint16, uncropped, squashed to one shape.
        aspects: (N,), width/height of the images before they were squashed.
        config: `resized_crop`, the smallest share of the area.

    Returns:
        (N, C, height, width) of the spec, in the type of the images.
    """
    assert config.resized_crop is not None
    boxes = [
        _box(np.random.default_rng([seed, i, _CROP]), aspect, spec.width / spec.height, config.resized_crop)
        for i, aspect in enumerate(aspects.tolist())
    ]
    return image_threads.stack(lambda i: _cut(images[i], boxes[i], spec), images)


Box = tuple[float, float, float, float]
"""Top, left, height and width, as shares of the image's sides."""


def _box(random: np.random.Generator, aspect: float, ratio: float, smallest: float) -> Box:
    """Draw a box of an image of height 1 and width `aspect`; `ratio`: width/height of the input."""
    for _ in range(TRIES):
        area = aspect * random.uniform(smallest, 1.0)
        drawn = ratio * math.exp(random.uniform(-math.log(RATIO), math.log(RATIO)))
        width, height = math.sqrt(area * drawn), math.sqrt(area / drawn)
        if width <= aspect and height <= 1:
            return (
                random.uniform(0, 1 - height),
                random.uniform(0, 1 - width / aspect),
                height,
                width / aspect,
            )
    nearest = min(max(aspect, ratio / RATIO), ratio * RATIO)
    height, share = min(1.0, aspect / nearest), min(1.0, nearest / aspect)
    return (1 - height) / 2, (1 - share) / 2, height, share


def _cut(image: Tensor, box: Box, spec: InputSpec) -> Tensor:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resized_crop

    tall, wide = image.shape[-2:]
    height, width = max(1, round(box[2] * tall)), max(1, round(box[3] * wide))
    top, left = min(round(box[0] * tall), tall - height), min(round(box[1] * wide), wide - width)
    # torchvision has no Lanczos filter for tensors.
    mode = InterpolationMode({"lanczos": "bicubic"}.get(spec.interpolation, spec.interpolation))
    values = image if spec.depth == 8 else image.float()
    cut = resized_crop(values, top, left, height, width, [spec.height, spec.width], mode, antialias=True)
    return cut if spec.depth == 8 else cut.round_().clamp_(0, spec.white).to(image.dtype)


def transform(images: Tensor, config: schema.Augment, seed: int) -> Tensor:
    """Flip, apply a policy, change colours, blur and erase, each image by itself.

    Args:
        images: (N, C, H, W), before normalization: uint8, uint16, or float32 0…1.

    Returns:
        (N, C, H, W) of the same type.
    """
    return image_threads.stack(
        lambda i: _changed(images[i], config, np.random.default_rng([seed, i, _CHANGE])), images
    )


def _changed(image: Tensor, config: schema.Augment, random: np.random.Generator) -> Tensor:
    from torchvision.transforms.v2 import functional as F

    if random.random() < (config.flip_vertical or 0):
        image = image.flip(-2)
    if config.policy:
        image = _with_policy(image, config, random)
    if config.saturation:
        image = F.adjust_saturation(image, 1 + config.saturation * random.uniform(-1, 1))
    if config.hue:
        image = F.adjust_hue(image, config.hue * random.uniform(-1, 1))
    if random.random() < (config.blur or 0):
        image = _blurred(image, random)
    if random.random() < (config.erase or 0):
        image = _erased(image, random)
    return image


def _with_policy(image: Tensor, config: schema.Augment, random: np.random.Generator) -> Tensor:
    from frostline.data.loading import policies

    values = image if image.dtype == torch.uint8 else (image * 255).round().to(torch.uint8)
    match config.policy:
        case "rand":
            magnitude = config.magnitude if config.magnitude is not None else 9
            values = policies.rand_augment(magnitude)(values, random)
        case "trivial":
            values = policies.trivial_augment(values, random)
        case "augmix":
            values = policies.augmix(values, random)
    return values if image.dtype == torch.uint8 else values / 255


def _blurred(image: Tensor, random: np.random.Generator) -> Tensor:
    from torchvision.transforms.v2.functional import gaussian_blur

    sigma = random.uniform(*SIGMA) * min(image.shape[-2:]) / 224
    size = 2 * math.ceil(2 * sigma) + 1
    values = image.float() if image.dtype == torch.uint16 else image
    if min(image.shape[-2:]) <= size // 2:
        return image
    return _typed(gaussian_blur(values, [size, size], [sigma, sigma]), image.dtype)


def _typed(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values.round().to(dtype) if values.dtype != dtype else values


def _erased(image: Tensor, random: np.random.Generator) -> Tensor:
    """Replace a random rectangle by the image's mean colour."""
    high, wide = image.shape[-2:]
    for _ in range(TRIES):
        area = high * wide * random.uniform(*ERASED)
        ratio = math.exp(random.uniform(-math.log(ERASED_RATIO), math.log(ERASED_RATIO)))
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < height < high and 0 < width < wide:
            top, left = random.integers(high - height + 1), random.integers(wide - width + 1)
            erased = image.clone()
            mean = image.float().mean(dim=(1, 2), keepdim=True)
            erased[:, top : top + height, left : left + width] = _typed(mean, image.dtype)
            return erased
    return image
