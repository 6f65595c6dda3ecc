"""The rows of a CSV, TSV or Parquet file as text, one at a time: a table of any length fits into memory."""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from frostline.console.errors import FrostlineError, allowed
from frostline.data.reading.decode import printable

TABLES = (".csv", ".tsv", ".parquet")
"""Suffixes of tables; one with another suffix is read as a data set, but not suggested."""

_BLOCK = 1 << 16
_DELIMITERS = (",", ";", "\t")
_AS_UTF8 = "save it as CSV in UTF-8 (in Excel: CSV UTF-8)"
_REFUSED = {
    b"PK\x03\x04": f"is a spreadsheet or an archive: {_AS_UTF8}; arrays (.npz) are dataset=npz",
    b"\xd0\xcf\x11\xe0": f"is a spreadsheet: {_AS_UTF8}",
    b"\x1f\x8b": "is compressed: unpack it",
    b"\xff\xfe": f"is UTF-16: {_AS_UTF8}",
    b"\xfe\xff": f"is UTF-16: {_AS_UTF8}",
    b"version https://git-lfs": "is a Git LFS pointer, not the table: run git lfs pull",
    b"sep=": "begins with a line for Excel (sep=): remove that line",
    b"<": "is an HTML or XML page (a failed download?): download it again",
    b"{": f"is JSON: {_AS_UTF8}",
    b"[": f"is JSON: {_AS_UTF8}",
    b"\x89PNG": "is an image: give the file that lists the images",
    b"\xff\xd8\xff": "is an image: give the file that lists the images",
}
"""First bytes of files that are no tables → why, and the fix."""

Record = tuple[int, tuple[str, ...]]
"""Number of the line (of the row in Parquet), and the cells of the requested columns."""


@dataclass(frozen=True)
class TableFile:
    """A table whose header has been read."""

    path: Path
    place: str
    """Names the table in errors."""
    columns: tuple[str, ...]
    length: int
    """Number of rows; in a CSV with line breaks inside of cells, an upper bound."""
    delimiter: str
    """Of a CSV or TSV; '' for Parquet."""
    lists: bool = False
    """Whether a column of Parquet may hold lists; their cells are JSON."""

    @property
    def unit(self) -> str:
        """What the numbers of `records` count, for messages."""
        return "line" if self.delimiter else "row"

    def records(self, names: Sequence[str]) -> Iterator[Record]:
        """Yield the cells of some columns, in the order of `names`; missing values are ''.

        Raises:
            FrostlineError: the file is damaged or not UTF-8; names the line.
        """
        return _text_records(self, names) if self.delimiter else _parquet_records(self, names)


def open_table(path: Path, place: str, expected: Sequence[str]) -> TableFile:
    """Read the header of a table; its format is recognized by content.

    The delimiter of a CSV is the one of comma, semicolon and tab that yields the columns `expected`.

    Args:
        place: names the file in errors.

    Raises:
        FrostlineError: there is no such file, or it is no table.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
    except FileNotFoundError:
        near = [p.name for p in path.parent.glob("*") if p.suffix in TABLES] if path.parent.is_dir() else []
        hint = f"; {allowed(path.name, near)}" if near else ""
        raise FrostlineError(f"{place} doesn't exist: give a CSV, TSV or Parquet file{hint}") from None
    except IsADirectoryError:
        raise FrostlineError(
            f"{place} is a folder: give a CSV, TSV or Parquet file; for images in class folders, write "
            f"dataset=image_folder dataset.root={path}"
        ) from None
    except OSError as error:
        raise FrostlineError(f"{place} can't be read ({error.strerror}): copy it again") from None
    if not start:
        raise FrostlineError(f"{place} is empty: it needs a line of column names and a line per image")
    for signature, reason in _REFUSED.items():
        if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(signature):
            raise FrostlineError(f"{place} {reason}")
    is_parquet = start.startswith(b"PAR1")
    if b"\0" in start and not is_parquet:
        raise FrostlineError(f"{place} has zero bytes (UTF-16, or no text?): {_AS_UTF8}")
    table = _open_parquet(path, place) if is_parquet else _open_text(path, place, expected)
    repeated = [name for i, name in enumerate(table.columns) if name in table.columns[:i]]
    if used := [name for name in repeated if name in expected]:
        raise FrostlineError(f"{place} has two columns {used[0]!r}: rename one")
    return table


# ── text ────────────────────────────────────────────────────────────────────────────────────────────────────


def _open_text(path: Path, place: str, expected: Sequence[str]) -> TableFile:
    with path.open("rb") as stream:
        length, last = -1, b"\n"  # The header is no row.
        for block in iter(lambda: stream.read(_BLOCK), b""):
            length, last = length + block.count(b"\n"), block[-1:]
    length += last != b"\n"
    headers, malformed = dict[str, tuple[str, ...]](), list[FrostlineError]()
    for delimiter in _DELIMITERS:
        with _lines(path, place) as lines:
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            try:
                cells = next(reader, [])
            except csv.Error as error:  # such as "image";"label" read with commas
                cells = []
                malformed.append(_malformed(place, reader.line_num, error))
            headers[delimiter] = tuple(cell.strip("\ufeff").strip() for cell in cells)  # some have two BOMs
    # The delimiter with the most expected columns; then with the most columns; then the comma.
    delimiter = max(
        _DELIMITERS, key=lambda d: (len(set(expected) & set(headers[d])), len(headers[d]), d == ",")
    )
    if malformed and not set(expected) & set(headers[delimiter]):
        raise malformed[0]
    if not any(headers[delimiter]):
        raise FrostlineError(f"{place} begins with an empty line: its first line must name the columns")
    names = headers[delimiter]
    if len(names) == 1 and names != tuple(expected) and set(expected) <= set(re.split(r"\W+", names[0])):
        raise FrostlineError(
            f"{place} has the single column {printable(names[0])!r}: separate cells by commas, semicolons "
            "or tabs"
        )
    return TableFile(path, place, names, length, delimiter)


class _lines:
    """Iterates over the lines of a UTF-8 file without its BOM; an invalid byte is an error with its line."""

    def __init__(self, path: Path, place: str) -> None:
        self._place, self._number = place, 0
        self._stream = path.open(newline="", encoding="utf-8-sig", errors="surrogateescape")

    def __enter__(self) -> "_lines":
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def __iter__(self) -> "_lines":
        return self

    def __next__(self) -> str:
        line = next(self._stream)
        self._number += 1
        if not line.isascii():
            try:
                line.encode()
            except UnicodeEncodeError as error:
                byte = ord(line[error.start]) - 0xDC00
                raise FrostlineError(
                    f"{self._place}: line {self._number} is not UTF-8 (byte 0x{byte:02x} at "
                    f"character {error.start + 1}): {_AS_UTF8}"
                ) from None
        return line


def _parsed(place: str, lines: "_lines", delimiter: str) -> tuple[Any, list[str]]:
    """Return a CSV reader that has read its header, and the header."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        return reader, next(reader, [])
    except csv.Error as error:
        raise _malformed(place, reader.line_num, error) from None


def _malformed(place: str, line: int, error: csv.Error) -> FrostlineError:
    return FrostlineError(f"{place}: line {line} can't be read ({error}): check the quotation marks")


def _text_records(table: TableFile, names: Sequence[str]) -> Iterator[Record]:
    places, width = [table.columns.index(name) for name in names], len(table.columns)
    with _lines(table.path, table.place) as lines:
        reader, _ = _parsed(table.place, lines, table.delimiter)
        begun = reader.line_num + 1
        try:
            for cells in reader:
                if len(cells) != width:
                    if cells:
                        raise FrostlineError(
                            f"{table.place}: line {begun} has {len(cells)} cells and the header "
                            f"has {width}: quote cells that contain {table.delimiter!r}, or add what is "
                            "missing"
                        )
                else:
                    yield begun, tuple([cells[place] for place in places])
                begun = reader.line_num + 1
        except csv.Error as error:
            raise _malformed(table.place, begun, error) from None


# ── Parquet ─────────────────────────────────────────────────────────────────────────────────────────────────


def _open_parquet(path: Path, place: str) -> TableFile:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            return TableFile(path, place, tuple(file.schema_arrow.names), file.metadata.num_rows, "")
    except (pyarrow.ArrowException, OSError):
        raise FrostlineError(f"{place} is a damaged Parquet file: copy or write it again") from None


def _parquet_records(table: TableFile, names: Sequence[str]) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(table.path) as file:
            for batch in file.iter_batches(batch_size=_BLOCK, columns=list(dict.fromkeys(names))):
                columns = [_as_text(table, name, batch.column(name)) for name in names]
                for cells in zip_longest(*columns):
                    number += 1
                    yield number, cells
    except (pyarrow.ArrowException, OSError):
        raise FrostlineError(f"{table.place} is damaged after row {number}: copy or write it again") from None


def _as_text(table: TableFile, name: str, column: Any) -> list[str]:
    """Return the values of a column as text; whole numbers without a fraction, missing values as ''."""
    import pyarrow

    types = pyarrow.types
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if table.lists and (types.is_list(kind) or types.is_large_list(kind)):
        return ["" if names is None else json.dumps(names) for names in column.to_pylist()]
    tests = (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_boolean)
    if not any(test(kind) for test in tests):
        if types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}:
            raise FrostlineError(
                f"{table.place}: column {printable(name)!r} holds the images themselves, as on the Hub of "
                "Hugging Face; convert it with datasets.Dataset.from_parquet(FILE).save_to_disk(FOLDER), and "
                "set dataset=huggingface dataset.path=FOLDER"
            )
        raise FrostlineError(
            f"{table.place}: column {printable(name)!r} holds {kind}; allowed: text, numbers, booleans"
        )
    return list(map(cell_text, column.to_pylist()))


def cell_text(value: Any) -> str:
    """Return the text of a cell that is not text in its file: '' for null and NaN, 1.0 is 1."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
