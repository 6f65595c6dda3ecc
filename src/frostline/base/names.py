"""Names of classes and files in one Unicode form, NFC, whatever the form on disk.

`é` is one character in NFC and two in NFD, the form of folders copied from a Mac. Both look alike, and one
data set may contain both.
"""

import os
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path, PurePosixPath

LABEL_SEPARATOR = ";"
"""Between the names of an image's labels, in all that frostline writes."""


def nfc(name: str) -> str:
    """Return a name in Unicode's composed form, NFC."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def labels_in(text: str) -> set[str]:
    """Return the labels of an image, which `LABEL_SEPARATOR` separates; an empty text has none."""
    return set(text.split(LABEL_SEPARATOR)) - {""}


def natural_order(name: str) -> tuple[int, int, str]:
    """Return a sort key of class names: numbers by value, before words."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def unicode_form(name: str) -> str:
    """Return the Unicode form of a name: NFC, NFD or mixed."""
    forms = [form for form in ("NFC", "NFD") if unicodedata.is_normalized(form, name)]
    return forms[0] if forms else "mixed"


def locate(root: Path, key: str) -> Path:
    """Return the path of the file `key` under `root`, whichever Unicode form its names have there.

    Args:
        key: a path under it, with '/' between folders; returned unchanged if no such file exists.
    """
    path = root / key
    if key.isascii() or os.path.lexists(path):
        return path
    place = root
    for part in PurePosixPath(key).parts:
        if not os.path.lexists(place / part):
            try:
                part = _on_disk(place, place.stat().st_mtime_ns, nfc)[nfc(part)]
            except (OSError, KeyError):
                return path
        place = place / part
    return place


def nearest(root: Path, key: str) -> str | None:
    """Return the path of the file under `root` that `key` may stand for; None: there is none.

    Names may differ by case and by spaces around them, and folders be divided by backslashes.
    """
    place, found = root, list[str]()
    for part in key.replace("\\", "/").split("/"):
        name = part
        if not os.path.lexists(place / name):
            try:
                name = _on_disk(place, place.stat().st_mtime_ns, _loose)[_loose(part)]
            except (OSError, KeyError):
                return None
        place, found = place / name, [*found, name]
    return "/".join(found)


def _loose(name: str) -> str:
    return nfc(name).strip().casefold()


@lru_cache(maxsize=64)
def _on_disk(folder: Path, changed: int, form: Callable[[str], str]) -> dict[str, str]:
    """Return {form of a name: name on disk} of a folder as of its last change; of several, the first."""
    return {form(name): name for name in sorted((path.name for path in folder.iterdir()), reverse=True)}
