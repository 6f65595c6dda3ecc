"""Hashes of files and of plain data."""

import hashlib
from pathlib import Path
from typing import Any

from frostline.base.formats import canonical_json

CHUNK = 1 << 20
_known: dict[tuple[Path, tuple[int, ...]], str] = {}  # Hashes of files that this process has read.


def content_key(value: Any) -> str:
    """Return the sha256, in hex, of `value`'s canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode(errors="surrogatepass")).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the sha256 of the file at `path`, in hex, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_cached(path: Path) -> str:
    """Return a file's sha256, in hex; the file is read again only if its size or times have changed."""
    known = path, identity(path)
    if known not in _known:
        _known[known] = sha256_of(path)
    return _known[known]


def identity(path: Path) -> tuple[int, ...]:
    """Return device, inode, times and size, which change when a file is replaced or written to."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size
