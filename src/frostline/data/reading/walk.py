"""List the image files below a folder, and record every file that is skipped or can't be used."""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from frostline.base.names import nfc
from frostline.data.reading.bands import IMAGE_SUFFIXES
from frostline.data.reading.checks import NAMED, name_fault, some, tally
from frostline.data.reading.decode import BadImage, printable, suffix, unreadable


class Problem(NamedTuple):
    """A file that can't be used; `reason` follows its name in a sentence."""

    key: str
    reason: str


@dataclass
class ScanLog:
    """Records what a walk skips and what it can't use."""

    root: Path
    """Root of the data set, with links resolved."""
    problems: list[Problem] = field(default_factory=list)
    hidden_folders: list[str] = field(default_factory=list)
    hidden_files: list[str] = field(default_factory=list)
    resource_forks: list[str] = field(default_factory=list)
    other_files: list[str] = field(default_factory=list)

    def warnings(self) -> Iterator[str]:
        """Yield one sentence per kind of skipped files."""
        for keys, singular, plural in (
            (self.hidden_folders, "hidden folder was", "hidden folders were"),
            (self.hidden_files, "hidden file was", "hidden files were"),
            (
                self.resource_forks,
                "macOS resource fork (._ file) was",
                "macOS resource forks (._ files) were",
            ),
            (
                self.other_files,
                "file whose name is not an image's was",
                "files whose names are not images' were",
            ),
        ):
            if keys:
                kinds = f" ({tally(keys)})" if keys is self.other_files and len(keys) > NAMED else ""
                what = singular if len(keys) == 1 else plural
                yield f"{len(keys)} {what} left out{kinds}: {some(sorted(keys))}"


_LITTER = frozenset(("__MACOSX", "@eaDir"))
"""Folders that macOS archives and network drives create; treated as hidden."""

Identity = tuple[int, int]
"""Device and inode, which identify a folder behind links."""


def walk(folder: Path, key: str, log: ScanLog, above: frozenset[Identity]) -> Iterator[str]:
    """Yield the keys, in NFC, of the images in a class folder and its subfolders."""
    try:
        own = identity(folder)
    except OSError as error:  # removed since it was listed
        log.problems.append(Problem(key, unreadable(folder, error)))
        return
    if own in above:
        log.problems.append(Problem(key, "is a link to a folder above it (a symlink loop): remove it"))
        return
    folders, images = list_folder(folder, key, log)
    for name in _apart(images, key, log):
        yield f"{key}/{nfc(name)}"
    for name in _apart(folders, key, log):
        yield from walk(folder / name, f"{key}/{nfc(name)}", log, above | {own})


def _apart(names: Iterable[str], key: str, log: ScanLog) -> Iterator[str]:
    """Yield distinct names; of names that differ only by their Unicode form, the first."""
    seen: set[str] = set()
    for name in names:
        if nfc(name) in seen:
            reason = "exists twice, under names that differ only by their Unicode form: rename one"
            log.problems.append(Problem(f"{key}/{nfc(name)}", reason))
        else:
            seen.add(nfc(name))
            yield name


def identity(folder: Path) -> Identity:
    """Return the device and inode of a folder, links followed."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def list_folder(folder: Path, key: str, log: ScanLog) -> tuple[list[str], list[str]]:
    """Return the sorted names of the folders and images in `folder`; record everything else in `log`."""
    folders: list[str] = []
    images: list[str] = []
    try:
        names = sorted((path.name for path in folder.iterdir()), key=lambda name: (nfc(name), name))
    except OSError as error:
        log.problems.append(Problem(key, unreadable(folder, error)))
        return folders, images
    for name in names:
        path = folder / name
        inner = f"{key}/{nfc(name)}" if key else nfc(name)
        try:
            if fault := name_fault(name):
                raise BadImage(inner, fault)
            if name.startswith("._"):
                log.resource_forks.append(inner)
            elif name.startswith(".") or name in _LITTER:
                (log.hidden_folders if path.is_dir() else log.hidden_files).append(inner)
            elif _is_folder(path, inner):
                check_link(path, inner, log.root)
                folders.append(name)
            elif is_image_name(name):
                check_link(path, inner, log.root)
                images.append(name)
            else:
                log.other_files.append(inner)
        except BadImage as bad:
            log.problems.append(Problem(printable(inner), bad.reason))
        except OSError as error:
            log.problems.append(Problem(inner, unreadable(path, error)))
    return folders, images


_STORED = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}|/\.git/annex/objects/")
"""Storage paths of DVC and git-annex, which replace files by links into them."""


def check_link(path: Path, key: str, root: Path) -> None:
    """Refuse a link out of the data set, since its target may be private."""
    if not path.is_symlink():
        return
    target = Path(os.path.realpath(path))
    if not target.is_relative_to(root) and not _STORED.search(str(target)):
        raise BadImage(
            key,
            f"is a link to {printable(str(path.readlink()))}, outside the data set: copy what it points to "
            "in its place",
        )


def is_image_name(name: str) -> bool:
    """Return whether a file of this name is meant as an image."""
    return suffix(name) in IMAGE_SUFFIXES


def _is_folder(path: Path, key: str) -> bool:
    """Return whether a path is a folder rather than a file, with links followed; refuse anything else."""
    mode = path.stat().st_mode
    if stat.S_ISREG(mode):
        return False
    if not stat.S_ISDIR(mode):
        kind = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}.get(stat.S_IFMT(mode), "device")
        raise BadImage(key, f"is a {kind}, not a file: remove it")
    if is_image_name(path.name):
        raise BadImage(key, "is a folder with an image's name: rename or remove it")
    return True
