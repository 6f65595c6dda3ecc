"""Progress of long work: a bar in a terminal or a notebook, plain lines elsewhere."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_SECONDS = 10.0
"""Minimum time between two plain lines."""
WAITING_SECONDS = 2.0
"""Time without output after which a line says what is being done."""
LIBRARIES = "loading PyTorch and Lightning"
NETWORK = "loading PyTorch and the network"
RUNS = "reading the runs in MLflow"
NOTEBOOK_SECONDS = 0.2
"""Minimum time between two updates of a bar in a notebook."""


class Advance(Protocol):
    """Advances the progress by `n`, with an optional note."""

    def __call__(self, n: int = 1, note: str = "") -> None: ...


class Progress(Protocol):
    """Shows the progress of the block, of `total` units."""

    def __call__(self, description: str, total: int) -> AbstractContextManager[Advance]: ...


class Say(Protocol):
    """Prints a sentence."""

    def __call__(self, text: str) -> None: ...


def no_output(text: str) -> None:
    """Print nothing."""


@cache
def say_once(text: str) -> None:
    """Print a sentence on standard error, above a progress bar; each sentence once per process.

    A notebook shows standard error as an error, so there it is standard output.
    """
    print(text, file=sys.stdout if in_notebook() else sys.stderr, flush=True)


def is_watched() -> bool:
    """Return whether somebody sees the output at once: in a terminal or a notebook."""
    return sys.stderr.isatty() or in_notebook()


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Print on standard error what the block does if that takes `WAITING_SECONDS` and somebody watches.

    Args:
        text: such as ``loading PyTorch``.
    """
    timer = threading.Timer(WAITING_SECONDS, say_once, [f"{text} …"])
    timer.daemon = True
    if is_watched():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def no_progress(description: str, total: int) -> Iterator[Advance]:
    """Show nothing."""
    yield lambda n=1, note="": None


_bars_disabled = threading.Event()


def disable_bars() -> None:
    """Show no bars in this process, since several processes share the terminal."""
    _bars_disabled.set()


@contextmanager
def shown(description: str, total: int) -> Iterator[Advance]:
    """Show a bar in a terminal or a notebook, elsewhere a line every ten seconds."""
    on_terminal = no_progress if _bars_disabled.is_set() else _bar
    elsewhere = on_terminal if sys.stderr.isatty() else _lines
    kind = _notebook_bar if in_notebook() else elsewhere
    with kind(description, total) as advance:
        yield advance


def in_notebook() -> bool:
    """Return whether this process is a notebook's kernel, which shows HTML, without importing IPython."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


@contextmanager
def _bar(description: str, total: int) -> Iterator[Advance]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # rich moves what is printed meanwhile above the bar; into a file or pipe it has to go as it is.
    with Bar(*columns, console=console(), redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(description, total=total, note="")

        def advance(n: int = 1, note: str = "") -> None:
            fields: dict[str, Any] = {"note": note} if note else {}
            bar.update(task, advance=n, **fields)

        yield advance


@cache
def console() -> "Console":
    """Return the console that all bars share, so that nested bars are shown below each other."""
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def _notebook_bar(description: str, total: int) -> Iterator[Advance]:
    """Show a bar in the output of a notebook cell; at the end, a line with the elapsed time replaces it."""
    from html import escape

    from IPython.display import HTML, display

    begun, last, done, said = time.monotonic(), 0.0, 0, ""

    def line(more: str) -> str:
        return escape(f"{description}: {done}/{total} {said}".rstrip() + more)

    shown_bar = display(HTML(line("")), display_id=True)

    def advance(n: int = 1, note: str = "") -> None:
        nonlocal done, said, last
        done, said = done + n, note or said
        if time.monotonic() - last >= NOTEBOOK_SECONDS and done < total:
            last = time.monotonic()
            bar = f'<progress value="{done}" max="{total}"></progress>'
            shown_bar.update(HTML(f"{bar} {line('')}"))

    try:
        yield advance
    finally:
        shown_bar.update(HTML(f"<div><small>{line(f', {time.monotonic() - begun:.1f} s')}</small></div>"))


@contextmanager
def _lines(description: str, total: int) -> Iterator[Advance]:
    begun = last = time.monotonic()
    done, said = 0, ""

    def advance(n: int = 1, note: str = "") -> None:
        nonlocal done, said, last
        done, said = done + n, note or said
        if time.monotonic() - last >= PLAIN_SECONDS and done < total:
            last = time.monotonic()
            print(f"{description}: {done}/{total} {said}".rstrip(), file=sys.stderr, flush=True)

    yield advance
    seconds = time.monotonic() - begun
    print(
        f"{description}: {done}/{total} {said}".rstrip() + f", {seconds:.1f} s", file=sys.stderr, flush=True
    )
