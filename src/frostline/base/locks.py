"""Locks between processes."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from frostline.console.errors import FrostlineError, ResourceLocked


@contextmanager
def exclusive(path: Path, otherwise: str | None = None) -> Iterator[None]:
    """Hold the lock file `path` during the block; the kernel lets go of it whatever becomes of the process.

    Args:
        path: the lock file; made if need be.
        otherwise: the error to raise where another process holds it; None waits.

    Raises:
        ResourceLocked: another process holds it.
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
            raise ResourceLocked(otherwise) from None
        yield
