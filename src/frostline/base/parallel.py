"""Work on many files in threads: Pillow and hashlib release the interpreter lock."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from frostline.base.processes import processors

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_WORKERS = 8
_CHUNK = 64


def in_order(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield `work(item)` for each item, in order; at most `_CHUNK` results are in memory at a time."""
    with ThreadPoolExecutor(min(MAX_WORKERS, processors())) as pool:
        for start in range(0, len(items), _CHUNK):
            yield from pool.map(work, items[start : start + _CHUNK])
