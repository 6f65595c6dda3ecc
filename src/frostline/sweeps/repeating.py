"""Calls a function again and again in a thread."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def repeated(do: Callable[[], None], seconds: float, *, at_once: bool = True) -> Iterator[None]:
    """Call `do` every few seconds while the block runs; `at_once`: also when it begins."""
    over = threading.Event()

    def work() -> None:
        wait = 0.0 if at_once else seconds
        while not over.wait(wait):
            wait = seconds
            with suppress(Exception):  # a store that is busy or unreachable: the next call will do
                do()

    thread = threading.Thread(target=work, name=f"every {seconds:g} s", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(seconds)
