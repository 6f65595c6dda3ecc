"""Prefetching: a thread prepares the next batch during the current step.

Images are decoded once, so preparing a batch is to gather, augment and normalise it. Whether a thread makes
this faster depends on cores, disk and network. The first steps measure it; results don't depend on it.
"""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from torch import Tensor

T = TypeVar("T")

WARM_UP = 4
"""Steps before the measurement."""
TURN = 4
"""Consecutive steps measured one way; the first is ignored, since it still shows the other way."""
TURNS = 6
"""Number of turns; the ways alternate, so that a machine that slows down affects both."""
WORTH = 0.98
"""Prefetching is used if its step time is below this fraction of the other way's."""


class Prefetcher(Generic[T]):
    """Prepares batches on request or one step ahead, whichever is faster in the first steps.

    Args:
        prepare: (rows, step) → batch; depends on nothing else.
    """

    def __init__(self, prepare: Callable[[Tensor, int], T]) -> None:
        self.prepare = prepare
        self.chosen: bool | None = None
        """Whether batches are prepared ahead; None: still measuring."""
        self._pool: ThreadPoolExecutor | None = None
        self._coming: tuple[Tensor, int, Future[T]] | None = None
        self._marks: list[float] = []

    def batch(self, rows: Tensor, step: int, coming: Tensor | None) -> T:
        """Return the batch of a step.

        Args:
            rows: rows of its images.
            step: the optimizer step.
            coming: rows of the next step; None: not known yet.
        """
        ahead = self._turn()
        ready, self._coming = self._coming, None
        if ready and ready[0] is rows and ready[1] == step:
            batch = ready[2].result()
        else:
            batch = self.prepare(rows, step)
        if ahead and coming is not None:
            self._pool = self._pool or ThreadPoolExecutor(1, "prepares batches")
            self._coming = coming, step + 1, self._pool.submit(self.prepare, coming, step + 1)
        return batch

    def close(self) -> None:
        """End the thread."""
        self._coming = None
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _turn(self) -> bool:
        """Return whether to prepare the next batch ahead. Called once per step, which it times."""
        if self.chosen is not None:
            return self.chosen
        self._marks.append(time.perf_counter())
        measured = len(self._marks) - 1 - WARM_UP
        if measured == TURN * TURNS:
            times = [b - a for a, b in zip(self._marks, self._marks[1:], strict=False)][WARM_UP:]
            at_once, ahead = (
                statistics.median(t for i, t in enumerate(times) if i // TURN % 2 == way and i % TURN)
                for way in (0, 1)
            )
            self.chosen = ahead < WORTH * at_once
            return self.chosen
        return measured >= 0 and measured // TURN % 2 == 1
