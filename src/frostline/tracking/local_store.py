"""The SQLite file of a project's MLflow store: its URI, its schema and its artifact paths.

MLflow stores absolute paths of artifacts, so in a project that was moved or copied they lead to the old
folder. They are translated when the store is read, and rewritten when it is written. Nothing here imports
mlflow, which takes seconds.
"""

import os
import re
import shlex
import sqlite3
import sys
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from frostline.base import project
from frostline.console.errors import allowed

ARTIFACTS = "mlartifacts"
"""The folder beside the database that holds the runs' files and the models."""
BUSY_SECONDS = 5.0
"""How long a check waits for a process that writes."""
URI = re.compile(r"sqlite(?:\+pysqlite)?:///([^?]+)(?:\?.*)?")
PATHS = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
"""Table → the columns in which MLflow stores absolute paths."""


BEST, LAST = "best", "last"
"""Words for a run: the best of the study or sweep that ran last, and the newest finished one."""


@dataclass(frozen=True)
class Names:
    """The names in an experiment."""

    runs: frozenset[str]
    """Of all runs."""
    usable: frozenset[str]
    """Those that a word may mean: of runs that made weights, and of studies; `BEST` and `LAST`."""
    studies: frozenset[str]
    """Of studies and sweeps."""


@dataclass(frozen=True)
class Problem:
    """Why a store can't be used, and how to fix it."""

    reason: str
    fix: str


@dataclass(frozen=True)
class Experiment:
    """An MLflow experiment."""

    id: int
    stage: str
    """active or deleted."""


def database(uri: str | None = None) -> Path | None:
    """Return the file of an SQLite store, by default the project's; None: the store is not an SQLite file."""
    match = URI.fullmatch(uri or project.store_uri())
    if match is None or match[1] == ":memory:":
        return None
    path = unquote(match[1])  # as SQLAlchemy does
    if path.startswith("file:"):  # … and then SQLite
        path = unquote(path.removeprefix("file:").partition("?")[0])
    return Path(path).resolve()


def address(path: Path, *, read_only: bool = False) -> str:
    """Return the URI by which MLflow opens the SQLite file at `path`; `read_only`: it never writes to it."""
    if read_only:
        return f"sqlite+pysqlite:///file:{quote(quote(str(path)))}?mode=ro&uri=true"
    return project.sqlite_uri(path)


def readable(path: Path) -> str:
    """Return the URI by which MLflow reads the SQLite file at `path` without write permission.

    After a writer was killed, the file has a journal that the next process has to roll back; then the URI
    allows writing.
    """
    journal = any(path.with_name(f"{path.name}-{end}").exists() for end in ("journal", "wal"))
    return address(path, read_only=not (journal and os.access(path.parent, os.W_OK)))


def artifacts_uri(path: Path) -> str:
    """Return the URI of the folder for the artifacts of the store at `path`."""
    return (path.parent / ARTIFACTS).as_uri()


# ── a project that was moved or copied ──────────────────────────────────────────────────────────────────────


def moved_from(path: Path) -> list[str]:
    """Return the URIs of the folders in which the store at `path` lay before it was moved or copied here.

    MLflow's experiments name the folder of their artifacts, which frostline puts beside the store.
    """
    try:
        with closing(_opened(path)) as connection:
            rows = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    except sqlite3.Error:
        return []
    end = f"/{ARTIFACTS}"
    uris = [uri for (uri,) in rows if uri and uri.startswith("file:") and uri.endswith(end)]
    roots = [uri.removesuffix(end) for uri in uris]
    return [root for root in roots if _is_old(folder_of(root), path)]


def here(uri: str, path: Path) -> str:
    """Return an artifact URI of the store at `path` with the project's current folder."""
    for root in moved_from(path):
        if uri.startswith(f"{root}/"):
            return path.parent.as_uri() + uri.removeprefix(root)
    return uri


def follow(path: Path) -> None:
    """Rewrite the paths in the store at `path` in one transaction if it was moved or copied here; say so.

    The caller holds the store's lock.
    """
    if old := moved_from(path):
        _rewrite(path, old, path.parent)
        _say_moved(old, f"the paths in its MLflow store now lead to {path.parent}")


def note_move(path: Path) -> None:
    """Say that the store at `path`, which is only read, was moved or copied here."""
    if old := moved_from(path):
        _say_moved(old, "the next command that records updates the paths in its MLflow store")


def _say_moved(old: list[str], then: str) -> None:
    text = f"this project was moved or copied from {folder_of(old[0])}; {then}"
    print(f"frostline: {text}", file=sys.stderr, flush=True)


def copied(path: Path, folder: Path) -> Path:
    """Copy the store at `path`, which was moved here, into `folder`, and update the copy's paths."""
    copy = folder / path.name
    with closing(_opened(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    _rewrite(copy, moved_from(path), path.parent)
    return copy


def _rewrite(path: Path, old: list[str], now: Path) -> None:
    """Replace the folders `old` (URIs) by the folder `now` in the paths of the store at `path`."""
    with closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection, connection:
        connection.execute("BEGIN IMMEDIATE")
        for root in old:
            # MLflow's default experiment has a plain path.
            for before, after in ((root, now.as_uri()), (str(folder_of(root)), str(now))):
                for table, columns in PATHS.items():
                    for column in columns:
                        connection.execute(
                            f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                            f" WHERE substr({column}, 1, ?) = ?",
                            (f"{after}/", len(before) + 2, len(before) + 1, f"{before}/"),
                        )


def _is_old(root: Path, path: Path) -> bool:
    """Whether the store at `path` was in the folder `root`, which it names, before.

    With an explicit MLFLOW_TRACKING_URI, the file may be outside of the project whose runs it has.
    """
    here = path.parent
    if root == here or (root.exists() and here.exists() and root.samefile(here)):
        return False
    own = path == project.home() / project.DATABASE
    copied = (root / path.name).exists()
    return own or copied or (here / ARTIFACTS).is_dir() or not (root / ARTIFACTS).is_dir()


def folder_of(uri: str) -> Path:
    """Return the folder that a file: URI names."""
    return Path(unquote(urlsplit(uri).path))


# ── what a store has to be ──────────────────────────────────────────────────────────────────────────────────


def remove_journals(path: Path) -> None:
    """Remove the files of unfinished transactions that SQLite may have left beside the file at `path`."""
    for ending in ("-journal", "-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def is_empty(path: Path) -> bool:
    """Return whether there is no store at `path` yet; the next run creates it."""
    return not path.exists() or path.stat().st_size == 0


def problem(path: Path) -> Problem | None:
    """Return why MLflow can't read the store at `path`; None: it can, or there is no store yet."""
    aside = f"mv {_shell(path)} {_shell(path.with_name(f'{path.name}.aside'))}"
    try:
        if path.is_dir():
            return Problem("is a folder, not a file", f"move it aside: {aside}")
        if is_empty(path):
            return None
        with closing(_opened(path)) as connection:
            if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                return Problem("is damaged", f"restore a copy of it, or move it aside: {aside}")
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if not {"alembic_version", "experiments", "runs"} <= tables:
                return Problem(
                    "is no MLflow store: it has tables of another program", f"move it aside: {aside}"
                )
            (version,) = connection.execute("SELECT version_num FROM alembic_version").fetchone() or ("none",)
    except PermissionError:
        return Problem("may not be read", f"have its owner run: chmod a+r {_shell(path)}")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            return _locked(path)
        return Problem(f"can't be opened ({error})", f"have its owner run: chmod a+r {_shell(path)}")
    except sqlite3.DatabaseError as error:
        return Problem(f"is damaged ({error})", f"restore a copy of it, or move it aside: {aside}")
    known, newest = _schemas()
    if version == newest or not newest:
        return None
    if version in known:
        keep = f"cp {_shell(path)} {_shell(path.with_name(f'{path.name}.backup'))}"
        upgrade = f"{_shell(sys.executable)} -m mlflow db upgrade {_shell(address(path))}"
        return Problem(
            f"has the schema {version} of an older MLflow",
            f"upgrade it: {keep} && {upgrade}; should that fail, move it aside: {aside}",
        )
    return Problem(
        f"has the schema {version}, which the installed MLflow does not know: a newer one made it",
        f"install the MLflow that made it, or move it aside: {aside}",
    )


def unwritable(path: Path) -> Problem | None:
    """Return why the store at `path` can't be written, checked with a transaction that is rolled back."""
    folder = path.parent
    lock = path.with_name(f"{path.name}.lock")
    for needed in (path, lock, folder / ARTIFACTS, folder):
        if needed.exists() and not os.access(needed, os.W_OK | (os.X_OK if needed.is_dir() else 0)):
            return Problem(
                f"can't be recorded in: {needed} may not be written",
                f"{how_to_write(needed)}; to record elsewhere:"
                " export MLFLOW_TRACKING_URI=sqlite:////path/to/a/folder/of/yours/mlflow.db",
            )
    if is_empty(path):
        return None
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("CREATE TABLE frostline_check (a)")
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            return _locked(path)
        return Problem(f"can't be written to ({error})", f"make room on the disk of {folder}")
    return None


def experiment(path: Path, name: str) -> Experiment | None:
    """Return the experiment `name` of the store at `path`; None: there is none."""
    with closing(_opened(path)) as connection:
        query = "SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = ?"
        row = connection.execute(query, (name,)).fetchone()
    return Experiment(*row) if row else None


def names(path: Path, experiment: str) -> Names | None:
    """Return the names in an experiment of the store at `path`; None: it can't be read."""
    query = (
        "SELECT runs.name, runs.run_uuid, tags.key, tags.value FROM runs"
        " JOIN experiments USING (experiment_id) LEFT JOIN tags"
        " ON tags.run_uuid = runs.run_uuid AND tags.key IN ('stage', 'study', 'weights.sha256')"
        " WHERE experiments.name = ? AND runs.lifecycle_stage = 'active'"
    )
    try:
        with closing(_opened(path)) as connection:
            rows = connection.execute(query, (experiment,)).fetchall()
    except sqlite3.Error:
        return None
    tags: dict[tuple[str, str], dict[str, str]] = {}
    for name, run_id, key, value in rows:
        tags.setdefault((name or "", run_id), {})[key] = value
    usable = {name for (name, _), own in tags.items() if "weights.sha256" in own}
    studies = {own.get("study", name) for (name, _), own in tags.items() if own.get("stage") == "study"}
    every = frozenset(name for name, _ in tags)
    return Names(every, frozenset({*usable, *studies, BEST, LAST}), frozenset(studies))


def no_such_name(text: str, usable: Collection[str]) -> str:
    """Return a sentence: the store has nothing called `text`; names of `usable` would do."""
    where = project.store_uri_without_password()
    return f"{text}: no folder, and no id or name of a run at {where}; {allowed(text, usable)}"


def runs(path: Path) -> int:
    """Return the number of runs in the store at `path`."""
    with closing(_opened(path)) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM runs").fetchone()[0])


def how_to_write(path: Path) -> str:
    """Return how to make an existing file or folder writable for this user."""
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return "its file system is mounted read-only: copy the project to another"
    option = "-R " if path.is_dir() else ""
    if path.stat().st_uid == os.geteuid():
        return f"chmod {option}u+w {_shell(path)}"
    return f"have its owner, {_owner(path)}, run: chmod {option}a+w {_shell(path)}"


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:
        return f"user {path.stat().st_uid}"


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)


@cache
def _schemas() -> tuple[frozenset[str], str]:
    """Return the schemas that the installed MLflow knows, and the newest: the one that no other revises."""
    spec = find_spec("mlflow")
    folder = Path(next(iter(spec.submodule_search_locations or []), "")) if spec else Path()
    revisions, before = set(), set()
    for file in folder.glob("store/db_migrations/versions/*.py"):
        text = file.read_text(encoding="utf-8")
        revisions |= set(re.findall(r"^revision(?:: str)? = ['\"](\w+)['\"]", text, re.MULTILINE))
        for line in re.findall(r"^down_revision.*", text, re.MULTILINE):
            before |= set(re.findall(r"['\"](\w+)['\"]", line))
    newest = revisions - before
    return frozenset(revisions), newest.pop() if len(newest) == 1 else ""


def _locked(path: Path) -> Problem:
    return Problem(f"is locked by another process{_holders(path)}", "wait for that process, or end it")


def _holders(path: Path) -> str:
    """Return the processes that have the file open, as far as the system tells."""
    import psutil

    def holders() -> Iterator[str]:
        for process in psutil.process_iter(["pid", "name"]):
            try:
                if process.pid != os.getpid() and any(f.path == str(path) for f in process.open_files()):
                    yield f"{process.info['name']}, pid {process.pid}"
            except psutil.Error:
                continue

    names = list(holders())
    return f" ({'; '.join(names[:4])})" if names else ""


def _shell(word: object) -> str:
    return shlex.quote(str(word))
