"""Work on many files in threads: Pillow and hashlib release the interpreter lock."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from frostline.base.processes import processors

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 64


def in_order(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield `work(item)` for each item, in order, on all processors; at most `_AHEAD` results wait."""
    with ThreadPoolExecutor(min(_AHEAD, processors())) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                if len(pending) == _AHEAD:
                    yield pending.popleft().result()
                pending.append(pool.submit(work, item))
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
