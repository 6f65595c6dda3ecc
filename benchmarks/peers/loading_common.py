"""What the loaders are measured with: epochs, processor time and memory of a process and its children."""

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.peers import common

CROP = 0.35
"""Smallest share of the area of a random crop, as in frostline's preset for photographs."""
INTERVAL = 0.2
"""Seconds between two readings of the memory."""


def settings() -> SimpleNamespace:
    return common.settings()


def measure(given: SimpleNamespace, epoch: Callable[[int], Iterable[Any]], files: Path, begun: float) -> None:
    """Run all epochs and one more with the files' pages evicted, and print the result.

    Args:
        epoch: number → its batches.
        files: the folder that an epoch reads.
        begun: when the first epoch's work began, by time.perf_counter.
    """
    memory = Memory()
    seconds = [_seconds(epoch(0), given.images, begun)]
    cpu = _cpu_seconds()
    for number in range(1, given.epochs):
        seconds.append(_seconds(epoch(number), given.images, time.perf_counter()))
    cpu = (_cpu_seconds() - cpu) / (given.images * (given.epochs - 1))
    evict(files)
    cold = _seconds(epoch(given.epochs), given.images, time.perf_counter())
    speeds = {
        "first": given.images / seconds[0],
        "later": given.images / statistics.median(seconds[1:]),
        "cold": given.images / cold,
    }
    peak = memory.stop()
    said = ", ".join(f"{name} {speed:.0f}" for name, speed in speeds.items())
    common.print_result(
        {
            **speeds,
            "seconds": sum(seconds),
            "epoch_seconds": seconds,
            "accuracy": None,
            "train_loss": None,
            "cpu_ms": 1000 * cpu,
            "tree_mib": peak,
            "chosen": f"images/s: {said}; {1000 * cpu:.1f} ms CPU per image; {peak:.0f} MiB",
        }
    )


def _seconds(batches: Iterable[Any], images: int, begun: float) -> float:
    seen = sum(len(inputs) for inputs, _ in batches)
    assert seen == images, f"{seen} of {images} images"
    return time.perf_counter() - begun


def evict(folder: Path) -> None:
    """Drop a folder's files from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _family() -> list[str]:
    """Return the ids of this process and its children."""
    own = str(os.getpid())
    children: list[str] = []
    for task in Path("/proc/self/task").glob("*/children"):
        children += task.read_text().split()
    return [own, *children]


def _cpu_seconds() -> float:
    total = 0
    for pid in _family():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


class Memory:
    """Reads the memory of this process and its children in a thread; shared pages count by their share."""

    def __init__(self) -> None:
        self.peak_kib, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Return the peak, MiB."""
        self._ended.set()
        self._thread.join()
        return self.peak_kib / 1024

    def _watch(self) -> None:
        while True:
            self.peak_kib = max(self.peak_kib, sum(map(rollup_kib, _family())))
            if self._ended.wait(INTERVAL):
                return


def rollup_kib(pid: str) -> int:
    """Return the proportional set size of a process, KiB; 0 if it has ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0)
