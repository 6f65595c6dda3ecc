"""Errors that a user can cause: one sentence that names the key or file, what is allowed and the fix."""

import difflib
import errno
import re
import resource
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from frostline.console.units import size

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers for a full disk, an exceeded quota and an exceeded file size limit."""
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
"""NumPy's message for an array that is not written whole."""
NO_MEMORY = (
    *("can't allocate memory", "cannot allocate memory", "out of memory", "bad_alloc"),
    *("failed to map segment", "can't start new thread"),
)
"""Texts of errors of torch, the dynamic loader and Python, in lower case."""
LONGEST_WORD = 500
"""Longest word that an error repeats in full; paths are seldom longer."""
NAMED = 3
"""Most names that an error proposes."""


class FrostlineError(ValueError):
    """An error in a config, a file or a command; the command line prints only its text and exits with 2."""


class TrainingFailed(FrostlineError):
    """Training failed (loss not finite, out of memory, full disk); the command exits with 3."""


class OutOfResources(TrainingFailed):
    """Memory or disk space ran out: running the same command again may succeed."""


class ResourceLocked(FrostlineError):
    """The resource is locked by another process: running the same command again may succeed."""


class Pruned(Exception):
    """A trial of a sweep was pruned; no error."""


class GateFailed(FrostlineError):
    """A result is below the bound of the experiment's gate; the command exits with 4."""


def allowed(name: str, options: Iterable[str], *, near: Sequence[str] | None = None, limit: int = 20) -> str:
    """Return the `options` nearest to `name`, and the list of all if they are few.

    The clause ends a sentence, such as ``did you mean 'adamw'? (allowed: adam, adamw, sgd)``.

    Args:
        near: those to propose; None: those that are spelled alike.
    """
    names = sorted({str(option) for option in options})
    if near is None:
        alike = (difflib.get_close_matches(text, names, n=NAMED) for text in (name, name.lower()))
        near = next(filter(None, alike), [])
    guess = f"did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    if not names:
        return "nothing is allowed here"
    if len(names) <= limit:
        listing = f"allowed: {', '.join(names)}"
        return f"{guess} ({listing})" if guess else listing
    if containing := [text for text in names if name and name.lower() in text.lower()][:NAMED]:
        guess = guess or f"did you mean {' or '.join(map(repr, containing))}?"
    return guess or f"{len(names)} names are allowed, such as {', '.join(names[:limit])}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, 200 characters at most, or the name of its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def shorten_words(sentence: str) -> str:
    """Return an error's sentence with very long words shortened."""
    return re.sub(rf"\S{{{LONGEST_WORD},}}", lambda m: f"{m[0][:60]}… ({len(m[0]):,} characters)", sentence)


@contextmanager
def resource_errors(
    doing: str = "", lower: Sequence[str] = ("trainer.batch_size", "input.size")
) -> Iterator[None]:
    """Convert errors of exhausted memory or disk, in the block or decorated function, into one sentence.

    Args:
        doing: what the block does, such as ``training``.
        lower: the config keys that reduce its memory.

    Raises:
        OutOfResources: memory or disk space ran out.
    """
    try:
        yield
    except (OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, OSError) and is_full_disk(error):
            raise _no_room(error) from None
        if not is_out_of_memory(error):
            raise
        advice = f"close other programs, or lower {' or '.join(lower)}, and run again"
        raise OutOfResources(f"{memory_sentence(error, doing)}; {advice}") from None


@contextmanager
def full_disk(folder: Path, need: str, advice: str) -> Iterator[None]:
    """Convert the error of a full disk, in the block, into a sentence that says how much space is needed.

    Args:
        need: what needs how much, such as ``the features need 3 MiB``.
        advice: how to make room, such as ``make room (frostline cache clear), and run again``.

    Raises:
        OutOfResources: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise OutOfResources(f"{folder}: the disk is full; {need} there: {advice}") from None


def system_error(error: OSError) -> FrostlineError:
    """Return an error of the operating system as one sentence."""
    where = f"{error.filename}: " if error.filename else ""
    if is_full_disk(error):
        return _no_room(error, where)
    return FrostlineError(f"{where}{error.strerror or error}; fix that and run again")


def _no_room(error: OSError, where: str = "") -> OutOfResources:
    why = error.strerror or "an array was not written whole"
    return OutOfResources(f"{where}the disk is full ({why}); make room and run the same command again")


def is_full_disk(error: OSError) -> bool:
    """Return whether an error means that a disk, a quota or a file is full."""
    # NumPy tells of a write that ended early without an error number.
    return error.errno in NO_ROOM or SHORT_WRITE.fullmatch(str(error)) is not None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, for an array, a library or a thread."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    # torch raises plain RuntimeErrors on a CPU and a class of its own, "CUDA out of memory", on a GPU.
    return any(text in str(error).lower() for text in NO_MEMORY)


TORCH_ADDRESSES = 7 << 29
"""The least address space, in bytes, in which torch can be imported."""


def memory_sentence(error: BaseException, doing: str = "") -> str:
    """Return a sentence with the amount that was needed, if known, and the limit of the process, if any."""
    match = re.search(r"(?:allocate|mmap) (\d+) bytes|allocate (\d[\d.]*) ?([KMGT]i?B)", str(error))
    amount = ""
    if match:
        amount = f" needed {size(int(match[1]))} more" if match[1] else f" needed {match[2]} {match[3]} more"
    elif "thread" in str(error):
        amount = " needed another thread"
    what = f": {doing or 'the command'}{amount}" if doing or amount else ""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    limited = "" if limit == resource.RLIM_INFINITY else f" (ulimit -v allows the process {size(limit)})"
    return f"out of memory{what}{limited}"


def check_addresses() -> None:
    """Refuse a limit of the address space under which importing torch aborts the process without an error.

    Raises:
        FrostlineError: the limit is below `TORCH_ADDRESSES`.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < TORCH_ADDRESSES:
        raise FrostlineError(import_sentence(ImportError("cannot allocate memory")))


def import_sentence(error: ImportError) -> str:
    """Return a sentence: which package can't be imported, why, and how to install it."""
    reason = first_line(error)
    if is_out_of_memory(error):
        return (
            f"{memory_sentence(error, 'importing packages')}; close other programs, or raise the limit: torch"
            f" alone needs 4 GiB of address space ({reason})"
        )
    name = (error.name or "").partition(".")[0]
    return (
        f"{name or 'a package'} can't be imported ({reason}); install the packages again: scripts/setup in a"
        " clone, or pip install --force-reinstall frostline"
    )
