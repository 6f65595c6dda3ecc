"""The store of a study: SQLite, PostgreSQL or Optuna's journal file."""

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy

from frostline.base import project
from frostline.base.hashes import content_key
from frostline.base.locks import exclusive
from frostline.console.errors import FrostlineError, first_line

WAIT_SECONDS = 120.0
"""How long a process waits for others that write to an SQLite store; there may be many."""


@contextlib.contextmanager
def store_failures() -> Iterator[None]:
    """Turn a failure of a study's store, in the block or the decorated function, into one sentence."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        reason = first_line(error.__cause__ or error)
        raise FrostlineError(
            f"sweep.store: failed ({reason}); check that it can be reached and that no suspended"
            " process holds it; the same command then resumes the sweep"
        ) from None


def open_storage(store: str) -> Any:
    """Open the store at an address."""
    with _opening(store):
        if store.endswith(".journal"):
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend

            Path(store).parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(store))
        if not store.startswith(project.SQLITE):
            return optuna.storages.RDBStorage(store)
        Path(store.removeprefix(project.SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        return optuna.storages.RDBStorage(store, {"connect_args": {"timeout": WAIT_SECONDS}})


@contextlib.contextmanager
def locked(store: str) -> Iterator[None]:
    """Lock a store against this project's other processes, PostgreSQL against those of all machines."""
    key = content_key(store)
    with exclusive(project.scratch() / "locks" / f"sweep-{key[:16]}.lock"), contextlib.ExitStack() as stack:
        if store.startswith("postgresql"):
            with _opening(store):
                engine = sqlalchemy.create_engine(store, poolclass=sqlalchemy.NullPool)
                connection = stack.enter_context(engine.connect())
                # Held until the connection is closed.
                statement = sqlalchemy.text("SELECT pg_advisory_lock(:key)")
                connection.execute(statement, {"key": int(key[:15], 16)})
        yield


def corruption(path: Path) -> str | None:
    """Return what SQLite finds wrong with a file's content; None: nothing, or the file can't be read now."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=WAIT_SECONDS)) as connection:
            (result,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.OperationalError:
        return None
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if result == "ok" else " ".join(str(result).split())[:100]


@contextlib.contextmanager
def _opening(store: str) -> Iterator[None]:
    """Turn the reason why a store can't be opened into one sentence, without its password."""
    try:
        yield
    except Exception as error:
        reason = first_line(error)
        if isinstance(error, ImportError) and store.startswith("postgresql"):
            reason = "the package psycopg is missing; pip install 'psycopg[binary]'"
        shown = re.sub(r"(://[^:/@]+):[^@]*@", r"\1:…@", store)
        raise FrostlineError(f"sweep.store: {shown} can't be opened ({reason})") from None
