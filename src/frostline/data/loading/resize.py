"""Resize an image to a network's input: cropped, padded or squashed, like timm's evaluation transforms."""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from frostline.data.loading.pixel_files import Pixels
from frostline.data.prepared.index import Index
from frostline.data.reading.bands import PixelFormat, conform
from frostline.data.reading.decode import Values, to_channels
from frostline.models.input_spec import InputSpec

WORTH_A_WARNING = 0.2
"""Share of an image's area: if the median image loses more to the crop, the user is told."""

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def to_pixels(image: Image.Image | Values, spec: InputSpec) -> Pixels:
    """Resize an image to the input size divided by `crop`, and cut the centre out.

    `fit` crop resizes the shorter side and cuts off the ends of the longer one. Pad resizes the longer side
    and fills the rest with the mean colour. Squash resizes both sides, which changes the aspect ratio. The
    pixels are those of timm's `transforms_imagenet_eval` with `crop_mode` center, border and squash.

    Args:
        image: mode L or RGB, or (H, W, C) with the input's channels and bits.

    Returns:
        (C, H, W) uint8, or uint16 with `depth` 16.
    """
    if isinstance(image, Image.Image) and spec.depth == 8 and spec.channels in (1, 3):
        fill = tuple(spec.fill) if spec.channels > 1 else spec.fill[0]
        array = np.asarray(_fitted(to_channels(image, spec.channels), spec, fill))
        return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))
    if isinstance(image, Image.Image):
        image = conform(np.atleast_3d(np.asarray(image)), format_of(spec), "the image")
    # Pillow resizes 16-bit values as floating-point ones only.
    kind = np.uint8 if spec.depth == 8 else np.float32
    bands = [
        np.asarray(_fitted(Image.fromarray(band.astype(kind)), spec, fill))
        for band, fill in zip(image.transpose(2, 0, 1), spec.fill, strict=True)
    ]
    return np.stack(bands) if spec.depth == 8 else np.rint(bands).clip(0, spec.white).astype(np.uint16)


def format_of(spec: InputSpec) -> PixelFormat:
    """Return what image files are decoded to for this input."""
    return PixelFormat(spec.channels, spec.depth)


def _fitted(image: Image.Image, spec: InputSpec, fill: int | tuple[int, ...]) -> Image.Image:
    size = _resized(image.size, spec)
    if image.size != size:
        image = image.resize(size, _RESAMPLING[spec.interpolation])
    return _centre(image, spec, fill)


def _resized(size: tuple[int, int], spec: InputSpec) -> tuple[int, int]:
    """Return the (width, height) to resize an image of such a size to."""
    width, height = size
    target = tuple(math.floor(side / spec.crop) for side in (spec.width, spec.height))
    if spec.fit == "squash":
        return target[0], target[1]
    if spec.fit == "crop" and target[0] == target[1]:
        # torchvision's Resize, which rounds down; ResizeKeepRatio of timm, for other targets, rounds.
        short, long = target[0], int(target[0] * max(width, height) / min(width, height))
        return (short, long) if width <= height else (long, short)
    ratios = width / target[0], height / target[1]
    ratio = min(ratios) if spec.fit == "crop" else max(ratios)
    return max(1, round(width / ratio)), max(1, round(height / ratio))


def _centre(image: Image.Image, spec: InputSpec, fill: int | tuple[int, ...]) -> Image.Image:
    """Cut the centre out, or pad the image where it is smaller."""
    missing = [max(0, side - own) for side, own in zip((spec.width, spec.height), image.size, strict=True)]
    if any(missing):
        left, top = (pixels // 2 for pixels in missing)
        right, bottom = missing[0] - left, missing[1] - top
        image = ImageOps.expand(image, (left, top, right, bottom), fill=fill)
    left, top = round((image.width - spec.width) / 2), round((image.height - spec.height) / 2)
    return image.crop((left, top, left + spec.width, top + spec.height))


def cropped_share(widths: NDArray[np.int64], heights: NDArray[np.int64], spec: InputSpec) -> float:
    """Return the share of its area that the median image loses because its shape is not the input's.

    What `crop` cuts off an image of the right shape is not counted: it was so in most pretrainings.

    Args:
        widths: (N,) of the images, pixels; N ≥ 1.
        heights: (N,), likewise.
    """
    return lost_share(widths, heights, (spec.width, spec.height)) if spec.fit == "crop" else 0.0


def lost_share(widths: NDArray[np.int64], heights: NDArray[np.int64], shape: tuple[int, int]) -> float:
    """Return the share of its area that the median image loses if it is cropped to a shape.

    Args:
        widths: (N,) of the images, pixels; N ≥ 1.
        heights: (N,), likewise.
        shape: (width, height); only their ratio counts.
    """
    ratios: NDArray[np.float64] = np.array([widths, heights]) / np.array(shape)[:, None]
    return float(np.median(1 - ratios.min(0) / ratios.max(0)))


def crop_warning(index: Index, spec: InputSpec) -> str | None:
    """Return a sentence, with the fix, if the centre crop cuts off much of the training images, else None."""
    rows = index.rows("train")
    widths, heights = (np.array(sides)[rows] for sides in (index.widths, index.heights))
    share = cropped_share(widths, heights, spec)
    if share <= WORTH_A_WARNING:
        return None
    return (
        f"the centre crop to {spec.width}×{spec.height} px cuts off {100 * share:.0f} % of the median image"
        f" of {index.name} ({np.median(widths):.0f}×{np.median(heights):.0f} px); input.fit=pad keeps whole"
        " images, and so does input.size=[height,width] input.crop=1 with their shape; input.fit=crop crops"
        " without this warning"
    )
