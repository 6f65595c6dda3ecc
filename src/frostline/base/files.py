"""Atomic writes, checksums of cached folders, and cleaning up after killed processes."""

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from frostline.base.formats import canonical_json, parsed_json
from frostline.base.hashes import sha256_cached, sha256_of
from frostline.base.locks import exclusive
from frostline.console.errors import FrostlineError

CHECKSUMS = "checksums.json"
"""The file in a cached folder that maps each path in it to its sha256. DVC verifies outputs of stages."""
PARTIAL = ".tmp"
TEMPORARY = re.compile(rf"\.(?P<name>.+)\.[a-z0-9_]{{8}}(?P<file>{re.escape(PARTIAL)})?", re.DOTALL)
"""Names of temporary files and folders for the path `name`."""
AT_FDCWD, RENAME_EXCHANGE, RENAME_SWAP = -100, 2, 2


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically: a reader sees the old file or the new one."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: a temporary file beside it, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_temporary(path.parent, path.name)
    temporary = temporary_path(path, PARTIAL)
    try:
        with temporary.open("xb") as stream, _locked(temporary):
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)  # a message with the temporary file's name would not help
        raise
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path, suffix: str = "") -> Path:
    """Return a new path beside `path`; create it inside of the `try` whose `finally` removes it.

    The functions of `tempfile` create what they name: a signal before they return would leave it behind.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{suffix}")


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a hard link to `source`, or a copy where the file system has no hard links.

    Only for files that are replaced, not written in place, as all files of this module are.
    """
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


DAMAGED = ".damaged"
"""The suffix of a damaged file or folder that was set aside."""


def write_checksums(folder: Path) -> None:
    """Write the sha256 of every file below `folder` into it, as the last file, for `is_intact`."""
    sums = {path.relative_to(folder).as_posix(): sha256_of(path) for path in _checked_files(folder)}
    write_text(folder / CHECKSUMS, canonical_json(sums))


def is_intact(folder: Path) -> bool:
    """Return whether `folder` exists and its files match their checksums; a damaged one is set aside.

    Files are hashed whole, once per process while their sizes and times stay. Hold the folder's lock.
    """
    if not folder.is_dir():
        return False
    if why := _damage(folder):
        set_aside(folder, why)
        return False
    return True


def _damage(folder: Path) -> str | None:
    """Return which files differ from the checksums; None: none does."""
    try:
        expected = parsed_json((folder / CHECKSUMS).read_bytes())
    except (OSError, ValueError):
        expected = None
    if not isinstance(expected, dict) or not expected:
        return f"is damaged ({CHECKSUMS} is missing or unreadable)"
    actual = {path.relative_to(folder).as_posix(): sha256_cached(path) for path in _checked_files(folder)}
    differing = sorted(name for name in {*expected, *actual} if actual.get(name) != expected.get(name))
    return f"is damaged (the checksum differs: {', '.join(differing)})" if differing else None


def _checked_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)


def set_aside(path: Path, why: str) -> None:
    """Rename a damaged file or folder to `<name>.damaged` and print a warning.

    An older one of that name is replaced, so that repeated damage does not fill the disk. In a read-only
    folder the file stays, and the caller must not use it. Hold the file's lock.

    Args:
        path: the file or folder; without a warning if it no longer exists.
        why: what is wrong with it, to follow its name in the sentence.
    """
    aside = path.with_name(path.name + DAMAGED)
    try:
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside)
        if path.is_dir():
            aside.unlink(missing_ok=True)
        path.replace(aside)
        then = f"it was set aside as {aside.name} and is made again"
    except FileNotFoundError:
        return
    except OSError as error:
        then = f"it is not used, and can't be set aside ({error.strerror})"
    print(f"frostline: warning: {path} {why}; {then}", file=sys.stderr, flush=True)


def is_html(content: bytes) -> bool:
    """Return whether a file that begins with `content` is an HTML page, as failed downloads are."""
    start = content[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders, links followed; a link to a folder above is skipped."""
    above = {folder: {_identity(folder)}}
    for place, folders, names in os.walk(folder, followlinks=True):
        yield from (Path(place, name) for name in names)
        chain = above.pop(Path(place))
        for name in list(folders):
            inner = Path(place, name)
            if (identity := _identity(inner)) in chain:
                folders.remove(name)
            else:
                above[inner] = chain | {identity}


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return the device and inode of a folder, links followed; None: it has vanished."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def existing_part(path: Path) -> Path:
    """Return `path` if it exists, else the nearest folder above it that does."""
    return next((place for place in (path, *path.parents) if os.access(place, os.F_OK)), path)


def is_writable(folder: Path) -> bool:
    """Return whether files can be created in `folder`, or `folder` itself if it does not exist yet."""
    existing = existing_part(folder)
    effective = os.access in os.supports_effective_ids
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK, effective_ids=effective)


def remove_leftovers(folder: Path, locked_key: str | None = None) -> None:
    """Remove temporary files and folders of killed processes: `.<key>.…` in `folder`, beside `<key>.lock`.

    What another process is writing stays, since that process holds the lock.
    """
    for path in folder.glob(".*"):
        key, dot, _ = path.name[1:].partition(".")
        lock = folder / f"{key}.lock"
        if key == locked_key:
            _remove(path)
        elif dot and os.access(lock, os.F_OK):
            with suppress(FrostlineError), exclusive(lock, otherwise="being written"):
                _remove(path)


def _remove(path: Path) -> None:
    """Remove a file or a folder, as far as it can be."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def publish(out: Path, replaced: Collection[str] = ()) -> Iterator[Path]:
    """Yield an empty folder to fill; its files appear in `out` if the block succeeds.

    Files of `out` that the block did not write stay. Where the system supports it, both folders are exchanged
    by one rename, so that readers, and a killed process, see the old folder or the new one. The temporary
    folder is beside `out`, on the same file system.

    Args:
        replaced: names in `out` that are removed unless the block writes them.

    Raises:
        FrostlineError: `out` is a file, or can't be written.
    """
    if out.exists() and not out.is_dir():
        raise FrostlineError(f"out: {out} is a file; name a folder")
    if out.is_symlink() or not out.name:
        out = out.resolve()
    work = temporary_path(out)
    try:
        try:
            work.mkdir(parents=True)
        except OSError as error:
            raise FrostlineError(
                f"out: can't write into {out.parent} ({error.strerror}); name another folder"
            ) from None
        with _locked(work):
            yield work
            if not out.exists():
                work.replace(out)
            elif not _exchange_folders(work, out, replaced):
                _move_files(work, out, replaced)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _exchange_folders(work: Path, out: Path, replaced: Collection[str]) -> bool:
    """Replace `out` by `work` plus the files of `out` that stay, in one rename; False: nothing changed."""
    if Path.cwd().is_relative_to(out.resolve()):
        return False  # a shell in `out` would then be in a deleted folder
    try:
        for source in out.rglob("*"):
            name = source.relative_to(out)
            if source.is_dir() and not source.is_symlink():
                (work / name).mkdir(parents=True, exist_ok=True)
            elif str(name) not in replaced and not (work / name).exists():
                (work / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(source, work / name, follow_symlinks=False)
        return exchange(work, out)
    except OSError:  # no hard links, or no permission
        return False


def _move_files(work: Path, out: Path, replaced: Collection[str]) -> None:
    """Move the files of `work` into `out` one by one; after a kill, `out` is no finished run."""
    last = ("training.json", CHECKSUMS)
    sources = sorted(p for p in work.rglob("*") if p.is_file())
    for source in sources:
        if source.name in last:  # without it, the rest does not count as a finished run
            (out / source.relative_to(work)).unlink(missing_ok=True)
    for name in replaced:
        (out / name).unlink(missing_ok=True)
    for source in sorted(sources, key=lambda path: path.name in last):
        target = out / source.relative_to(work)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            source.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            write_bytes(target, source.read_bytes())  # `out` is another disk's root


def exchange(one: Path, other: Path) -> bool:
    """Exchange two paths of one file system atomically; False where the system can't."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(libc, "renameat2"):  # Linux
        return libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0
    if hasattr(libc, "renamex_np"):  # macOS
        return libc.renamex_np(*names, RENAME_SWAP) == 0
    return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock a temporary file or folder while it is in use; see `remove_temporary`."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # without locks in the file system, `remove_temporary` can't lock it either
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def remove_temporary(folder: Path, name: str | None = None) -> None:
    """Remove leftover files of killed processes, of `publish` and `write_bytes`, from `folder`.

    Args:
        folder: need not exist.
        name: only those for the path of this name; None: all.
    """
    with suppress(OSError):
        for path in list(folder.iterdir()):
            match = TEMPORARY.fullmatch(path.name)
            if match and name in (None, match["name"]) and bool(match["file"]) == path.is_file():
                _remove_if_unlocked(path)


def _remove_if_unlocked(path: Path) -> None:
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else a process is writing it
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        finally:
            os.close(handle)
