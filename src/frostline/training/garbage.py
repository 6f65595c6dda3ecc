"""Python's collector of garbage, which a start of many imports is better off without."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


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
    _keep_what_is_there()
    gc.enable()


@cache
def _keep_what_is_there() -> None:
    """Leave out of all collections, from the first call till the process ends, what is there by then.

    Nearly all of it is modules, and looking through them takes a quarter of a second. Once, since what a run
    leaves has to be collected; and not for ever, since torch's libraries complain of what outlives Python.
    """
    gc.freeze()
    atexit.register(gc.unfreeze)
