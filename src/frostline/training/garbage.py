"""Turns garbage collection off during imports, where it costs time and frees nothing.

Only in processes that are frostline's own: see `untouched`.
"""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage in the block, or until it calls `enable`.

    Imports create hundreds of thousands of permanent objects, and scanning them repeatedly takes a sixth of
    the time that torch, Lightning and timm take to import.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


@contextmanager
def untouched() -> Iterator[None]:
    """Let `enable` do nothing in the block: the process is the user's, such as a notebook's kernel.

    Its objects must be collected, and whether garbage is collected is its own choice.
    """
    global _untouched
    before, _untouched = _untouched, True
    try:
        yield
    finally:
        _untouched = before


_untouched = False


def enable() -> None:
    """Turn garbage collection on inside an `uncollected` block, once everything is imported."""
    if not _untouched:
        _freeze_existing()
        gc.enable()


@cache
def _freeze_existing() -> None:
    """Exempt the objects that exist now from collection, until the process ends.

    Nearly all of them belong to modules, and scanning them takes 0.25 s. Done once, since a run's objects
    must be collected; undone at exit, since torch's libraries complain about objects that outlive Python.
    """
    gc.freeze()
    atexit.register(gc.unfreeze)
