"""Hashes of the images of a prepared data set, for comparison with another one."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.console.errors import FrostlineError
from frostline.data.prepared.index import PreparedData
from frostline.duplicates.search import NEAR_MIN_SIDE, THUMBNAIL, pixel_digest, thumbnail

HASHES_FILE = "hashes.npy"
"""Hash of the pixels and thumbnail of each image, beside the index of a data set of files."""
_HASHES = np.dtype([("pixels", "S16"), ("thumbnail", "u1", (THUMBNAIL, THUMBNAIL))])


def hashes(digests: list[bytes], thumbnails: NDArray[np.uint8]) -> NDArray[Any]:
    """Return (N,) records of the first 16 bytes of each pixel hash, and of the thumbnail."""
    table = np.zeros(len(digests), dtype=_HASHES)
    # Hexadecimal would not fit; the last byte is made odd, since numpy drops zeros at the end of text.
    table["pixels"] = [digest[:15] + bytes([digest[15] | 1]) for digest in digests]
    table["thumbnail"] = thumbnails
    return table


def read_hashes(data: PreparedData) -> NDArray[Any]:
    """Return the records of a prepared data set; those of arrays are computed."""
    if data.index.storage == "files":
        path = data.folder / HASHES_FILE
        try:
            table: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError):
            raise FrostlineError(f"{path} is missing or damaged: run prepare again") from None
        if len(table) != len(data.index) or table.dtype != _HASHES:
            raise FrostlineError(f"{path} doesn't belong to the index beside it: run prepare again")
        return table
    images = data.index.images(data.folder)
    searched = min(images.shape[1:3]) >= NEAR_MIN_SIDE
    thumbnails = np.zeros((len(images), THUMBNAIL, THUMBNAIL), dtype=np.uint8)
    if searched:
        for row, pixels in enumerate(images):
            thumbnails[row] = thumbnail(Image.fromarray(pixels))
    return hashes([pixel_digest(pixels) for pixels in images], thumbnails)


def write_hashes(folder: Path, table: NDArray[Any]) -> None:
    """Write `hashes.npy` into the folder of a prepared data set."""
    np.save(folder / HASHES_FILE, table, allow_pickle=False)
