"""Processes: the cores they may use, keys that identify them, and ending with the parent."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import PurePath

import psutil

CHECK_SECONDS = 1.0
"""Interval at which a stage checks that its DVC process is alive."""
WORKERS_SECONDS = 5.0
"""Time for interrupted workers to finish recording."""
STAGE_PARENT = "FROSTLINE_STAGE_PARENT"
"""The variable in which `scripts/stage` stores the pid of its parent."""
FORCE = re.compile(r"--force.*|-[a-zA-Z]*f[a-zA-Z]*")
"""DVC's option, also with others in one word, as in ``-fs``; not ``-Sfreeze=full``."""
CLOCK_SECONDS = 5.0
"""Tolerance for start times, which the system does not report exactly."""

_started = os.times(), psutil.cpu_times()
_workers = 1
"""Number of processes that share this machine's cores, this one included."""


def process_key() -> str:
    """Return a key of this process that is unique on this machine: ``pid@start``."""
    process = psutil.Process()
    return f"{process.pid}@{process.create_time():.2f}"


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores() -> int:
    """Return how many physical cores this process may use; hyper-threads share arithmetic units.

    Each of several workers of a sweep may use its share: see `sharing_cores`.
    """
    physical = min(processors(), psutil.cpu_count(logical=False) or processors())
    return max(1, physical // _workers)


def used_by_others() -> float:
    """Return how many processors other processes have used on average since this module was imported.

    Children of this process that still run count as others.
    """
    (own, all_), (own_before, all_before) = (os.times(), psutil.cpu_times()), _started
    busy = sum(getattr(all_, kind) - getattr(all_before, kind) for kind in ("user", "nice", "system"))
    busy -= sum(own[:4]) - sum(own_before[:4])
    return max(0.0, busy / max(own.elapsed - own_before.elapsed, 1.0))


@contextmanager
def sharing_cores(workers: int) -> Iterator[None]:
    """Divide `cores` by the number of `workers` during the block."""
    global _workers
    before, _workers = _workers, workers
    try:
        yield
    finally:
        _workers = before


def process_is_alive(name: str) -> bool:
    """Return whether the process of a `process_key` is still alive."""
    pid, _, started = name.partition("@")
    with suppress(psutil.Error, ValueError):
        process = psutil.Process(int(pid))
        return abs(process.create_time() - float(started)) < CLOCK_SECONDS and _is_running(process)
    return False


def interrupt_workers() -> None:
    """Send SIGTERM to the worker processes and wait until their recorders are done.

    An interrupted launcher kills workers and their children, which would leave runs in the state RUNNING.
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
    """Call `end` when the `dvc` that started this process has ended, even before Python started.

    Without such a `dvc`, do nothing. A killed `dvc repro` leaves its command running, and the next one would
    start a second process on the same outputs. Later calls do nothing.
    """
    if "DVC_STAGE" not in os.environ:
        return
    dvc = _parent_dvc()
    if dvc is None:
        if _orphaned():
            end()
        return

    def watch() -> None:
        while _is_running(dvc):
            time.sleep(CHECK_SECONDS)
        end()

    threading.Thread(target=watch, name="ends with dvc", daemon=True).start()


def forced_by_dvc() -> bool:
    """Return whether this process runs a stage of `dvc repro --force`, or of `dvc exp run --force`."""
    dvc = _parent_dvc() if "DVC_STAGE" in os.environ else None
    with suppress(psutil.Error):
        return dvc is not None and any(map(FORCE.fullmatch, dvc.cmdline()))
    return False


def _parent_dvc() -> psutil.Process | None:
    """Return the `dvc` that started this process."""
    return next((parent for parent in psutil.Process().parents() if _is_dvc(parent)), None)


def _orphaned() -> bool:
    """Return whether the parent of `scripts/stage` has ended, so that init has adopted it."""
    noted = os.environ.get(STAGE_PARENT, "")
    if not noted.isdecimal():
        return False
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        parent = psutil.Process(int(noted))
        # init, which adopts orphans, belongs to another session than DVC and its children.
        return not _is_running(parent) or parent.pid == 1 or os.getsid(parent.pid) != os.getsid(0)
    return True


def _is_dvc(process: psutil.Process) -> bool:
    """Match `dvc …`, `python /path/dvc …` and `python -m dvc …`, but no shell with such a command line."""
    with suppress(psutil.Error):
        return any(PurePath(word).name == "dvc" for word in process.cmdline()[:3])
    return False


def _is_running(process: psutil.Process) -> bool:
    """Return whether a process runs and is no zombie; containers often don't reap zombies."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
