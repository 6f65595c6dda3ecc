"""Input images of a network: decoded and resized once, cached as uint8 or uint16, normalized per batch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from frostline.base import project
from frostline.base.hashes import content_key
from frostline.console.errors import FrostlineError
from frostline.console.progress import Progress, no_progress
from frostline.data.loading.pixel_cache import PixelCache, Wanted, open_or_make
from frostline.data.loading.pixel_files import Layout, Pixels
from frostline.data.loading.resize import format_of, to_pixels
from frostline.data.prepared.index import IMAGES_FILE, Index, PreparedData
from frostline.data.reading.bands import PLAIN, PixelFormat, decode_as
from frostline.data.reading.decode import BadImage, no_larger
from frostline.data.reading.sources import place_of, store_of
from frostline.data.reading.stores import Store
from frostline.models.input_spec import InputSpec

IN_MEMORY = 1 << 26
"""Pixel values, 64 MiB as uint8; a larger selection stays on disk, and each batch is read on request."""

_LAYOUT = 3  # Version of the file layout.
_FORMAT = 1  # Version of the code that makes pixels; a part of their cache key.


class OnDisk:
    """Selected images of a cache, (N, C, H, W) uint8 or uint16; indexing reads some of them into a tensor.

    Args:
        cache: all images of a data set.
        rows: (N,) rows of the selected images.
    """

    def __init__(self, cache: PixelCache, rows: NDArray[np.int64]) -> None:
        self._cache, self._rows = cache, rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> torch.Size:
        """(N, C, H, W)."""
        return torch.Size((len(self), *self._cache.shape[1:]))

    def numel(self) -> int:
        """Return the number of values."""
        return self.shape.numel()

    def __getitem__(self, which: torch.Tensor | slice) -> torch.Tensor:
        return self._cache.read(self._rows[which if isinstance(which, slice) else which.numpy()])

    def select(self, which: torch.Tensor) -> "OnDisk":
        """Return a selection of the rows without reading them."""
        return OnDisk(self._cache, self._rows[which.numpy()])


ImageStack = torch.Tensor | OnDisk
"""(N, C, H, W) uint8 or uint16 images; ``stack[rows]`` and ``stack[a:b]`` are tensors."""


class PixelStack(Protocol):
    """Images, (N, C, H, W), whose slices are tensors: an `ImageStack`, or a view of one."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: slice, /) -> torch.Tensor: ...


def select(stack: ImageStack, which: torch.Tensor) -> ImageStack:
    """Return a selection of a stack; it is in memory if the stack is."""
    return stack.select(which) if isinstance(stack, OnDisk) else stack[which]


@dataclass(frozen=True)
class Uncropped:
    """Whole images, squashed to one shape, that random crops are taken from."""

    pixels: ImageStack
    """(N, C, H, W) uint8 or uint16, larger than the input."""
    aspects: torch.Tensor
    """(N,) float64, width/height before they were squashed."""


@dataclass(frozen=True)
class Images:
    """Images at the network's input size, and their labels."""

    pixels: ImageStack
    """(N, C, H, W) uint8 or uint16."""
    labels: torch.Tensor
    """(N,) int64; with several labels per image (N, K) float32, 0 and 1."""
    key: str = ""
    """Content key: equal keys mean equal pixels."""
    dataset: str = ""
    split: str = ""
    weights: torch.Tensor | None = None
    """(N,) float32, weights in the training loss; None: all 1."""
    uncropped: Uncropped | None = None
    """The same images uncropped, if training draws random crops."""

    def __len__(self) -> int:
        return len(self.labels)


def aspects_of(index: Index, rows: torch.Tensor) -> torch.Tensor:
    """Return width/height of some images of an index, (N,) float64."""
    sides = torch.tensor([index.widths, index.heights], dtype=torch.float64)[:, rows]
    return sides[0] / sides[1]


def labels_of(index: Index, rows: NDArray[np.int64] | torch.Tensor) -> torch.Tensor:
    """Return the labels of some images as in `Images`."""
    labels = torch.as_tensor(index.labels)[torch.as_tensor(rows)]
    return labels.float() if index.several_labels else labels


def images_key(index: Index, rows: Sequence[int] | NDArray[np.int64] | torch.Tensor, spec: InputSpec) -> str:
    """Return the content key of the pixels that `load_pixels` returns for these rows."""
    hashes = [index.sha256[row] for row in np.asarray(rows).tolist()]
    return content_key([_FORMAT, hashes, *spec.geometry])


def images_of(
    index: Index, rows: NDArray[np.int64] | torch.Tensor, pixels: ImageStack, spec: InputSpec, split: str
) -> Images:
    """Return some images of an index with their labels and content key.

    Args:
        rows: (N,) positions in the index.
        pixels: (N, C, H, W), from `load_pixels`.
        split: its name, for display.
    """
    return Images(pixels, labels_of(index, rows), images_key(index, rows, spec), index.name, split)


def load_pixels(
    data: PreparedData,
    rows: Sequence[int] | NDArray[np.int64],
    spec: InputSpec,
    progress: Progress = no_progress,
    scratch: Path | None = None,
) -> ImageStack:
    """Load images at the network's input size.

    All images of the index are resized once and cached in `scratch/pixels/`, in files named by their hashes
    and the geometry, which are shared by all splits, shots, seeds and schedules. Those that the cache's limit
    leaves no room for are decoded at each read. Images in memory of the right size are neither resized nor
    cached.

    Args:
        rows: (N,) positions in the index.
        spec: input of the network, without mean and std, which `normalize` uses.
        scratch: folder of the cache; None: the project's.

    Returns:
        (N, C, H, W) uint8 or uint16; above `IN_MEMORY` values on disk, unless they are arrays.

    Raises:
        FrostlineError: an image is missing or has changed since `prepare`, or the disk is full.
    """
    index, folder = data.index, data.folder
    rows = np.asarray(rows, dtype=np.int64)
    if index.storage == "arrays":
        images = index.images(folder)
        if spec.channels not in (1, 3):
            raise FrostlineError(
                f"input.channels: found {spec.channels}, and {index.name} holds grey or RGB arrays; set 1 or"
                " 3, or use a folder or table of TIFF or .npy files"
            )
        if _fits(images, spec):
            return torch.from_numpy(_channels_first(_unchanged(images, index, rows, folder), spec.channels))
        work = partial(_pixels_of_array, images, index, folder, spec)
    else:
        work = partial(_pixels_of_file, store_of(data.dataset), index, place_of(data.dataset), spec)
    cache = (project.scratch() if scratch is None else scratch) / "pixels"
    hashes = hashlib.sha256("".join(index.sha256).encode()).hexdigest()
    key = content_key([_FORMAT, _LAYOUT, hashes, spec.geometry])
    size = spec.size if isinstance(spec.size, int) else f"{spec.width}×{spec.height}"
    layout = Layout((len(index), *spec.shape), np.dtype(f"u{spec.depth // 8}"))
    wanted = Wanted(layout, work, f"resizing {index.name} to {size} px", index.name)
    chosen = OnDisk(open_or_make(cache / key, wanted, progress), rows)
    return chosen[:] if chosen.numel() <= IN_MEMORY else chosen


def thumbnails(
    data: PreparedData, rows: NDArray[np.int64], side: int, wanted: PixelFormat = PLAIN
) -> list[NDArray[np.uint8]]:
    """Return uncropped thumbnails of images, to show to people.

    Args:
        rows: (n,) positions in the index.
        side: maximum side in pixels; larger images are reduced.
        wanted: channels and bits of image files.

    Returns:
        n images of (H, W) or (H, W, 3) uint8, of different sizes.

    Raises:
        FrostlineError: an image is missing or damaged.
    """
    return [no_larger(decoded.picture, side) for decoded in data.decoded(rows, wanted, at_least=side)]


def normalize(batch: torch.Tensor, spec: InputSpec) -> torch.Tensor:
    """Scale (N, C, H, W) uint8 or uint16 to 0…1, subtract the channels' means, divide by their deviations.

    Returns:
        (N, C, H, W) float32 on the batch's device; the same numbers as torchvision's ToTensor and Normalize.
    """
    mean, std = _constants(spec.mean, spec.std, batch.device)
    return batch.div(spec.white).sub_(mean).div_(std)


@lru_cache
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (-1, 1, 1)
    return torch.tensor(mean, device=device).view(shape), torch.tensor(std, device=device).view(shape)


def _pixels_of_file(store: Store, index: Index, place: str, spec: InputSpec, row: int) -> Pixels:
    key = index.keys[row]
    try:
        content = store.read(key)
    except BadImage as bad:
        raise FrostlineError(f"{place}: {bad}; or run prepare again") from None
    if hashlib.sha256(content).hexdigest() != index.sha256[row]:
        raise FrostlineError(f"{place}: {key} has changed since prepare read it: run prepare again")
    try:
        return to_pixels(decode_as(content, key, format_of(spec)).image, spec)
    except BadImage as bad:
        raise FrostlineError(f"{place}: {bad}") from None


def _pixels_of_array(images: Pixels, index: Index, folder: Path, spec: InputSpec, row: int) -> Pixels:
    (image,) = _unchanged(images, index, np.array([row]), folder)
    return to_pixels(Image.fromarray(image), spec)


def _unchanged(images: Pixels, index: Index, rows: NDArray[np.int64], folder: Path) -> Pixels:
    """Return images[rows] if their hashes are those of the index."""
    chosen = images[rows]
    for row, image in zip(rows.tolist(), chosen, strict=True):
        if hashlib.sha256(image.tobytes()).hexdigest() != index.sha256[row]:
            raise FrostlineError(
                f"{folder / IMAGES_FILE} has changed since prepare wrote it: run prepare again"
            )
    return chosen


def _fits(images: Pixels, spec: InputSpec) -> bool:
    """Return whether arrays need neither resizing nor conversion to grey."""
    right_size = images.shape[1:3] == spec.shape[1:] and spec.crop == 1 and spec.depth == 8
    return right_size and (images.ndim == 3 or spec.channels == 3)


def _channels_first(images: Pixels, channels: int) -> Pixels:
    """(N, H, W) or (N, H, W, 3) → (N, C, H, W)."""
    if images.ndim == 4:
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return np.repeat(images[:, None], channels, axis=1)
