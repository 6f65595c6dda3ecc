"""Features on disk: one safetensors file a content key, which says itself what it holds. Needs no torch."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.base.files import DAMAGED
from frostline.base.formats import parsed_json
from frostline.base.locks import exclusive
from frostline.console.errors import FrostlineError

ENDING = ".safetensors"
PARTIAL = ".part"
NO_HASH = "0" * 64
"""Stands for the payload's sha256 until it is known."""

_ALIGNED = 64  # Bytes: where a mapped tensor may begin.


@dataclass(frozen=True)
class Entry:
    """What is kept under a key."""

    key: str
    about: Mapping[str, Any]
    """What the key is the hash of; empty where the file is damaged."""
    shape: tuple[int, ...]
    dtype: str
    """As safetensors calls it, such as BF16; empty where the file is damaged."""
    bytes: int
    """Of the file."""
    used: float
    """When last, in seconds since 1970."""
    path: Path


def header(
    about: Mapping[str, Any], dtype: str, shape: Sequence[int], size: int, sha256: str = NO_HASH
) -> bytes:
    """Return how a file begins: the length of the header, and the header, of the same length for any hash.

    Args:
        about: plain JSON data.
        dtype: as safetensors calls it.
        shape: of the features.
        size: of the features in bytes.
        sha256: of the features' bytes, in hex.
    """
    said = json.dumps({"about": about, "sha256": sha256}, sort_keys=True, allow_nan=False)
    tensor = {"dtype": dtype, "shape": list(shape), "data_offsets": [0, size]}
    text = json.dumps({"__metadata__": {"frostline": said}, "features": tensor}).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNED)
    return len(text).to_bytes(8, "little") + text


def hash_in(found: bytes, expected: bytes) -> str | None:
    """Return the hash that a header names which is otherwise as `expected`, one without a hash; else None."""
    at = expected.rindex(NO_HASH.encode())
    end = at + len(NO_HASH)
    if found[:at] + found[end:] != expected[:at] + expected[end:]:
        return None
    return found[at:end].decode(errors="replace")


def path_of(folder: Path, key: str) -> Path:
    """Return where the features of `key` lie."""
    return folder / f"{key}{ENDING}"


def lock_of(folder: Path, key: str) -> Path:
    """Return the file that is locked by who writes the features of `key`."""
    return folder / f"{key}.lock"


def entries(folder: Path) -> list[Entry]:
    """Return what `folder` keeps, the most recently used first."""
    found = []
    for path in folder.glob(f"*{ENDING}"):
        with suppress(FileNotFoundError):  # Another process has just removed it.
            found.append(_entry(path))
    return sorted(found, key=lambda entry: (-entry.used, entry.key))


def prune(folder: Path, limit: int, keep: str | None = None) -> list[Entry]:
    """Remove the least recently used entries until the rest fits into `limit` bytes; return what went.

    Damaged files that were set aside go before any entry. A process that has an entry open or mapped goes on
    with it.

    Args:
        folder: of the features.
        limit: bytes on disk.
        keep: a key that stays in any case.
    """
    found = entries(folder)
    excess = sum(entry.bytes for entry in found) - limit
    for aside in folder.glob(f"*{ENDING}{DAMAGED}"):
        with suppress(FileNotFoundError):
            size = aside.stat().st_size
            if excess + size > 0:
                aside.unlink()
    removed = []
    for entry in reversed(found):
        if excess <= 0:
            break
        if entry.key != keep:
            entry.path.unlink(missing_ok=True)
            removed.append(entry)
            excess -= entry.bytes
    return removed


def remove_leftovers(folder: Path, held: str | None = None) -> None:
    """Remove what killed writers left. What another process writes stays: it holds that key's lock.

    Args:
        folder: of the features.
        held: the key whose lock the caller holds.
    """
    for path in folder.glob(f".*{PARTIAL}"):
        key = path.name.split(".")[1]
        if key == held:
            path.unlink(missing_ok=True)
        else:
            with suppress(FrostlineError), exclusive(lock_of(folder, key), otherwise="being written"):
                path.unlink(missing_ok=True)


def _entry(path: Path) -> Entry:
    stat = path.stat()
    try:
        about, shape, dtype = _said(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        about, shape, dtype = {}, (), ""
    return Entry(path.stem, about, shape, dtype, stat.st_size, stat.st_mtime, path)


def _said(path: Path) -> tuple[dict[str, Any], tuple[int, ...], str]:
    """What a file says of itself: about, shape and dtype."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        found = parsed_json(stream.read(min(length, path.stat().st_size)))
    about = parsed_json(found["__metadata__"]["frostline"])["about"]
    tensor = found["features"]
    return dict(about.items()), tuple(int(n) for n in tensor["shape"]), str(tensor["dtype"])
