"""Tables that commands print."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column, Table

WIDTH = 160
"""Characters in a line of output that does not go to a terminal."""
MOST_WIDTH = 10_000
"""Characters in a line of a table whose cells are printed whole."""


def stdout_console(least_width: int = 0) -> "Console":
    """Return a console for standard output, as wide as the terminal, or `WIDTH` characters.

    Args:
        least_width: minimum width: a wrapped line is better than a truncated number.
    """
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False)
    console.width = max(console.width, least_width)
    return console


def print_whole(headers: "Sequence[str | Column]", rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table on standard output, wider than the terminal if a cell needs it.

    A path that is cut or broken into lines can't be copied; a long line, which the terminal wraps, can.
    """
    lines = table(headers, rows, title)
    console = stdout_console()
    unlimited = console.options.update(max_width=MOST_WIDTH)
    console.width = max(console.width, console.measure(lines, options=unlimited).maximum)
    console.print(lines)


def table(headers: "Sequence[str | Column]", rows: Iterable[Sequence[str]], title: str = "") -> "Table":
    """Return a table without lines, for `Console.print`.

    Args:
        headers: a name for each column, or a column with options.
        rows: as many cells as there are columns; fewer leave the last ones empty.
    """
    from rich.table import Table

    lines = Table(*headers, box=None, title=title or None, title_justify="left")
    for row in rows:
        lines.add_row(*row)
    return lines
