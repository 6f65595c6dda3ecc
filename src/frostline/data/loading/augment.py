"""Random changes to training images, a batch at a time, on the device that trains."""

import math

import torch
import torch.nn.functional as F

from frostline import schema

_DRAWS = 7
"""Numbers drawn for an image: flip, rotation, two shifts, zoom, brightness, contrast."""


def augments(config: schema.Augment) -> bool:
    """Say whether `augment` changes a batch."""
    return any(value for name, value in config.model_dump().items() if name not in ("mixup", "cutmix"))


def augment(batch: torch.Tensor, config: schema.Augment, generator: torch.Generator) -> torch.Tensor:
    """Flip, rotate, shift and zoom each image, then change its brightness and contrast, each by its own draw.

    All numbers are drawn in one go, whatever the config uses: turning one change off leaves the others as
    they were. What comes into the picture at its borders repeats the border.

    Args:
        batch: (N, C, H, W), before normalisation: uint8 0…255 or float32 0…1.
        config: how far each change may go; all zero: the same tensor comes back and nothing is drawn.
        generator: draws the numbers, on its own device: the same state gives the same images.

    Returns:
        (N, C, H, W) of the batch's type, on its device.

    Raises:
        ValueError: float values outside 0…1, for which brightness and contrast have no meaning.
    """
    moves = bool(config.rotate or config.translate or config.scale)
    tints = bool(config.brightness or config.contrast)
    if not (config.flip or moves or tints):
        return batch
    draws = torch.rand(_DRAWS, len(batch), generator=generator, device=generator.device).to(batch.device)
    flip, *symmetric = draws
    angle, right, down, zoom, brightness, contrast = (2 * draw - 1 for draw in symmetric)
    whole = batch.dtype == torch.uint8
    if tints and not whole and (batch.amin() < 0 or batch.amax() > 1):
        raise ValueError("augment takes images before normalisation: float values from 0 to 1")
    if config.flip:
        batch = torch.where((flip < config.flip).view(-1, 1, 1, 1), batch.flip(-1), batch)
    if not (moves or tints):
        return batch
    images = batch.to(torch.float32) / 255 if whole else batch
    if moves:
        images = _moved(
            images,
            angle=angle * math.radians(config.rotate),
            shift=torch.stack([right, down]) * config.translate,
            zoom=1 + zoom * config.scale,
        )
    if tints:
        images = _tinted(images, 1 + brightness * config.brightness, 1 + contrast * config.contrast)
    return (images * 255).round_().clamp_(0, 255).to(torch.uint8) if whole else images


def _moved(
    images: torch.Tensor, *, angle: torch.Tensor, shift: torch.Tensor, zoom: torch.Tensor
) -> torch.Tensor:
    """Rotate by `angle` (N,) radians, enlarge by `zoom` (N,) and shift by `shift` (2, N) shares of the sides.

    A grid says for each pixel of the result where it comes from, in −1…1 over each side: the inverse of the
    movement, p ↦ R(−angle)·(p − 2·shift)/zoom, with the sides' ratio in R so that circles stay circles.
    """
    height, width = images.shape[-2:]
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    right, down = 2 * shift
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


def _tinted(images: torch.Tensor, brightness: torch.Tensor, contrast: torch.Tensor) -> torch.Tensor:
    """Multiply by `brightness` (N,), then stretch by `contrast` (N,) about the image's mean."""
    images = images * brightness.view(-1, 1, 1, 1)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return ((images - mean) * contrast.view(-1, 1, 1, 1) + mean).clamp_(0, 1)
