"""The journal of records for MLflow, which survives every process: see docs/mlflow.md.

A process that trains writes `.frostline/journal/<id>.journal` before anything is sent: one record a line,
after its CRC-32. `<id>.delivered` holds the position up to which MLflow has recorded it. The process that
writes a journal locks it, and the process that delivers it locks `<id>.delivered`; the kernel releases these
locks when a process ends in any way.
"""

import base64
import fcntl
import json
import os
import socket
import sys
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.base import project
from frostline.base.processes import process_key
from frostline.tracking import local_store
from frostline.training.services import Misclassified, RunInfo

if TYPE_CHECKING:
    from io import FileIO

JOURNAL, DELIVERED = ".journal", ".delivered"
OWN_STORE = "mlflow.db"
"""What a journal says for the project's own store: no path, so that the project can be moved."""


@dataclass(frozen=True)
class Record:
    """A record for MLflow."""

    at: int
    """When it happened, milliseconds since 1970."""
    run: int
    """The run's number in its journal; -1: the record is of no run of this journal."""
    what: str
    arguments: list[Any]


@dataclass(frozen=True)
class Header:
    """The first record of a journal: who writes it, and for which store."""

    process: str
    host: str
    store: str
    """`OWN_STORE`, or the address without passwords."""
    experiment: str


@dataclass(frozen=True)
class Pending:
    """A journal to deliver or to close: it has records that MLflow lacks, or its process has ended."""

    path: Path
    header: Header
    records: int
    live: bool
    """Whether its process still writes."""

    @property
    def for_this_store(self) -> bool:
        """Whether its records go to the store that this command uses."""
        return self.header.store == store_name()

    @property
    def command(self) -> str:
        """The command that delivers it."""
        if self.for_this_store:
            return "frostline sync"
        if self.header.store == OWN_STORE:
            return "env -u MLFLOW_TRACKING_URI frostline sync"
        return f"MLFLOW_TRACKING_URI={self.header.store} frostline sync"


def folder() -> Path:
    """Return the folder of this project's journals."""
    return project.scratch() / "journal"


def store_name() -> str:
    """Return this command's store as journals name it: `OWN_STORE`, or the URI without passwords."""
    own = local_store.database() == project.home() / project.DATABASE
    return OWN_STORE if own else project.store_uri_without_password()


class Journal:
    """A new journal, which this process writes until `close`.

    Raises:
        OSError: the journal can't be written.
    """

    def __init__(self) -> None:
        place = folder()
        place.mkdir(parents=True, exist_ok=True)
        self.path = place / f"{time.time_ns()}-{uuid.uuid4().hex[:12]}{JOURNAL}"
        header = Header(process_key(), socket.gethostname(), store_name(), project.experiment())
        # Under another name until it is locked: a journal without a lock counts as that of a dead process.
        new = self.path.with_suffix(".new")
        self._file = new.open("ab", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._unwritten = b""
        self._torn = False
        self.append(-1, "journal", vars(header))
        self.check()
        new.rename(self.path)

    @property
    def size(self) -> int:
        """The size in bytes."""
        return os.fstat(self._file.fileno()).st_size

    def append(self, run: int, what: str, *arguments: Any) -> None:
        """Add a record. If the disk is full, it is written with the next one."""
        line = line_of(run, what, arguments)
        try:
            _write(self._file, (b"\n" if self._torn else b"") + self._unwritten + line)
        except OSError:
            self._torn = True
            self._unwritten += line
        else:
            self._torn, self._unwritten = False, b""

    def check(self) -> None:
        """Write the records that could not be written before.

        Raises:
            OSError: they still can't be written.
        """
        if self._unwritten:
            _write(self._file, b"\n" + self._unwritten)
            self._torn, self._unwritten = False, b""

    def close(self) -> None:
        """Close the journal: no record follows."""
        self._file.close()


def line_of(run: int, what: str, arguments: Sequence[Any]) -> bytes:
    """Return a record of this moment as a line of a journal."""
    record = {"at": time.time_ns() // 1_000_000, "run": run, "what": what, "with": arguments}
    body = json.dumps(record, default=_plain, separators=(",", ":")).encode()
    return b"%08x %b\n" % (zlib.crc32(body), body)


def read(path: Path, start: int = 0) -> Iterator[tuple[int, Record | None]]:
    """Yield (the position after it, record) from a position on; a damaged record is None.

    An incomplete last line is not read.
    """
    try:
        stream = path.open("rb")
    except FileNotFoundError:  # all of it is delivered
        return
    with stream:
        stream.seek(start)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            start += len(line)
            if line != b"\n":
                yield start, _record(line)


def header_of(path: Path) -> Header | None:
    """Return a journal's header; None: it is damaged."""
    for _, record in read(path):
        if record and record.what == "journal":
            with suppress(TypeError):
                return Header(**record.arguments[0])
        break
    return None


def pending() -> list[Pending]:
    """Return the journals to deliver or to close, the oldest first."""
    return [journal for path in paths() if (journal := _pending(path))]


def is_any_ready() -> bool:
    """Return whether a process that ended has left records for this command's store."""
    return any(item.records and not item.live and item.for_this_store for item in pending())


def remove(path: Path) -> None:
    """Delete a journal that has no records, or whose records are all delivered."""
    path.unlink(missing_ok=True)
    path.with_suffix(DELIVERED).unlink(missing_ok=True)


def mine(owner: str | None = None) -> list[Path]:
    """Return the journals of the process with this name; None: of this process."""
    name = owner or process_key()
    return [path for path in paths() if (header := header_of(path)) and header.process == name]


def pending_sentence(reason: str) -> str | None:
    """Say how many records are pending for this command's store, and why; None: there are none."""
    count = sum(journal.records for journal in pending() if journal.for_this_store)
    if not count:
        return None
    where = project.store_uri_without_password()
    return (
        f"{count} records for MLflow at {where} wait in {folder()} ({reason}); "
        "`frostline sync` or the next command delivers them"
    )


def warn(sentence: str) -> None:
    """Print a warning on standard error."""
    print(f"frostline: warning: {sentence}", file=sys.stderr, flush=True)


def warn_pending(reason: str) -> None:
    """Warn about pending records, if there are any, and give the reason."""
    if sentence := pending_sentence(reason):
        warn(sentence)


def paths() -> list[Path]:
    """Return this project's journals, the oldest first."""
    return sorted(folder().glob(f"*{JOURNAL}"))


def environment_tags(path: Path) -> dict[str, str] | None:
    """Return the tags that describe a journal's machine and code; None: not recorded yet."""
    records = (record for _, record in read(path) if record and record.what == "surroundings")
    return next((dict(record.arguments[0]) for record in records), None)


def exists(place: str) -> bool:
    """Return whether the journal of a run's `place` still exists."""
    name = Path(place).parent.name
    return bool(name) and (folder() / f"{name}{JOURNAL}").exists()


def is_written(path: Path) -> bool:
    """Return whether the process that writes a journal still runs."""
    with suppress(FileNotFoundError), path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class Claim:
    """The exclusive right to deliver a journal, until `close`."""

    def __init__(self, path: Path, state: "FileIO") -> None:
        self.path, self._state = path, state
        text = state.read()
        self.position = int(text) if text.strip().isdigit() else 0

    def mark_delivered(self, position: int) -> None:
        """Store that MLflow has recorded everything before `position`."""
        if position != self.position:
            self.position = position
            with suppress(OSError):  # disk full: these records are delivered again
                os.pwrite(self._state.fileno(), b"%020d\n" % position, 0)

    def remove(self) -> None:
        """Delete the journal after all of it is recorded."""
        remove(self.path)

    def close(self) -> None:
        """Release the claim."""
        self._state.close()


def claim(path: Path) -> Claim | None:
    """Claim a journal; None: another process delivers it, or it has been delivered.

    Raises:
        OSError: the project can't be written.
    """
    state_path = path.with_suffix(DELIVERED)
    state_path.touch()
    state = state_path.open("r+b", buffering=0)  # open as long as the claim
    try:
        fcntl.flock(state, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        state.close()
        return None
    if path.exists():
        return Claim(path, state)
    state_path.unlink(missing_ok=True)
    state.close()
    return None


def add(path: Path, run: int, what: str, *arguments: Any) -> None:
    """Add a record to a journal that another process writes, such as a sample of the machine's load."""
    with suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND)  # a journal that was delivered is not created again
        with os.fdopen(handle, "ab", buffering=0) as stream:
            # One appending call: records of two processes don't mix.
            _write(stream, line_of(run, what, arguments))


def sync_to_disk(path: Path) -> None:
    """Write a journal to disk, so that it survives a power failure."""
    with suppress(OSError), path.open("rb") as stream:
        os.fsync(stream.fileno())


def _pending(path: Path) -> Pending | None:
    with suppress(OSError, ValueError):
        done = path.with_suffix(DELIVERED)
        start = int(done.read_text() or 0) if done.exists() else 0
        count = sum(1 for _, record in read(path, start) if record and record.what not in INTERNAL_RECORDS)
        header = header_of(path)
        live = is_written(path)
        if header and (count or not live):
            return Pending(path, header, count, live)
    return None


INTERNAL_RECORDS = ("journal", "surroundings")
"""Records about the journal itself, which are not delivered."""


def _write(stream: "FileIO", content: bytes) -> None:
    if stream.write(content) != len(content):
        raise OSError("no room")


def _record(line: bytes) -> Record | None:
    checksum, _, body = line.rstrip(b"\n").partition(b" ")
    with suppress(ValueError, KeyError, TypeError):
        if int(checksum, 16) == zlib.crc32(body):
            record = json.loads(body, object_hook=_from_plain)
            return Record(record["at"], record["run"], record["what"], record["with"])
    return None


def _plain(value: Any) -> Any:
    """Convert a value that JSON can't represent to one that it can."""
    import numpy as np

    match value:
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case RunInfo():
            return {"$run": vars(value)}
        case Misclassified():
            return {"$mistake": vars(value)}
        case np.ndarray():
            return {"$array": [str(value.dtype), value.shape, value.tobytes()]}
        case np.generic():
            return value.item()
        case Mapping():
            return dict(value)
        case tuple():
            return list(value)
    return str(value)


def _from_plain(value: dict[str, Any]) -> Any:
    import numpy as np

    match value:
        case {"$bytes": text}:
            return base64.b64decode(text)
        case {"$run": values}:
            return RunInfo(**values)
        case {"$mistake": values}:
            return Misclassified(**values)
        case {"$array": [dtype, shape, content]}:
            return np.frombuffer(content, dtype).reshape(shape)
    return value
