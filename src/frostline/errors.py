"""Errors that a user can cause: one sentence that names the key or file, what is allowed and the fix."""

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says of a full disk, a used-up quota and a file above the limit for one."""
NO_MEMORY = ("can't allocate memory", "out of memory")
"""What torch says, on a CPU and on a GPU."""


class FrostlineError(ValueError):
    """A mistake in a config, a file or a command; the command line prints its text alone and exits with 2."""


class TrainingFailed(FrostlineError):
    """Training itself broke down (a loss that is not a number, no memory, a full disk); exits with 3."""


class OutOfRoom(TrainingFailed):
    """Memory or the disk ran out: the same command may do better another time."""


class Busy(FrostlineError):
    """Another process is at it: the same command may do better another time."""


class Pruned(Exception):
    """A trial of a sweep ends before its time, since others were better by then; no error."""


class GateFailed(FrostlineError):
    """A result is below the bound that the experiment sets; exits with 4."""


def allowed(name: str, options: Iterable[str], *, limit: int = 20) -> str:
    """Say which of `options` are nearest to `name`, or list them all where they are few.

    Returns a clause to end a sentence with, such as ``did you mean 'adamw'? (allowed: adam, adamw, sgd)``.
    """
    names = sorted({str(option) for option in options})
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    guess = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    if not names:
        return "nothing is allowed here"
    if len(names) <= limit:
        listing = f"allowed: {', '.join(names)}"
        return f"{guess} ({listing})" if guess else listing
    return guess or f"{len(names)} names are allowed, such as {', '.join(names[:limit])}"


@contextmanager
def exhaustion() -> Iterator[None]:
    """Turn running out of memory or disk, in the block or the decorated function, into one sentence.

    Raises:
        OutOfRoom: that happened.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise OutOfRoom(
            f"the disk is full ({error.strerror}); make room and run the same command again: it goes on"
        ) from None
    except (MemoryError, RuntimeError) as error:
        # torch raises plain RuntimeErrors on a CPU and a class of its own, "CUDA out of memory", on a GPU.
        if not isinstance(error, MemoryError) and not any(text in str(error) for text in NO_MEMORY):
            raise
        raise OutOfRoom(
            "out of memory; close other programs, or lower trainer.batch_size or input.size, and run again"
        ) from None
