"""Tables that commands print: whole where nobody limits their width, else as wide as the terminal."""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.measure import Measurement
    from rich.table import Column, Table

WIDTH = 160
"""Characters in a line of output that does not go to a terminal."""
MOST_WIDTH = 10_000
"""Characters in a line of a table whose cells are printed whole."""
PADDING = 2
"""Spaces of a column beside its text."""
BREAKS = re.compile(r"(?<=[ \n])(?![%–])|(?<=·)(?=[^\s…])|(?<=,)(?=[^\W\d])")
"""Where a cell may be broken: after a space, and in names such as ``full·resnet10t``; not in numbers."""
LINES = re.compile(r"(?<=\n)")
HEADER_BREAKS = re.compile(rf"{BREAKS.pattern}|(?<=[./_])(?=\w)")


def stdout_console() -> "Console":
    """Return a console for standard output, as wide as the terminal, or `WIDTH` characters."""
    from rich.console import Console

    class StdoutConsole(Console):
        def on_broken_pipe(self) -> None:
            raise  # the BrokenPipeError that is handled; Rich would exit with status 1

    return StdoutConsole(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False)


def print_table(headers: "Sequence[str | Column]", rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table on standard output: in a terminal as wide as that, elsewhere with whole cells."""
    console = stdout_console()
    if not sys.stdout.isatty():
        console.width = MOST_WIDTH
    console.print(table(headers, rows, title), crop=False)


def table(
    headers: "Sequence[str | Column]", rows: Iterable[Sequence[str]], title: str = ""
) -> "FittingTable":
    """Return a table without lines, for `Console.print`.

    Args:
        headers: a name for each column, or a column with options.
        rows: as many cells as there are columns; fewer leave the last ones empty.
    """
    from rich.table import Column

    columns = [Column(header) if isinstance(header, str) else header for header in headers]
    cells = [[*row, *[""] * (len(columns) - len(row))] for row in rows]
    return FittingTable(columns, cells, title)


@dataclass(frozen=True)
class FittingTable:
    """A table that fits into any width without cutting numbers or paths.

    Headers are wrapped first, then cells where `BREAKS` allows it, but not those of a column with `no_wrap`.
    If that is not enough, each row becomes a block of lines, one per cell, as in psql's expanded display.
    """

    columns: "Sequence[Column]"
    rows: Sequence[Sequence[str]]
    title: str = ""

    def fits(self, width: int) -> bool:
        """Return whether the table with whole cells has at most `width` characters in a line."""
        return sum(self._widths(LINES, LINES)) <= width - PADDING * len(self.columns)

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        """Yield the table, or blocks of lines, in the console's width."""
        whole, least = self._widths(LINES, LINES), self._widths(BREAKS, HEADER_BREAKS)
        with_whole_cells = self._widths(LINES, HEADER_BREAKS)
        room = options.max_width - PADDING * len(self.columns)
        if self.fits(options.max_width):
            yield self._table(None)
        elif sum(with_whole_cells) <= room:
            yield self._table(_shrunk(whole, with_whole_cells, room))
        elif sum(least) <= room:
            yield self._table(_shrunk(with_whole_cells, least, room))
        else:
            from rich.text import Text

            yield Text("\n".join(self._blocks()), no_wrap=True, overflow="ignore")

    def __rich_measure__(self, console: "Console", options: "ConsoleOptions") -> "Measurement":
        """Return the width that the table takes: that of whole cells, at most the console's."""
        from rich.measure import Measurement

        width = min(sum(self._widths(LINES, LINES)) + PADDING * len(self.columns), options.max_width)
        return Measurement(width, width)

    def _widths(self, breaks: re.Pattern[str], header_breaks: re.Pattern[str]) -> list[int]:
        """Return for each column the width of its widest piece."""
        widths = []
        for place, column in enumerate(self.columns):
            of_cells = LINES if column.no_wrap else breaks
            cells = (_width(row[place], of_cells) for row in self.rows)
            widths.append(max(_width(str(column.header), header_breaks), *cells, 0))
        return widths

    def _table(self, widths: Sequence[int] | None) -> "Table":
        """Return the table with columns of these widths; None: with whole cells."""
        from rich.table import Table

        # rich adds cells to the columns of a Table; a live table is drawn again, and needs empty ones.
        columns, rows = [column.copy() for column in self.columns], self.rows
        if widths is not None:
            columns = [
                replace(column, header=_wrapped(str(column.header), width, HEADER_BREAKS))
                for column, width in zip(columns, widths, strict=True)
            ]
            rows = [
                [
                    cell if column.no_wrap else _wrapped(cell, width, BREAKS)
                    for cell, width, column in zip(row, widths, columns, strict=True)
                ]
                for row in rows
            ]
        lines = Table(*columns, box=None, title=self.title or None, title_justify="left")
        for row in rows:
            lines.add_row(*row)
        return lines

    def _blocks(self) -> Iterator[str]:
        """Yield the lines of the blocks; the first cell is a block's title."""
        if self.title:
            yield self.title
        names = [re.sub(r"(?<=[./_])\n", "", str(column.header)) for column in self.columns]
        width = max(map(len, names[1:]), default=0)
        for first, *others in self.rows:
            yield f" {first}"
            yield from (
                f"   {name.replace(chr(10), ' ').ljust(width)}  {cell}"
                for name, cell in zip(names[1:], others, strict=True)
                if cell
            )


def _pieces(text: str, breaks: re.Pattern[str]) -> list[str]:
    return [piece for piece in breaks.split(text) if piece]


def _width(text: str, breaks: re.Pattern[str]) -> int:
    """Return the width of the text's widest piece."""
    from rich.cells import cell_len

    return max((cell_len(piece.rstrip()) for piece in _pieces(text, breaks)), default=0)


def _shrunk(whole: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Return widths that fit: the widest column is narrowed first, none below its least width."""
    widths = list(whole)
    while sum(widths) > room:
        widest = max(
            (place for place, width in enumerate(widths) if width > least[place]), key=widths.__getitem__
        )
        widths[widest] -= 1
    return widths


def _wrapped(text: str, width: int, breaks: re.Pattern[str]) -> str:
    """Return a text in lines of at most `width` characters, as far as it has pieces that short."""
    from rich.cells import cell_len

    lines = [""]
    for piece in _pieces(text, breaks):
        if lines[-1] and cell_len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
        if piece.endswith("\n"):
            lines.append("")
    return "\n".join(line.rstrip() for line in lines).rstrip("\n")
