"""Batches made ready beside the training: the next one in a thread, while the current one trains.

Images are decoded once, so what is left of a step's preparation is to gather, augment and normalise a batch.
Whether a thread of its own helps depends on cores, disk and network: it is measured, and changes no result.
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
"""Steps in a row that are measured one way; the first of a turn still shows the way before."""
TURNS = 6
"""Each way in turn, so that a machine that gets slower slows both."""
WORTH = 0.98
"""The share of a step's time that preparing ahead has to stay below."""


class Ahead(Generic[T]):
    """Prepares batches, each when it is asked for or one ahead, whichever the first steps show to be faster.

    Args:
        prepare: makes the batch of some rows at a step; a function of both alone.
    """

    def __init__(self, prepare: Callable[[Tensor, int], T]) -> None:
        self.prepare = prepare
        self.chosen: bool | None = None
        """Whether batches are prepared ahead; None: the measurement is not over."""
        self._pool: ThreadPoolExecutor | None = None
        self._coming: tuple[Tensor, int, Future[T]] | None = None
        self._marks: list[float] = []

    def batch(self, rows: Tensor, step: int, coming: Tensor | None) -> T:
        """Return a step's batch.

        Args:
            rows: of its images.
            step: the optimizer step.
            coming: the rows of the next step; None: not known yet.
        """
        ahead = self._turn()
        ready, self._coming = self._coming, None
        if ready and ready[0] is rows and ready[1] == step:
            found = ready[2].result()
        else:
            found = self.prepare(rows, step)
        if ahead and coming is not None:
            self._pool = self._pool or ThreadPoolExecutor(1, "prepares batches")
            self._coming = coming, step + 1, self._pool.submit(self.prepare, coming, step + 1)
        return found

    def close(self) -> None:
        """Let the thread go."""
        self._coming = None
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _turn(self) -> bool:
        """Whether to prepare the next batch ahead; between two calls lies a whole step."""
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
