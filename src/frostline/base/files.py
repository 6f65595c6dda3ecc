"""Files whose bytes repeat: canonical JSON, CSV and YAML, hashes, folders published whole or not at all."""

import csv
import ctypes
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from frostline.base.yaml_guard import read_checked
from frostline.console.errors import Busy, FrostlineError

CHUNK = 1 << 20
SEAL = "checksums.json"
"""In a cached folder: path in it → sha256. Stages' outputs have none: DVC verifies them."""
PARTIAL = ".tmp"
TEMPORARY = re.compile(rf"\.(?P<name>.+)\.[a-z0-9_]{{8}}(?P<file>{re.escape(PARTIAL)})?", re.DOTALL)
"""Names of temporary folders, and of files, for the path `name`."""
AT_FDCWD, RENAME_EXCHANGE, RENAME_SWAP = -100, 2, 2
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")

AGAIN = "restore it, or run what makes it again"

_known: dict[tuple[Path, tuple[int, ...]], str] = {}  # The sha256 of files that this process has read.


def canonical_json(value: Any) -> str:
    """Return `value` as sorted, indented JSON that ends in a newline; NaN and infinities are refused."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def content_key(value: Any) -> str:
    """Return the sha256, in hex, of `value`'s canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode(errors="surrogatepass")).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the sha256 of the file at `path`, in hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def number(value: float) -> str:
    """Return `value` in the fewest digits that read back as the same double."""
    return repr(float(value))


def size(number: float) -> str:
    """Return bytes with three digits and a binary prefix: ``21.2 MiB``."""
    power = 0
    while number >= 999.5 and power < len(UNITS) - 1:
        number, power = number / 1024, power + 1
    return f"{number:.3g} {UNITS[power]}"


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    r"""Return a CSV with Unix line ends; None becomes an empty cell and floats the shortest exact form.

    Text that a spreadsheet would run as a formula, such as a class named ``=cmd()``, gets an apostrophe in
    front, which `read_csv` takes off again.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(cell) for cell in row])
    return stream.getvalue()


_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return number(value)
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def read_csv(path: Path, columns: Collection[str] = ()) -> list[dict[str, str]]:
    """Return the rows of the CSV at `path` as dictionaries of text.

    Args:
        path: the file's.
        columns: that it must have; others are read too.

    Raises:
        FrostlineError: it is not UTF-8, has no such columns, or a cell is larger than any that we write.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            there = reader.fieldnames or ()
            rows = [{key: _text(cell) for key, cell in row.items()} for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise FrostlineError(
            f"{path} can't be read ({error}), as if another program had saved it; {AGAIN}"
        ) from None
    if missing := [name for name in columns if name not in there]:
        raise FrostlineError(f"{path} has no column {missing[0]!r}, as if it had been edited; {AGAIN}")
    return rows


def _text(cell: Any) -> Any:
    """What `_cell` made a cell of."""
    return cell[1:] if isinstance(cell, str) and cell[:1] == "'" and _FORMULA.match(cell) else cell


def read_json(path: Path) -> Any:
    """Return the JSON at `path`.

    Raises:
        FrostlineError: it is missing or not JSON.
    """
    try:
        return parsed_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FrostlineError(
            f"{path} is missing: run the stage that makes it, or name another folder"
        ) from None
    except ValueError as error:
        raise FrostlineError(
            f"{path} is not valid JSON ({error}): run the stage that makes it again"
        ) from None


def parsed_json(text: str | bytes) -> Any:
    """Return what JSON of unknown origin says.

    Raises:
        ValueError: it is not JSON, or nested too deeply to read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def yaml_text(value: Any, *, flow: bool = False) -> str:
    """Return plain data as YAML in its own key order; `flow`: innermost lists and mappings on a line each."""
    import yaml

    _, dumper = _yaml_12()
    style = None if flow else False
    return str(
        yaml.dump(
            value, Dumper=dumper, sort_keys=False, allow_unicode=True, default_flow_style=style, width=100
        )
    )


def read_yaml(path: Path) -> Any:
    """Return what the YAML file at `path` holds.

    As OmegaConf reads `conf/`, and PyYAML alone does not: a key given twice is refused, 1e-5 is a number, and
    a date is text.

    Raises:
        FrostlineError: the file can't be read, or isn't YAML.
    """
    import yaml

    loader, _ = _yaml_12()
    text = read_checked(path)
    try:
        return yaml.load(text, loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise FrostlineError(yaml_mistake(error, str(path))) from None
    except ValueError as error:  # such as 0x_ and 2:99999999999999999999, which look like numbers
        raise FrostlineError(f"{path}: found what is no number ({error}); put it in quotes") from None


def yaml_mistake(error: Exception, name: str) -> str:
    """Say in a sentence what PyYAML found wrong in the file `name`."""
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}: " if mark else ""
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"{name}: {place}{problem}; mend the YAML"


@cache
def _yaml_12() -> tuple[Any, Any]:
    """A loader and a dumper that agree on what is a number."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            seen: set[tuple[str, str]] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if (key.tag, key.value) in seen:
                    raise yaml.composer.ComposerError(
                        None, None, f"found duplicate key {key.value}", key.start_mark
                    )
                seen.add((key.tag, key.value))
            return node

    class Dumper(yaml.SafeDumper):
        """Quotes text that the loader would take for a number."""

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    # PyYAML's YAML 1.1 wants a point and a sign: 1.0e-5, 1.0e+5.
    power = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
    for each in (Loader, Dumper):
        each.add_implicit_resolver("tag:yaml.org,2002:float", power, list("-+.0123456789"))
    return Loader, Dumper


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the new one, never a part."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: a temporary file beside it, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_temporary(path.parent, path.name)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    try:
        with os.fdopen(handle, "wb") as stream, _held(Path(temporary)):
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def share(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where the file system has no hard links.

    For files that are replaced, never written in place, as all of this module's are.
    """
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


DAMAGED = ".damaged"
"""What the name of a damaged file or folder that was set aside ends in."""


def seal(folder: Path) -> None:
    """Write the sha256 of every file below `folder` into it, for `sound` to compare; it comes last."""
    sums = {path.relative_to(folder).as_posix(): sha256_of(path) for path in _sealed(folder)}
    write_text(folder / SEAL, canonical_json(sums))


def sound(folder: Path) -> bool:
    """Say whether there is a sealed `folder` whose files are as they were; a damaged one is set aside.

    They are read whole, at the speed of sha256: once a process while their sizes and times stay. Call it with
    the folder's lock held.
    """
    if not folder.is_dir():
        return False
    if why := _flaw(folder):
        set_aside(folder, why)
        return False
    return True


def _flaw(folder: Path) -> str | None:
    """How the files below a folder differ from when it was sealed; None: they don't."""
    try:
        expected = parsed_json((folder / SEAL).read_bytes())
    except (OSError, ValueError):
        expected = None
    if not isinstance(expected, dict) or not expected:
        return f"is damaged ({SEAL} is missing or not as written)"
    found = {path.relative_to(folder).as_posix(): sha256_once(path) for path in _sealed(folder)}
    differing = sorted(name for name in {*expected, *found} if found.get(name) != expected.get(name))
    return f"is damaged ({', '.join(differing)}: not as written)" if differing else None


def sha256_once(path: Path) -> str:
    """Return a file's sha256, in hex; it is read again only when its size or times have changed."""
    known = path, identity(path)
    if known not in _known:
        _known[known] = sha256_of(path)
    return _known[known]


def identity(path: Path) -> tuple[int, ...]:
    """Return what changes when a file is replaced or written to: device, inode, times and size."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size


def _sealed(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)


def set_aside(path: Path, why: str) -> None:
    """Rename a damaged file or folder to `<name>.damaged` beside it, and warn once on stderr.

    An older one of that name is replaced, so that repeated damage does not fill the disk. Where the folder
    can't be written, the file stays, and the caller has to do without it. Call it with the file's lock held.

    Args:
        path: of the file or folder; one that is gone by now needs no warning.
        why: what is wrong with it; follows its name in the sentence.
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


def writable(folder: Path) -> bool:
    """Say whether files can be made in `folder`, or `folder` itself where it is not there yet."""
    there = next((each for each in (folder, *folder.absolute().parents) if os.access(each, os.F_OK)), folder)
    effective = os.access in os.supports_effective_ids
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK, effective_ids=effective)


def remove_leftovers(folder: Path, held: str | None = None) -> None:
    """Remove temporary files and folders of killed processes: `.<key>.…` in `folder`, beside `<key>.lock`.

    What another process is writing stays: it holds the lock.

    Args:
        folder: of files and their locks.
        held: the key whose lock the caller holds.
    """
    for path in folder.glob(".*"):
        key, dot, _ = path.name[1:].partition(".")
        lock = folder / f"{key}.lock"
        if key == held:
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
    """Give an empty folder to fill; when the block ends well, its files appear in `out`, else nothing does.

    Files of `out` that the block did not write again stay. A process that is killed leaves the folder as it
    was or as it will be, and so does one that reads meanwhile: where the system can, the two are exchanged by
    one rename. The folder lies beside `out`, on the same file system.

    Args:
        out: the folder.
        replaced: names in `out` that do not stay.

    Raises:
        FrostlineError: `out` is a file, or can't be written.
    """
    if out.exists() and not out.is_dir():
        raise FrostlineError(f"out: {out} is a file; name a folder")
    if out.is_symlink() or not out.name:
        out = out.resolve()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise FrostlineError(
            f"out: can't write into {out.parent} ({error.strerror}); name another folder"
        ) from None
    try:
        work.chmod(0o755)
        with _held(work):
            yield work
            if not out.exists():
                work.replace(out)
            elif not _exchanged(work, out, replaced):
                _moved(work, out, replaced)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _exchanged(work: Path, out: Path, replaced: Collection[str]) -> bool:
    """Whether `work`, with what stays of `out`, has taken its place by one rename; else nothing happened."""
    if Path.cwd().is_relative_to(out.resolve()):
        return False  # a shell in there would be left in a folder without a name
    try:
        for source in out.rglob("*"):
            name = source.relative_to(out)
            if source.is_dir() and not source.is_symlink():
                (work / name).mkdir(parents=True, exist_ok=True)
            elif str(name) not in replaced and not (work / name).exists():
                (work / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(source, work / name, follow_symlinks=False)
        return exchange(work, out)
    except OSError:  # no hard links there, or no right to
        return False


def _moved(work: Path, out: Path, replaced: Collection[str]) -> None:
    """Move the files of `work` into `out` one by one; a kill amid that leaves no finished run."""
    last = ("training.json", SEAL)
    sources = sorted(p for p in work.rglob("*") if p.is_file())
    for source in sources:
        if source.name in last:  # until it is there again, the rest is no finished run
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
    """Exchange two paths of one file system in one step; False where the system can't."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(libc, "renameat2"):  # Linux
        return libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0
    if hasattr(libc, "renamex_np"):  # macOS
        return libc.renamex_np(*names, RENAME_SWAP) == 0
    return False


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Mark a temporary file or folder as in use while this process lives; see `remove_temporary`."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: then nobody can lock it to remove it, either
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def remove_temporary(folder: Path, name: str | None = None) -> None:
    """Remove what `publish` and `write_bytes` of killed processes left in `folder`.

    Args:
        folder: need not exist.
        name: of the path that they were to become; None: of any.
    """
    with suppress(OSError):
        for path in list(folder.iterdir()):
            match = TEMPORARY.fullmatch(path.name)
            if match and name in (None, match["name"]) and bool(match["file"]) == path.is_file():
                _remove_if_left(path)


def _remove_if_left(path: Path) -> None:
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


@contextmanager
def exclusive(path: Path, otherwise: str | None = None) -> Iterator[None]:
    """Hold the lock file `path` during the block; the kernel lets go of it whatever becomes of the process.

    Args:
        path: the lock file; made if need be.
        otherwise: the error to raise where another process holds it; None waits.

    Raises:
        Busy: another process holds it.
        FrostlineError: it can't be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+")
    except OSError as error:
        raise FrostlineError(
            f"{path} can't be written ({error.strerror}); make its folder writable"
        ) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (fcntl.LOCK_NB if otherwise else 0))
        except BlockingIOError:
            raise Busy(otherwise) from None
        yield
