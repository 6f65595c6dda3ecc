"""Processes: what they may use, which is which, and ending with the one that started us."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import PurePath

import psutil

CHECK_SECONDS = 1.0
"""How often a stage looks whether its DVC is still there."""
WORKERS_SECONDS = 5.0
"""How long interrupted workers may take to hand over their records."""
STAGE_PARENT = "FROSTLINE_STAGE_PARENT"
"""The variable in which `scripts/stage` notes the number of the process that started it."""
CLOCK_SECONDS = 5.0
"""The system may say a little later that a process started at a slightly different time."""

_workers = 1
"""Processes that share this machine's cores with this one, itself included."""


def process_key() -> str:
    """Return a name for this process that no other of this machine has or will have: ``pid@start``."""
    process = psutil.Process()
    return f"{process.pid}@{process.create_time():.2f}"


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores() -> int:
    """Return how many physical cores this process may use: two threads of one core share its arithmetic.

    Of several workers of a sweep, each may use its share: see `sharing_cores`.
    """
    physical = min(processors(), psutil.cpu_count(logical=False) or processors())
    return max(1, physical // _workers)


@contextmanager
def sharing_cores(workers: int) -> Iterator[None]:
    """Let `cores` return the share of one of so many processes, while the block runs."""
    global _workers
    before, _workers = _workers, workers
    try:
        yield
    finally:
        _workers = before


def process_is_alive(name: str) -> bool:
    """Say whether the process that `process_key` named is still there."""
    pid, _, started = name.partition("@")
    with suppress(psutil.Error, ValueError):
        process = psutil.Process(int(pid))
        return abs(process.create_time() - float(started)) < CLOCK_SECONDS and _is_running(process)
    return False


def interrupt_workers() -> None:
    """Send SIGTERM to the worker processes of this one, and wait until their recorders are done.

    A launcher that is interrupted kills workers and all that they started; records would stay at RUNNING.
    """
    workers = psutil.Process().children()
    recorders = [process for worker in workers for process in _children(worker)]
    for worker in workers:
        with suppress(psutil.Error):
            worker.terminate()
    psutil.wait_procs(recorders, WORKERS_SECONDS)


def _children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return process.children()
    return []


@cache
def end_with_dvc(end: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL)) -> None:
    """Call `end` when the `dvc` that started this process is gone, even before Python was up.

    Without one, do nothing. A killed `dvc repro` leaves its command running, and the next one would start a
    second beside it. Once a process is enough.
    """
    if "DVC_STAGE" not in os.environ:
        return
    dvc = next((parent for parent in psutil.Process().parents() if _is_dvc(parent)), None)
    if dvc is None:
        if _orphaned():
            end()
        return

    def watch() -> None:
        while _is_running(dvc):
            time.sleep(CHECK_SECONDS)
        end()

    threading.Thread(target=watch, name="ends with dvc", daemon=True).start()


def _orphaned() -> bool:
    """Whether the process that started `scripts/stage` is gone, so that the system's has taken its place."""
    noted = os.environ.get(STAGE_PARENT, "")
    if not noted.isdecimal():
        return False
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        parent = psutil.Process(int(noted))
        # Who adopts orphans, such as init, is of another session than DVC and what it starts.
        return not _is_running(parent) or parent.pid == 1 or os.getsid(parent.pid) != os.getsid(0)
    return True


def _is_dvc(process: psutil.Process) -> bool:
    """`dvc …`, `python /path/dvc …` or `python -m dvc …`; a shell that was given such a line is not."""
    with suppress(psutil.Error):
        return any(PurePath(word).name == "dvc" for word in process.cmdline()[:3])
    return False


def _is_running(process: psutil.Process) -> bool:
    """Whether it is there and no zombie: in a container often nobody collects what has died."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
