"""Random augmentation of training images, one batch at a time, on the training device."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from frostline import schema
from frostline.data.loading.pixels import Images
from frostline.data.loading.transforms import crops, random_crops, transform, transforms
from frostline.models.input_spec import InputSpec

WHITE = {torch.uint8: 255, torch.uint16: 65535}
"""Type of pixels → their largest value."""
_DRAWS = 7
"""Random numbers per image: flip, rotation, two translations, scale, brightness, contrast."""


def augment(batch: torch.Tensor, config: schema.Augment, generator: torch.Generator) -> torch.Tensor:
    """Flip, rotate, translate and scale each image, then change brightness and contrast, each at random.

    All these random numbers are drawn at once, whatever the config uses: disabling one augmentation does not
    change the others. Beyond the border, the border pixels are repeated. Then come the transforms of single
    images, `transforms.transform`, if the config has any.

    Args:
        batch: (N, C, H, W), before normalization: uint8, uint16, or float32 0…1.
        config: the strength of each augmentation; if all are zero, the same tensor is returned and nothing is
            drawn.
        generator: source of the random numbers; the same state gives the same images.

    Returns:
        (N, C, H, W) with the dtype and device of the batch.

    Raises:
        ValueError: float values outside 0…1, for which brightness and contrast have no meaning.
    """
    batch = _changed(batch, config, generator)
    return transform(batch, config, _seed_of(generator)) if transforms(config) else batch


def source_pixels(
    images: Images,
    which: torch.Tensor | slice,
    config: schema.Augment,
    spec: InputSpec,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return training images at the input size: resized, or random crops, before `augment`.

    Returns:
        (n, C, H, W) uint8 or uint16, on the CPU.
    """
    if not crops(config):
        return images.pixels[which]
    if images.uncropped is None:  # they have no others
        pixels = images.pixels[which]
        aspects = np.full(len(pixels), pixels.shape[-1] / pixels.shape[-2])
    else:
        pixels = images.uncropped.pixels[which]
        aspects = images.uncropped.aspects[which].numpy()
    return random_crops(pixels, aspects, config, spec, _seed_of(generator))


def _seed_of(generator: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))


def _changed(batch: torch.Tensor, config: schema.Augment, generator: torch.Generator) -> torch.Tensor:
    moves = bool(config.rotate or config.translate or config.scale)
    tints = bool(config.brightness or config.contrast)
    if not (config.flip or moves or tints):
        return batch
    draws = torch.rand(_DRAWS, len(batch), generator=generator, device=generator.device).to(batch.device)
    flip, *symmetric = draws
    angle, right, down, scale, brightness, contrast = (2 * draw - 1 for draw in symmetric)
    white = WHITE.get(batch.dtype)
    if tints and white is None and (batch.amin() < 0 or batch.amax() > 1):
        raise ValueError("augment takes images before normalization: float values from 0 to 1")
    if config.flip:
        batch = torch.where((flip < config.flip).view(-1, 1, 1, 1), batch.flip(-1), batch)
    if not (moves or tints):
        return batch
    images = batch.to(torch.float32) / white if white else batch
    if moves:
        images = _affine(
            images,
            angle=angle * math.radians(config.rotate),
            translate=torch.stack([right, down]) * config.translate,
            scale=1 + scale * config.scale,
        )
    if tints:
        images = _adjust_colour(images, 1 + brightness * config.brightness, 1 + contrast * config.contrast)
    return (images * white).round_().clamp_(0, white).to(batch.dtype) if white else images


def _affine(
    images: torch.Tensor, *, angle: torch.Tensor, translate: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Rotate by `angle` (N,) radians, scale by `scale` (N,), translate by `translate` (2, N) as fractions.

    The grid maps each output pixel to its source in −1…1 over each side. It is the inverse transformation
    p ↦ R(−angle)·(p − 2·translate)/scale, with the aspect ratio in R so that circles stay circles.
    """
    height, width = images.shape[-2:]
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    right, down = 2 * translate
    across, along = sin * height / width, sin * width / height
    theta = torch.stack(
        [
            torch.stack([cos, across, -cos * right - across * down], dim=1),
            torch.stack([-along, cos, along * right - cos * down], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _adjust_colour(images: torch.Tensor, brightness: torch.Tensor, contrast: torch.Tensor) -> torch.Tensor:
    """Multiply by `brightness` (N,), then stretch by `contrast` (N,) about the image's mean."""
    images = images * brightness.view(-1, 1, 1, 1)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return ((images - mean) * contrast.view(-1, 1, 1, 1) + mean).clamp_(0, 1)
