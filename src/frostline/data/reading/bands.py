"""Decode images of any number of channels, with 8 or 16 bits: TIFF stacks, NumPy arrays, 16-bit grey.

Grey and colour images with 8 bits are decoded by `decode`; the images here are arrays.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.data.reading.decode import (
    MAX_PIXELS,
    MIN_SIDE,
    SUFFIXES,
    BadImage,
    DecodedImage,
    Values,
    decode,
    decompression_bomb,
    eight_bits,
)
from frostline.data.reading.headers import read_header

IMAGE_SUFFIXES = SUFFIXES | {".npy"}
"""Suffixes of file names that are meant as images."""
NPY = b"\x93NUMPY"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_LUMA = np.array([299, 587, 114])
"""Weights of red, green and blue in grey, thousandths (ITU-R 601), as in Pillow."""
_UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image.swapaxes(0, 1)[:, ::-1],
    7: lambda image: image.swapaxes(0, 1)[::-1, ::-1],
    8: lambda image: image.swapaxes(0, 1)[::-1],
}
"""TIFF's orientation → what turns (H, W, C) upright."""


@dataclass(frozen=True)
class PixelFormat:
    """What the images of a data set are decoded to."""

    channels: int | None = None
    """None: grey or colour, as each image is."""
    depth: Literal[8, 16] = 8
    """Bits per channel."""

    @property
    def plain(self) -> bool:
        """Whether images are 8-bit grey or RGB."""
        return self.channels in (None, 1, 3) and self.depth == 8


PLAIN = PixelFormat()


def decode_as(
    content: bytes, name: str, wanted: PixelFormat = PLAIN, at_least: int | None = None
) -> DecodedImage:
    """Decode an image file to the wanted channels and bits.

    Grey becomes colour and colour grey; any other number of channels has to be that of the file, but four are
    colour and transparency in formats that have it. A TIFF with several pages is a stack, a channel per page.
    A NumPy array is (H, W), (H, W, C) or (C, H, W), uint8 or uint16.

    Args:
        name: name of the file, for errors.
        at_least: see `decode`.

    Raises:
        BadImage: as `decode`, or the file has another number of channels.
        OutOfResources: there is not enough memory.
    """
    if content.startswith(NPY):
        values, kind = _array(content, name, wanted.channels), "NPY"
    elif wanted.plain:
        return decode(content, name, at_least)
    elif content.startswith(_TIFF) and (wanted.channels not in (None, 1, 3) or read_header(content).bits > 8):
        values, kind = _tiff(content, name), "TIFF"
    else:
        decoded = decode(content, name, depth=wanted.depth, alpha=wanted.channels == 4)
        image = conform(np.atleast_3d(np.asarray(decoded.image)), wanted, name)
        return DecodedImage(image, decoded.format, decoded.mode, decoded.notes)
    height, width, channels = values.shape
    if min(height, width) < MIN_SIDE:
        raise BadImage(name, f"is {width}×{height} pixels, too small for an image: replace or remove it")
    mode = f"{channels}×{values.dtype}"
    image = conform(values, wanted, name)
    if wanted.plain:
        return DecodedImage(Image.fromarray(image[..., 0] if image.shape[2] == 1 else image), kind, mode, ())
    return DecodedImage(image, kind, mode, ())


def conform(values: Values, wanted: PixelFormat, name: str) -> Values:
    """Convert an image, (H, W, C) uint8 or uint16, to the wanted channels and bits.

    Raises:
        BadImage: it has other channels.
    """
    if wanted.depth == 16 and values.dtype == np.uint8:
        values = values.astype(np.uint16) * 257
    elif wanted.depth == 8 and values.dtype == np.uint16:
        values = eight_bits(values)
    channels = values.shape[2]
    match wanted.channels or (channels if channels in (1, 3) else 3), channels:
        case number, found if number == found:
            return np.ascontiguousarray(values)
        case 3, 1:
            return np.repeat(values, 3, axis=2)
        case 1, 3:
            grey = (values @ _LUMA + 500) // 1000
            return grey.astype(values.dtype)[..., None]
        case number, _:
            raise BadImage(
                name,
                f"has {channels} channels, and input.channels is {number}: set input.channels={channels}, or"
                " replace it",
            )


def _array(content: bytes, name: str, channels: int | None) -> Values:
    try:
        values = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise BadImage(
            name, f"is not a NumPy array of numbers ({error}): save it again with numpy.save"
        ) from None
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    _check_numbers(values, name)
    if values.ndim == 2:
        return values[..., None]
    if values.ndim != 3:
        shape = "×".join(map(str, values.shape))
        raise BadImage(name, f"is an array of {shape}: save height×width, or with channels last or first")
    # Channels last, unless only the first axis can be the channels.
    numbers = {channels} if channels else {1, 3}
    first = values.shape[0] in numbers and values.shape[2] not in numbers
    return np.moveaxis(values, 0, 2) if first else values


def _tiff(content: bytes, name: str) -> Values:
    import tifffile

    compression = "unknown"
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            series, page = file.series[0], file.series[0].keyframe
            if any(other.shape != series.shape for other in file.series):
                raise BadImage(name, f"holds {len(file.series)} images of different shapes: save one of them")
            if page.imagewidth * page.imagelength > MAX_PIXELS:
                raise decompression_bomb(name, f"{page.imagewidth}×{page.imagelength}")
            compression = getattr(page.compression, "name", compression)
            axes, values = series.axes, series.asarray()
            if len(file.series) > 1:
                axes, values = f"I{axes}", np.stack([page.asarray() for page in file.series])
            inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
            orientation = page.tags.valueof("Orientation", 1)
    except BadImage:
        raise
    except Exception as error:  # Decoders may raise anything on damaged files.
        if "imagecodecs" in str(error):
            raise BadImage(
                name,
                f"has TIFF's compression {compression}, which needs a package: pip install"
                " imagecodecs, or save it with deflate or without compression",
            ) from None
        raise BadImage(
            name, f"is truncated or damaged ({type(error).__name__}): copy or download it again"
        ) from None
    _check_numbers(values, name)
    others = [axis for axis in range(values.ndim) if axes[axis] not in "YX" and values.shape[axis] > 1]
    if len(others) > 1:
        raise BadImage(name, f"is a stack of {len(others)} dimensions ({axes}): save one stack of channels")
    values = values.transpose(
        *(axes.index(axis) for axis in "YX"), *(i for i, axis in enumerate(axes) if axis not in "YX")
    )
    values = values.reshape(*values.shape[:2], -1)
    if inverted:
        values = np.iinfo(values.dtype).max - values
    return _UPRIGHT.get(orientation, lambda image: image)(values)


def _check_numbers(values: NDArray[Any], name: str) -> None:
    if values.dtype not in (np.uint8, np.uint16):
        raise BadImage(
            name, f"has {values.dtype} pixels, which have no set range: save it as uint8 or uint16, from 0 up"
        )
