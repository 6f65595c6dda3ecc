"""Prefetching: a thread prepares the next batch during the current step.

Images are decoded once, so preparing a batch is to gather, augment and normalize it.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from torch import Tensor

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Prepares each batch during the step before it.

    Args:
        prepare: (rows, step) → batch; depends on nothing else.
    """

    def __init__(self, prepare: Callable[[Tensor, int], T]) -> None:
        self.prepare = prepare
        self._pool = ThreadPoolExecutor(1, "prepares batches")
        self._coming: tuple[Tensor, int, Future[T]] | None = None

    def batch(self, rows: Tensor, step: int, coming: Tensor | None) -> T:
        """Return the batch of a step.

        Args:
            coming: rows of the next step; None: not known yet.
        """
        ready, self._coming = self._coming, None
        if ready and ready[0] is rows and ready[1] == step:
            batch = ready[2].result()
        else:
            batch = self.prepare(rows, step)
        if coming is not None:
            self._coming = coming, step + 1, self._pool.submit(self.prepare, coming, step + 1)
        return batch

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(cancel_futures=True)
