"""Tables that commands print."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column, Table

WIDTH = 160
"""Characters in a line of output that does not go to a terminal."""


def stdout_console(least_width: int = 0) -> "Console":
    """Return a console for standard output, as wide as the terminal, or `WIDTH` characters.

    Args:
        least_width: minimum width: a wrapped line is better than a truncated number.
    """
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False)
    console.width = max(console.width, least_width)
    return console


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
