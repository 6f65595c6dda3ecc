"""Locks between processes."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from frostline.console.errors import FrostlineError, ResourceLocked


@contextmanager
def exclusive(path: Path, otherwise: str | None = None) -> Iterator[None]:
    """Hold the lock file `path` during the block; the kernel releases it if the process dies.

    Args:
        path: the lock file; created if it does not exist.
        otherwise: the error's text if another process holds it; None: wait.

    Raises:
        ResourceLocked: another process holds it.
        FrostlineError: it can't be created.
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
