"""The cache of images at a network's input size: shards on disk, within a limit.

A cache consists of `<key>.<number>.npy`, the shards; `<key>.lock`, held while they are written; and
`<key>.used`, whose time is that of the last use, and which each process that reads the cache locks. A shard
is written under a temporary name, so a killed process leaves whole shards only; the next one writes the
others.
"""

import fcntl
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from frostline.base import project
from frostline.base.files import DAMAGED, is_writable, remove_leftovers
from frostline.base.locks import exclusive
from frostline.base.parallel import in_order
from frostline.console.errors import FrostlineError
from frostline.console.progress import Advance, Progress, say_once
from frostline.console.units import size as size_text
from frostline.data.loading import pixel_files
from frostline.data.loading.pixel_files import Layout, PixelFile, Pixels

SHARD_BYTES = 1 << 26
"""Bytes of a shard, at least, 64 MiB: what a killed process has to make again."""
MOST_SHARDS = 64
"""Maximum number of shards in a cache: each takes a file handle, and a process has 1,024 by default."""


@dataclass(frozen=True)
class Wanted:
    """The images that a cache is for."""

    layout: Layout
    """All images of a data set, (N, C, H, W)."""
    make: Callable[[int], Pixels]
    """Image number → its pixels, from the source; called by several threads at once."""
    title: str
    """What is done, for display."""
    name: str
    """The data set's name."""


class PixelCache:
    """Images of a data set: those that are cached are read from shards, the others are made at each read."""

    def __init__(self, wanted: Wanted, shards: "Shards", in_use: "InUse | None") -> None:
        self.shape = wanted.layout.shape
        self._wanted, self._shards, self._in_use = wanted, shards, in_use

    @property
    def cached(self) -> int:
        """The number of images that are cached."""
        return sum(file.shape[0] for file in self._shards.files if file)

    def read(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Return a copy of n images, (n, C, H, W).

        Raises:
            FrostlineError: an image that is damaged or not cached can't be made from its source.
        """
        images = np.empty((len(rows), *self.shape[1:]), self._wanted.layout.dtype)
        numbers = rows // self._shards.length
        for number in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == number)
            if file := self._shards.files[number]:
                images[places] = file.read(rows[places] - number * self._shards.length)
            else:
                made = in_order(self._wanted.make, rows[places].tolist())
                for place, image in zip(places, made, strict=True):
                    images[place] = image
        return torch.from_numpy(images)


class Shards:
    """The files of a cache, each of `length` images, the last one of the rest; None: it is not cached.

    Args:
        path: that of the shards, without their number and suffix.
    """

    def __init__(self, path: Path, wanted: Wanted) -> None:
        layout = wanted.layout
        images, each = layout.shape[0], max(1, layout.of(1).size)
        self.length = max(1, SHARD_BYTES // each, -(-images // MOST_SHARDS))
        self._path, self._wanted = path, wanted
        self.ranges = [range(i, min(i + self.length, images)) for i in range(0, images, self.length)]
        self.files: list[PixelFile | None] = [self._mapped(number) for number in range(len(self.ranges))]

    @property
    def missing(self) -> list[int]:
        """The numbers of the shards that are not cached."""
        return [number for number, file in enumerate(self.files) if file is None]

    def file_size(self, number: int) -> int:
        """Return the size of a shard's file."""
        return self._layout(number).file_size

    def write(self, number: int, advance: Advance) -> None:
        """Make a shard's images, and write them."""
        pixel_files.write(self._file(number), self._layout(number), self._made(number, advance))
        self.files[number] = self._mapped(number)

    def write_unsaved(self, number: int, advance: Advance) -> None:
        """Make a shard's images for this process only."""
        self.files[number] = pixel_files.unsaved(
            self._file(number), self._layout(number), self._make(number), self._made(number, advance)
        )

    def _mapped(self, number: int) -> PixelFile | None:
        return pixel_files.mapped(self._file(number), self._layout(number), self._make(number))

    def _made(self, number: int, advance: Advance) -> Iterator[Pixels]:
        for image in in_order(self._wanted.make, self.ranges[number]):
            yield image
            advance(1)

    def _make(self, number: int) -> Callable[[int], Pixels]:
        """Return image number within the shard → its pixels."""
        images, make = self.ranges[number], self._wanted.make
        return lambda row: make(images[row])

    def _file(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number:03}.npy")

    def _layout(self, number: int) -> Layout:
        return self._wanted.layout.of(len(self.ranges[number]))


def open_or_make(path: Path, wanted: Wanted, progress: Progress) -> PixelCache:
    """Open the cache at `path`; write the shards that are missing or damaged, as far as there is room.

    The shards are mapped while the cache's lock is held, so that no other process removes them before. Caches
    that no process uses are removed to make room, the least recently used first. In a read-only folder, the
    shards that exist are used, and missing ones are made for this process only.

    Args:
        path: that of the shards, without their number and suffix.

    Raises:
        FrostlineError: the disk is full (`OutOfResources`), or an image can't be made.
    """
    if not is_writable(path.parent):
        shards = Shards(path, wanted)
        if shards.missing:
            print(
                f"frostline: warning: {path.parent} can't be written, so images are resized for this command"
                " only; make the folder writable to cache them",
                file=sys.stderr,
                flush=True,
            )
            _fill(shards, wanted, progress, shards.write_unsaved, shards.missing)
        return PixelCache(wanted, shards, None)
    with exclusive(path.with_name(f"{path.name}.lock")):
        remove_leftovers(path.parent, locked_key=path.name)
        in_use = InUse(path)
        shards = Shards(path, wanted)
        if shards.missing:
            _fill(shards, wanted, progress, shards.write, _affordable(path, shards, wanted))
        return PixelCache(wanted, shards, in_use)


def _fill(
    shards: Shards,
    wanted: Wanted,
    progress: Progress,
    write: Callable[[int, Advance], None],
    numbers: Iterable[int],
) -> None:
    if count := sum(len(shards.ranges[number]) for number in numbers):
        with progress(wanted.title, count) as advance:
            for number in numbers:
                write(number, advance)


def _affordable(path: Path, shards: Shards, wanted: Wanted) -> list[int]:
    """Return the missing shards that there is room for; tell the user if that is not all of them."""
    missing, chosen = shards.missing, []
    limit = project.pixels_limit(path.parent)
    room = make_room(path.parent, limit, sum(map(shards.file_size, missing)), keep=path.name)
    for number in missing:
        if (room := room - shards.file_size(number)) < 0:
            break
        chosen.append(number)
    if len(chosen) < len(missing):
        left_out = missing[len(chosen) :]
        count = sum(len(shards.ranges[number]) for number in left_out)
        more = size_text(sum(map(shards.file_size, left_out)))
        say_once(
            f"frostline: warning: {count:,} of {wanted.layout.shape[0]:,} images of {wanted.name} are decoded"
            f" each time they are used, since the limit of cached images is {size_text(limit)} and they take"
            f" {more} more; raise FROSTLINE_PIXELS_GIB to cache them"
        )
    return chosen


def make_room(folder: Path, limit: int, need: int, keep: str) -> int:
    """Remove caches, the least recently used first, until `need` bytes fit; return the bytes that now do.

    A cache that a process reads or writes stays.

    Args:
        folder: of the caches.
        limit: bytes of all caches.
        keep: the key of the cache to make room for.
    """
    sizes: dict[str, int] = {}
    for path in folder.glob("*.npy"):
        with suppress(FileNotFoundError):  # Removed by another process in the meantime.
            key = path.name.partition(".")[0]
            sizes[key] = sizes.get(key, 0) + path.stat().st_size
    room = limit - sum(sizes.values())
    if room < need:
        for damaged in folder.glob(f"*{DAMAGED}"):
            damaged.unlink(missing_ok=True)
    for key in sorted(sizes, key=lambda key: (_last_used(folder, key), key)):
        if room >= need:
            break
        if key != keep and _remove(folder, key):
            room += sizes[key]
    return room


def _remove(folder: Path, key: str) -> bool:
    """Remove a cache, unless a process is using it; return whether it was removed."""
    with (
        suppress(FrostlineError),
        exclusive(folder / f"{key}.lock", otherwise="being written"),
        exclusive(folder / f"{key}.used", otherwise="being read"),
    ):
        for path in folder.glob(f"{key}.*npy"):
            path.unlink(missing_ok=True)
        return True
    return False


def _last_used(folder: Path, key: str) -> float:
    with suppress(FileNotFoundError):
        return (folder / f"{key}.used").stat().st_mtime
    return 0.0


class InUse:
    """Sets a cache's time of last use; the cache is in use while this object exists."""

    def __init__(self, path: Path) -> None:
        handle = os.open(path.with_name(f"{path.name}.used"), os.O_RDWR | os.O_CREAT, 0o644)
        weakref.finalize(self, os.close, handle)
        os.utime(handle)
        fcntl.flock(handle, fcntl.LOCK_SH)
