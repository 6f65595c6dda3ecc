"""SIGINT, SIGTERM and SIGHUP: a command ends with one sentence and the status 128 + the signal's number.

Installed before anything else is imported. Needs nothing but the standard library.
"""

import atexit
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_SECONDS = 1.0
"""A second signal so soon is the same request: GNU timeout signals a process, then its group."""
GRACE_SECONDS = 10.0
"""A command that has not ended by then does so at once; whoever asked would kill it soon."""
SENTENCE = "frostline: interrupted; the same command resumes from its last checkpoint"
AT_THE_END = "frostline: interrupted while MLflow was being told; the results are complete"
SHOW_CURSOR = "\x1b[?25h"


class Interrupted(KeyboardInterrupt):
    """A signal asks the command to end; its text is the signal's name."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)


class _State:
    """Of this process, which has one set of signal handlers."""

    number: int | None = None
    """The first signal that came."""
    when = 0.0
    unwinds = False
    """Whether there is something to tidy up: the first signal raises `Interrupted`, else it ends at once."""
    said = False
    sentence = SENTENCE
    first: Callable[[], object] = staticmethod(lambda: None)
    """Called before `Interrupted` is raised."""


def install() -> None:
    """Handle the signals from now on; one that is ignored, as under nohup, stays so."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
    signal.signal(signal.SIGALRM, _out_of_patience)
    # Registered first, so called last: Python no longer handles signals once it takes itself down.
    atexit.register(signal.setitimer, signal.ITIMER_REAL, 0.0)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a signal raise `Interrupted` in the block: there is something to tidy up, or to record.

    Outside such blocks a command has begun nothing, and ends at once: an exception that is raised amid
    imports may be taken for that of a missing package.
    """
    before, _State.unwinds = _State.unwinds, True
    try:
        yield
    finally:
        _State.unwinds = before


@contextmanager
def before_interrupt(workers: Callable[[], object]) -> Iterator[None]:
    """Let a signal that comes in the block call `workers` before it raises: they have to be told first."""
    before, _State.first = _State.first, staticmethod(workers)
    try:
        yield
    finally:
        _State.first = staticmethod(before)


def received_signal() -> int | None:
    """Return the number of the first signal that asked this command to end."""
    return _State.number


def exit_status() -> int:
    """Say that the command was interrupted; return its exit status."""
    _say()
    return 128 + (_State.number or signal.SIGINT)


def mark_complete() -> None:
    """Note that the command is done: who interrupts it now only stops the wait for MLflow."""
    _State.sentence = AT_THE_END


def _handle(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _State.number is None:
        _State.number, _State.when = number, now
        if _State.unwinds:
            signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)
            _State.first()
            raise Interrupted(number)
    elif now - _State.when < SAME_SECONDS:
        return
    _exit()


def _out_of_patience(number: int, frame: FrameType | None) -> None:
    _exit()


def _exit() -> NoReturn:
    """End at once: without destructors, and without the handlers that wait for other processes."""
    os._exit(exit_status())


def _say() -> None:
    """Straight to standard error: the signal may have come amid a print."""
    if not _State.said:
        _State.said = True
        with suppress(OSError):
            cursor = SHOW_CURSOR if os.isatty(2) else ""
            os.write(2, f"{cursor}{_State.sentence}\n".encode())
