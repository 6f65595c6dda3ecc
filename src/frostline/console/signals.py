"""SIGINT, SIGTERM and SIGHUP: a command ends with one sentence and the status 128 + the signal's number.

Installed before other imports; uses the standard library only.
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
"""SIGINTs within this time count as one: GNU timeout signals a process, then its group."""
GRACE_SECONDS = 10.0
"""Time for a command to clean up before it exits at once."""
SENTENCE = "frostline: interrupted"
FROM_CHECKPOINT = "resumes from its last checkpoint"
AT_THE_END = "frostline: interrupted at the end; the results are complete"
SHOW_CURSOR = "\x1b[?25h"


class Interrupted(KeyboardInterrupt):
    """The command was interrupted by a signal; the text is the signal's name."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)


class _State:
    """State of the process, which has one set of signal handlers."""

    number: int | None = None
    """The first signal."""
    when = 0.0
    unwinds = False
    """Whether the first signal raises `Interrupted`, for cleaning up; else the command exits at once."""
    said = False
    sentence = SENTENCE
    first: Callable[[], object] = staticmethod(lambda: None)
    """Called before `Interrupted` is raised."""


def install() -> None:
    """Install the handlers; signals that are ignored, as under nohup, stay ignored."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _handle)
    signal.signal(signal.SIGALRM, _out_of_patience)
    # No alarm may come during shutdown, when Python handles no signals. Registered first, so called last.
    atexit.register(signal.setitimer, signal.ITIMER_REAL, 0.0)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a signal raise `Interrupted` in the block, which has to clean up or to record.

    Outside such blocks a signal ends the command at once: an exception during imports may be mistaken for a
    missing package.
    """
    before, _State.unwinds = _State.unwinds, True
    try:
        yield
    finally:
        _State.unwinds = before


@contextmanager
def before_interrupt(action: Callable[[], object]) -> Iterator[None]:
    """Call `action` on a signal in the block before `Interrupted` is raised, such as to notify workers."""
    before, _State.first = _State.first, staticmethod(action)
    try:
        yield
    finally:
        _State.first = staticmethod(before)


def received_signal() -> int | None:
    """Return the number of the first signal received; None: none."""
    return _State.number


def exit_status() -> int:
    """Print that the command was interrupted; return its exit status."""
    _say()
    return 128 + (_State.number or signal.SIGINT)


def mark_resumable(how: str = FROM_CHECKPOINT) -> None:
    """Note that the same command will use what has been done, such as a checkpoint.

    Args:
        how: what the same command does, for the sentence that an interrupt prints.
    """
    _State.sentence = f"{SENTENCE}; the same command {how}"


def mark_complete() -> None:
    """Note that the results are complete: an interrupt now only ends the wait for MLflow."""
    _State.sentence = AT_THE_END


def _handle(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _State.number is None:
        _State.number, _State.when = number, now
        if _State.unwinds:
            signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)
            _State.first()
            raise Interrupted(number)
    elif number != signal.SIGINT or now - _State.when < SAME_SECONDS:
        return  # Schedulers repeat SIGTERM; only a second Ctrl-C ends it without cleaning up.
    _exit()


def _out_of_patience(number: int, frame: FrameType | None) -> None:
    _exit()


def _exit() -> NoReturn:
    """Exit at once, without destructors and without handlers that wait for other processes."""
    os._exit(exit_status())


def _say() -> None:
    """Write to the file descriptor: the signal may have interrupted a print."""
    if not _State.said:
        _State.said = True
        with suppress(OSError):
            cursor = SHOW_CURSOR if os.isatty(2) else ""
            os.write(2, f"{cursor}{_State.sentence}\n".encode())
