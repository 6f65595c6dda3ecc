"""The paths of a table's images: keys below its root, and what is meant by those that lead nowhere."""

import os
import re
import shlex
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from frostline.base.names import locate, nearest, nfc
from frostline.data.reading.bands import IMAGE_SUFFIXES
from frostline.data.reading.checks import name_fault, some
from frostline.data.reading.decode import BadImage, printable
from frostline.data.reading.walk import check_link

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True)
class TablePaths:
    """The folder that the paths of a table start from."""

    root: Path

    @cached_property
    def _absolute_roots(self) -> tuple[str, ...]:
        """The root as absolute paths may begin: as configured, and with links followed, in NFC."""
        configured = os.path.abspath(self.root)  # noqa: PTH100  # Path.resolve follows links
        return nfc(configured), nfc(os.path.realpath(self.root))

    def key(self, text: str) -> tuple[str, str]:
        """Return a path below the root in NFC, and the reason why it can't be used, or ''."""
        key = nfc(text).removeprefix("./")
        if fault := name_fault(key):
            return key, fault
        if ":" in key:
            if _URL.match(key):
                return key, "is an address: download the image, and give its path"
            if _DRIVE.match(key):
                return key, f"begins with a drive: give the path that starts from {self.root}"
        if key.startswith("~/"):
            key = Path(key).expanduser().as_posix()
        if "//" in key or "/./" in key or key.endswith("/"):
            key = PurePosixPath(key).as_posix()
        if key.startswith("/") or ".." in key:
            path = PurePosixPath(key)
            for root in self._absolute_roots:
                if ".." not in path.parts and path.is_relative_to(root):
                    return path.relative_to(root).as_posix(), ""
            if key.startswith("/") or ".." in path.parts:
                return key, f"is not below {self.root}: move it there, or set dataset.root"
        return key, ""

    def meant(self, key: str) -> str:
        """Return why an image is missing if its path is nearly that of a file, else ''."""
        found = nearest(self.root, key)
        return f"is missing, but {printable(found)!r} exists: write that" if found else ""

    def nothing_there(self, keys: Sequence[str]) -> str:
        """Return a sentence that says why none of the images exists."""
        key = keys[0]
        if self.root.is_file():
            return f"dataset.root={self.root} is a file: give the folder that the paths start from"
        if "\\" in key and os.path.lexists(self.root / key.replace("\\", "/")):
            fix = "write / between folders, not \\"
        elif found := nearest(self.root, key):
            fix = f"write {printable(found)!r}, as its name is"
        elif suffix := next(
            (end for end in sorted(IMAGE_SUFFIXES) if (self.root / f"{key}{end}").exists()), None
        ):
            fix = f"add {suffix} to the paths"
        elif folder := self._folder_with(key):
            fix = f"set {shlex.quote(f'dataset.root={folder}')}"
        else:
            fix = "set dataset.root to the folder that the paths start from"
        return f"none of its {len(keys)} images is in {self.root} ({some(keys)}): {fix}"

    def _folder_with(self, key: str) -> Path | None:
        """Return a folder in the root, or beside it, from which a path leads to a file."""
        for folder in (self.root, self.root.absolute().parent):
            near = sorted(folder.glob("*/")) if folder.is_dir() else []
            if found := next((place for place in near if os.path.lexists(place / key)), None):
                return found
        return None


class Links:
    """Refuses links that lead out of a data set, as `walk` does for folders."""

    def __init__(self, root: Path) -> None:
        self._root, self._real = root, Path(os.path.realpath(root))
        self._folders: dict[str, str] = {}

    def fault(self, key: str, mode: int) -> str:
        """Return why a file can't be used; '' if it can.

        Args:
            mode: of the file, links not followed.
        """
        folder = key.rpartition("/")[0]
        if folder not in self._folders:
            parents = reversed(PurePosixPath(folder).parents[:-1]) if folder else ()
            steps = [*(str(parent) for parent in parents), folder] if folder else []
            self._folders[folder] = next(filter(None, map(self._link_fault, steps)), "")
        if stat.S_ISLNK(mode):
            return self._folders[folder] or self._link_fault(key)
        return self._folders[folder]

    def _link_fault(self, key: str) -> str:
        try:
            check_link(locate(self._root, key), key, self._real)
        except BadImage as bad:
            return bad.reason
        return ""


def path_order(key: str) -> str:
    """Return a sort key that lists a folder's files before its subfolders, as `folder.scan` does."""
    folders, _, name = key.rpartition("/")
    return "".join(f"\x01{part}\x00" for part in folders.split("/") if part) + f"\x00{name}"
