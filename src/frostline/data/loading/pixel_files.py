"""A memory-mapped file of images at a network's input size, with a checksum per image: a shard of the cache.

A process verifies each image when it first reads it, so a large file is never read as a whole; the CRC-32
takes about 0.1 ms for 224 × 224 × 3. A damaged image is made from its source again at every read. Its file is
set aside, and the next process that opens it writes a new one.
"""

import io
import math
import mmap
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from frostline.base.files import set_aside, temporary_path
from frostline.console.errors import full_disk
from frostline.console.units import size as size_text

Pixels = NDArray[np.unsignedinteger[Any]]
"""uint8 or uint16."""

_SUM = np.dtype("<u4")


@dataclass(frozen=True)
class Layout:
    """The shape of all images of a file, (N, C, H, W), and the type of a pixel."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def of(self, images: int) -> "Layout":
        """Return the layout of some of these images."""
        return replace(self, shape=(images, *self.shape[1:]))

    @property
    def size(self) -> int:
        """Size of all images."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def file_size(self) -> int:
        """Size of a file of them, with its header and checksums."""
        return len(self.header) + self.size + _SUM.itemsize * (self.shape[0] + 1)

    @property
    def header(self) -> bytes:
        """The header of a .npy file of this layout, so that NumPy can read the file."""
        stream = io.BytesIO()
        description = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": tuple(self.shape),
        }
        np.lib.format.write_array_header_1_0(stream, description)
        return stream.getvalue()


class PixelFile:
    """A memory-mapped file of images, (N, C, H, W) uint8 or uint16.

    Args:
        sums: (N,) uint32, CRC-32 of each image.
        make: image number → its pixels, from the source.
    """

    def __init__(
        self, path: Path, mapped: Pixels, sums: NDArray[np.uint32], make: Callable[[int], Pixels]
    ) -> None:
        self.path, self.shape = path, mapped.shape
        self._mapped, self._sums, self._make = mapped, sums, make
        self._verified = np.zeros(len(mapped), dtype=bool)
        self._identity = _identity(path)

    def read(self, rows: NDArray[np.int64]) -> Pixels:
        """Return a copy of n images, (n, C, H, W).

        The pages are released at once, so that the process's memory does not grow. They stay in the page
        cache while there is room; reading them again is then only a copy.

        Raises:
            FrostlineError: an image is damaged, and its source has changed or is missing.
        """
        images = np.asarray(self._mapped[rows])
        mapping = self._mapped.base
        assert isinstance(mapping, mmap.mmap)
        mapping.madvise(mmap.MADV_DONTNEED)
        for place in np.flatnonzero(~self._verified[rows]).tolist():
            row = int(rows[place])
            if zlib.crc32(images[place]) == self._sums[row]:
                self._verified[row] = True
            else:
                self._set_aside()
                images[place] = self._make(row)
        return images

    def _set_aside(self) -> None:
        """Set the file aside, once, unless it has been replaced by a new one."""
        if self._identity is not None and self._identity == _identity(self.path):
            set_aside(self.path, "is damaged (an image does not match its checksum)")
        self._identity = None


def mapped(path: Path, layout: Layout, make: Callable[[int], Pixels]) -> PixelFile | None:
    """Map a file; set it aside if it is damaged. None: there is no sound file."""
    header, count = layout.header, layout.size
    try:
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size != layout.file_size:
                raise ValueError("its length is not the one that was written")
            if stream.read(len(header)) != header:
                raise ValueError("its header is not the one that was written")
            stream.seek(len(header) + count)
            sums = np.frombuffer(stream.read(), dtype=_SUM)
            if zlib.crc32(sums[:-1].data) != sums[-1]:
                raise ValueError("its checksums are damaged")
            images = np.memmap(stream, layout.dtype, "r", len(header), layout.shape)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        set_aside(path, f"is damaged ({getattr(error, 'strerror', None) or error})")
        return None
    return PixelFile(path, images, sums[:-1].astype(np.uint32), make)


def write(path: Path, layout: Layout, images: Iterable[Pixels]) -> None:
    """Write a file atomically, with one image at a time in memory.

    Raises:
        OutOfResources: the disk is full.
    """
    temporary = temporary_path(path)
    try:
        with _full_disk(path.parent, layout), temporary.open("xb") as stream:
            _fill(stream, layout, images)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def unsaved(path: Path, layout: Layout, make: Callable[[int], Pixels], images: Iterable[Pixels]) -> PixelFile:
    """Write a temporary file that ends with this process, instead of the one at `path`."""
    with _full_disk(Path(tempfile.gettempdir()), layout), tempfile.TemporaryFile() as stream:
        sums = _fill(stream, layout, images)
        stream.flush()
        images_on_disk = np.memmap(stream, layout.dtype, "r", len(layout.header), layout.shape)
    return PixelFile(path, images_on_disk, sums, make)


def _fill(stream: IO[bytes], layout: Layout, images: Iterable[Pixels]) -> NDArray[np.uint32]:
    """Write the header, the images and their checksums; return these."""
    stream.write(layout.header)
    sums = []
    for image in images:
        content = image.tobytes()
        stream.write(content)
        sums.append(zlib.crc32(content))
    checksums = np.array(sums, dtype=_SUM)
    stream.write(checksums.tobytes())
    stream.write(zlib.crc32(checksums.data).to_bytes(_SUM.itemsize, "little"))
    return checksums.astype(np.uint32)


def _full_disk(folder: Path, layout: Layout) -> AbstractContextManager[None]:
    need = f"the images need {size_text(layout.size)}"
    return full_disk(folder, need, "make room (frostline cache clear), and run again")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
