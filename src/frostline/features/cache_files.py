"""The files of the feature cache: one safetensors file per content key. Does not import torch."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.base.files import DAMAGED, remove_leftovers
from frostline.base.formats import parsed_json

ENDING = ".safetensors"
PARTIAL = ".part"
NO_HASH = "0" * 64
"""Placeholder for the sha256 of the features until it is known."""

_ALIGNED = 64  # Alignment in bytes of a memory-mapped tensor.


@dataclass(frozen=True)
class Entry:
    """A file of the cache."""

    key: str
    about: Mapping[str, Any]
    """The data that the key is the hash of; empty if the file is damaged."""
    shape: tuple[int, ...]
    dtype: str
    """safetensors' name, such as BF16; empty if the file is damaged."""
    bytes: int
    """Size of the file."""
    used: float
    """Time of last use, in seconds since 1970."""
    path: Path


def header(
    about: Mapping[str, Any], dtype: str, shape: Sequence[int], size: int, sha256: str = NO_HASH
) -> bytes:
    """Return the first bytes of a file: the header's length, and the header.

    The length does not depend on the hash, so the header can be rewritten once the hash is known.

    Args:
        about: plain JSON data.
        dtype: safetensors' name.
        size: size of the features in bytes.
        sha256: hash of the features' bytes, in hex.
    """
    said = json.dumps({"about": about, "sha256": sha256}, sort_keys=True, allow_nan=False)
    tensor = {"dtype": dtype, "shape": list(shape), "data_offsets": [0, size]}
    text = json.dumps({"__metadata__": {"frostline": said}, "features": tensor}).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNED)
    return len(text).to_bytes(8, "little") + text


def hash_in(content: bytes, expected: bytes) -> str | None:
    """Return the hash in a header that equals `expected` except for the hash; None: it differs elsewhere."""
    at = expected.rindex(NO_HASH.encode())
    end = at + len(NO_HASH)
    if content[:at] + content[end:] != expected[:at] + expected[end:]:
        return None
    return content[at:end].decode(errors="replace")


def path_of(folder: Path, key: str) -> Path:
    """Return the path of the features of `key`."""
    return folder / f"{key}{ENDING}"


def lock_of(folder: Path, key: str) -> Path:
    """Return the lock file for writing the features of `key`."""
    return folder / f"{key}.lock"


def entries(folder: Path) -> list[Entry]:
    """Return the entries of `folder`, the most recently used first."""
    listed = []
    for path in folder.glob(f"*{ENDING}"):
        with suppress(FileNotFoundError):  # Removed by another process in the meantime.
            listed.append(_entry(path))
    return sorted(listed, key=lambda entry: (-entry.used, entry.key))


def prune(folder: Path, limit: int, keep: str | None = None) -> list[Entry]:
    """Remove the least recently used entries until the rest fits into `limit` bytes; return the removed ones.

    What killed writers left is removed, and damaged files that were set aside go first. A process that has an
    entry open or mapped can still read it.

    Args:
        limit: bytes on disk.
        keep: a key that is never removed, whose lock the caller holds.
    """
    remove_leftovers(folder, locked_key=keep)
    listed = entries(folder)
    excess = sum(entry.bytes for entry in listed) - limit
    for aside in folder.glob(f"*{ENDING}{DAMAGED}"):
        with suppress(FileNotFoundError):
            size = aside.stat().st_size
            if excess + size > 0:
                aside.unlink()
    removed = []
    for entry in reversed(listed):
        if excess <= 0:
            break
        if entry.key != keep:
            entry.path.unlink(missing_ok=True)
            removed.append(entry)
            excess -= entry.bytes
    return removed


def _entry(path: Path) -> Entry:
    stat = path.stat()
    try:
        about, shape, dtype = _metadata(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        about, shape, dtype = {}, (), ""
    return Entry(path.stem, about, shape, dtype, stat.st_size, stat.st_mtime, path)


def _metadata(path: Path) -> tuple[dict[str, Any], tuple[int, ...], str]:
    """Read a file's metadata: about, shape and dtype."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        content = parsed_json(stream.read(min(length, path.stat().st_size)))
    about = parsed_json(content["__metadata__"]["frostline"])["about"]
    tensor = content["features"]
    return dict(about.items()), tuple(int(n) for n in tensor["shape"]), str(tensor["dtype"])
