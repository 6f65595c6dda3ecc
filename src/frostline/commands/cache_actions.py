"""List, prune and clear the caches of features and pixels, without torch."""

import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

from frostline.base import project
from frostline.base.files import DAMAGED
from frostline.base.formats import canonical_json
from frostline.base.locks import exclusive
from frostline.console import tables
from frostline.console.errors import ResourceLocked
from frostline.console.units import UNITS, counted, size
from frostline.features import cache_files
from frostline.features.cache_files import Entry

Format = Literal["table", "json"]

WORDS = ("backbone", "cut", "dataset", "split")
"""The parts of a cache key that name features in the list."""
KEY_DIGITS = 12
NO_FEATURES = (
    "no features are cached yet: a run whose first layers are frozen caches their outputs, "
    "such as frostline finetune freeze=linear_probe"
)
_BUSY = "another process is writing it"


@dataclass(frozen=True)
class Pixels:
    """Totals of the cached images, which are resized to the input size of a network."""

    files: int = 0
    bytes: int = 0


def show(form: Format) -> None:
    """Print what is cached, the most recently used first, and the limit."""
    limit = project.features_limit()
    entries, pixels = cache_files.entries(project.features_dir()), _pixels()
    total = sum(entry.bytes for entry in entries)
    if form == "json":
        features = {
            "folder": str(project.features_dir()),
            "limit": limit,
            "bytes": total,
            "entries": _as_data(entries),
        }
        print(canonical_json({"features": features, "pixels": asdict(pixels)}), end="")
        return
    if entries:
        headers = ("features", "images × shape", "type", "size", "last used", "key")
        tables.print_table(headers, map(_row, entries))
        print(f"\nfeatures: {size(total)} of at most {size(limit)} (FROSTLINE_CACHE_GIB)")
    else:
        print(NO_FEATURES)
    if pixels.files:
        limit = project.pixels_limit(project.project_scratch() / "pixels")
        files = counted(pixels.files, "file")
        print(f"pixels:   {size(pixels.bytes)} of at most {size(limit)} (FROSTLINE_PIXELS_GIB), in {files}")
    if entries or pixels.files:
        print("to make room: frostline cache prune --to 1GiB, or frostline cache clear")


def prune(limit: int | None, form: Format) -> None:
    """Remove the least recently used features until the rest fits; print what was removed.

    Args:
        limit: in bytes; None: the cache's limit.
    """
    limit = project.features_limit() if limit is None else limit
    folder = project.features_dir()
    removed = cache_files.prune(folder, limit)
    rest = sum(entry.bytes for entry in cache_files.entries(folder))
    freed = sum(entry.bytes for entry in removed)
    if form == "json":
        print(canonical_json({"removed": _as_data(removed), "freed": freed, "bytes": rest}), end="")
        return
    for entry in removed:
        print(f"removed {_name(entry)}: {size(entry.bytes)}, used {ago(entry.used)}")
    if removed:
        print(f"freed {size(freed)}, {size(rest)} of features remain")
    else:
        print(f"nothing to remove: {size(rest)} of features, and the limit is {size(limit)}")


def clear(form: Format) -> None:
    """Remove all features and pixels except those that are being written; print how much was removed."""
    removed = cache_files.prune(project.features_dir(), 0)
    pixels = _clear_pixels()
    for damaged in (project.scratch() / "data").glob(f"*{DAMAGED}"):
        shutil.rmtree(damaged, ignore_errors=True)
    freed = sum(entry.bytes for entry in removed) + pixels.bytes
    if form == "json":
        print(
            canonical_json({"removed": _as_data(removed), "pixels": asdict(pixels), "freed": freed}), end=""
        )
    else:
        files = f"{counted(len(removed), 'file')} of features and {pixels.files} of pixels"
        print(f"removed {files}: freed {size(freed)}; the next run computes what it needs again")


def bytes_of(text: str) -> int:
    """Return the number of bytes of a size such as ``5GiB``, ``0.5 TiB`` or ``0``."""
    match = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(UNITS)})?", text.strip(), re.IGNORECASE)
    if not match or not (match[2] or float(match[1]) == 0):
        raise ValueError(f"found {text}; give a size such as 5GiB or 500MiB, or 0")
    power = [unit.lower() for unit in UNITS].index((match[2] or "B").lower())
    return int(float(match[1]) * 1024**power)


def ago(timestamp: float) -> str:
    """Return how long ago a time in seconds since 1970 was: ``just now``, ``3 min ago``, ``2 days ago``."""
    seconds = time.time() - timestamp
    for unit, length in (("day", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            count = int(seconds / length)
            return f"{counted(count, unit) if unit == 'day' else f'{count} {unit}'} ago"
    return "just now"


def _row(entry: Entry) -> tuple[str, ...]:
    images, *shape = entry.shape or (0,)
    shapes = f"{images:,} × {'×'.join(map(str, shape)) or 1}" if entry.shape else "?"
    amounts = (entry.dtype.lower() or "?", size(entry.bytes), ago(entry.used))
    return (_name(entry), shapes, *amounts, entry.key[:KEY_DIGITS])


def _name(entry: Entry) -> str:
    words = [str(entry.about[word]) for word in WORDS if entry.about.get(word)]
    return " · ".join(words) or "a damaged file"


def _as_data(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    return [{**vars(entry), "shape": list(entry.shape), "path": str(entry.path)} for entry in entries]


def _pixels() -> Pixels:
    sizes = []
    for path in (project.project_scratch() / "pixels").glob("*.npy"):
        with suppress(FileNotFoundError):  # Another process has just removed it.
            sizes.append(path.stat().st_size)
    return Pixels(len(sizes), sum(sizes))


def _clear_pixels() -> Pixels:
    """Remove cached pixels and killed writers' files; a process that has mapped one continues to use it."""
    sizes = []
    for path in (project.project_scratch() / "pixels").glob("*.npy*"):
        lock = path.with_name(f"{path.name.lstrip('.').partition('.')[0]}.lock")
        try:
            with exclusive(lock, otherwise=_BUSY):
                sizes.append(path.stat().st_size)
                path.unlink()
        except (FileNotFoundError, ResourceLocked):
            continue
    return Pixels(len(sizes), sum(sizes))
