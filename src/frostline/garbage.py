"""Python's collector of garbage, which a start of many imports is better off without."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage in the block, or until it calls `collect`.

    Imports make hundreds of thousands of objects that stay, and the collector looks through all of them again
    and again meanwhile: a sixth of the time that torch, Lightning and timm take to import.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


def collect() -> None:
    """Collect garbage from now on: what a long block calls when it has imported all that it needs."""
    gc.enable()
