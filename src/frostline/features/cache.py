"""The feature cache: outputs of frozen layers, computed once and stored on disk under a content key."""

import errno
import hashlib
import math
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from frostline.base.files import remove_leftovers, set_aside, temporary_path
from frostline.base.hashes import content_key
from frostline.base.locks import exclusive
from frostline.console.errors import FrostlineError, full_disk
from frostline.features import cache_files
from frostline.features.cache_files import hash_in, header, lock_of, path_of

MAPPED_BYTES = 1 << 30
"""Larger features are memory-mapped instead of read into memory."""

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.uint8: "U8",
}
"""The dtypes that features may have, and safetensors' names for them."""

_verified: set[tuple[int, ...]] = set()  # Identities of files whose content this process has verified.


class FeatureCache:
    """A folder of features; the least recently used are removed to make room for new ones."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        """Maximum size in bytes."""

    def get(
        self,
        about: Mapping[str, Any],
        shape: Sequence[int],
        dtype: torch.dtype,
        produce: Callable[[], Iterable[Tensor]],
    ) -> tuple[Tensor, bool]:
        """Return features, and whether they were cached; if not, compute them with `produce` and write them.

        If several processes request the same features, one computes them and the others wait. A damaged file
        is detected and computed again.

        Args:
            about: plain JSON data: everything that the features depend on, and a description for people. Its
                hash is the key.
            shape: (N, …) of all features.
            dtype: one of `DTYPES`.
            produce: yields the features in order, in pieces of (n, …), on any device. Only one piece at a
                time is in memory.

        Returns:
            (N, …) on the CPU; above 1 GiB memory-mapped, copy on write.

        Raises:
            FrostlineError: the disk is full, or the features are not cached and the folder is read-only.
        """
        wanted = _Request(dict(about), tuple(shape), dtype)
        key = content_key(wanted.about)
        with suppress(_Damaged):
            if (cached := self._read(key, wanted)) is not None:
                return cached, True
        self._prepare()
        with exclusive(lock_of(self.folder, key)):
            try:
                if (cached := self._read(key, wanted)) is not None:
                    return cached, True
            except _Damaged as damage:
                set_aside(path_of(self.folder, key), f"is damaged ({damage})")
            remove_leftovers(self.folder, locked_key=key)
            made = self._write(key, wanted, produce)
            cache_files.prune(self.folder, self.limit, keep=key)
            return made, False

    def _prepare(self) -> None:
        """Create the folder, and check that it is writable."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            reason = "" if os.access(self.folder, os.W_OK | os.X_OK) else "no permission, or a read-only disk"
        except OSError as error:
            reason = str(error.strerror)
        if reason:
            raise FrostlineError(
                f"{self.folder} can't be written ({reason}), and it does not have the features yet: "
                "make it writable, or set features=off"
            )

    def _read(self, key: str, wanted: "_Request") -> Tensor | None:
        try:
            stream = path_of(self.folder, key).open("rb", buffering=0)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with stream:
            return _load(stream, wanted)

    def _write(self, key: str, wanted: "_Request", produce: Callable[[], Iterable[Tensor]]) -> Tensor:
        """Write the file piece by piece, and return the features read from it."""
        temporary = temporary_path(self.folder / key, cache_files.PARTIAL)
        try:
            with self._full_disk(wanted):
                if shutil.disk_usage(self.folder).free < wanted.size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                opened = temporary.open("x+b", buffering=0)
            with opened as stream:
                with self._full_disk(wanted):
                    _write_all(stream, memoryview(wanted.header()))
                digest, rows = hashlib.sha256(), 0
                for piece in produce():
                    assert (piece.shape[1:], piece.dtype) == (wanted.shape[1:], wanted.dtype), (
                        f"{piece.dtype} of {tuple(piece.shape)} is no piece of {wanted}"
                    )
                    content = _bytes_of(piece.detach().cpu().contiguous())
                    digest.update(content)
                    with self._full_disk(wanted):
                        _write_all(stream, content)
                    rows += len(piece)
                assert rows == wanted.shape[0], f"{rows} rows of {wanted}"
                with self._full_disk(wanted):
                    stream.seek(0)
                    _write_all(stream, memoryview(wanted.header(digest.hexdigest())))
                    os.fsync(stream.fileno())
                temporary.replace(path_of(self.folder, key))
                _verified.add(_identity(stream))
                stream.seek(0)
                return _load(stream, wanted)
        finally:
            temporary.unlink(missing_ok=True)

    def _full_disk(self, wanted: "_Request") -> AbstractContextManager[None]:
        need = f"the features need {math.ceil(wanted.size / 2**20)} MiB"
        return full_disk(self.folder, need, "make room (frostline cache prune --to 0), or set features=off")


class _Damaged(Exception):
    """A file differs from what was written; the message says how."""


@dataclass(frozen=True)
class _Request:
    about: dict[str, Any]
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Size of the features in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def header(self, sha256: str = cache_files.NO_HASH) -> bytes:
        return header(self.about, DTYPES[self.dtype], self.shape, self.size, sha256)

    def __str__(self) -> str:
        return f"{self.dtype} features of {self.shape}"


def _load(stream: FileIO, wanted: _Request) -> Tensor:
    """Read or map the features in an open file, which may have been removed meanwhile.

    Raises:
        _Damaged: the file differs from what was written.
    """
    expected = wanted.header()
    sha256 = hash_in(stream.read(len(expected)), expected)
    if sha256 is None:
        raise _Damaged("its header was altered")
    identity = _identity(stream)
    if (length := identity[-1]) != len(expected) + wanted.size:
        raise _Damaged(f"it has {length} bytes, not {len(expected) + wanted.size}")
    known = identity in _verified
    if wanted.size > MAPPED_BYTES:
        actual = sha256 if known else hashlib.file_digest(stream, "sha256").hexdigest()
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        features = torch.frombuffer(mapped, dtype=wanted.dtype, offset=len(expected)).view(wanted.shape)
    else:
        features = torch.empty(wanted.shape, dtype=wanted.dtype)
        content = _bytes_of(features)
        if not _read_all(stream, content):
            raise _Damaged("it ends too early")
        actual = sha256 if known else hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise _Damaged("its content is not what was written")
    with suppress(OSError):  # The folder may be read-only.
        now = time.time_ns()
        os.utime(stream.fileno(), ns=(now, now))
    _verified.discard(identity)
    _verified.add(_identity(stream))
    return features


def _identity(stream: FileIO) -> tuple[int, ...]:
    """Return device, inode, time of last use, and size."""
    stat = os.fstat(stream.fileno())
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size


def _bytes_of(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def _write_all(stream: FileIO, content: memoryview) -> None:
    while content:
        content = content[stream.write(content) :]


def _read_all(stream: FileIO, content: memoryview) -> bool:
    """Fill `content`; return whether the file was long enough."""
    while content and (count := stream.readinto(content)):
        content = content[count:]
    return not content
