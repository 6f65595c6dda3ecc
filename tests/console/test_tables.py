"""Tables fit the width that they get, and lose no character."""

import io
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.console import Console
from rich.table import Column

from frostline.console import tables

HEADERS = ("run", "optimizer.lr", "n", "test/accuracy", "train_seconds", Column("out", no_wrap=True))
PATH = "runs/my sweep/freeze=full,optimizer.lr=0.001"
ROWS = [
    ("full·efficientnet_lite0·street signs", "0.001", "3", "97.5 % (95.1 to 98.4 %)", "1,240 s", PATH),
    ("gradual·efficientnet_lite0·street signs", "0.01", "3", "7.1 % (5.1 to 8.4 %)", "12 s"),
]


def shown(width: int) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, highlight=False, markup=False)
    console.print(tables.table(HEADERS, ROWS), crop=False)
    return stream.getvalue()


@pytest.mark.parametrize("width", [200, 140, 120, 100, 70, 40])
def test_it_fits_and_cuts_neither_numbers_nor_paths(width):
    text = shown(width)
    longest = max(len(line.rstrip()) for line in text.splitlines())
    assert longest <= max(width, len(PATH) + len("   test/accuracy  "))  # a path is one word
    words = {word for row in ROWS for cell in row[:5] for word in re.split(r"[ ·]", cell)}
    assert all(word in text for word in words)
    assert PATH in text


def test_it_is_a_table_while_its_words_fit_and_else_blocks_of_lines():
    assert shown(200).splitlines()[1].split("  ")[0] == f" {ROWS[0][0]}"
    assert "full·\n" in re.sub(" .*", "", shown(120).replace("\n ", "\n"))
    assert [line.strip() for line in shown(70).splitlines()[:4]] == [
        ROWS[0][0],
        "optimizer.lr   0.001",
        "n              3",
        "test/accuracy  97.5 % (95.1 to 98.4 %)",
    ]


@pytest.mark.parametrize("width", [200, 120, 70])
def test_it_can_be_printed_again(width):
    """As a sweep's live table is, four times a second."""
    table, stream = tables.table(HEADERS, ROWS), io.StringIO()
    console = Console(file=stream, width=width, highlight=False, markup=False)
    for _ in range(2):
        console.print(table, crop=False)
    assert stream.getvalue() == 2 * shown(width)


CODE = "from frostline.console import tables; tables.print_table(['a', 'b'], [['x' * 50, 'y ' * 30]])"


def test_it_is_whole_where_there_is_no_terminal():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    _header, row = done.stdout.splitlines()
    assert row.split() == ["x" * 50, *["y"] * 30]


def test_it_is_as_wide_as_the_terminal():
    reader, writer = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "dumb"}
    subprocess.run([sys.executable, "-c", CODE], stdout=writer, env=environment, check=True)
    os.close(writer)
    lines = os.read(reader, 10_000).decode().splitlines()
    os.close(reader)
    assert max(map(len, lines)) <= 80
    assert "".join(lines).count("y") == 30


def test_headers_are_wrapped_before_cells():
    stream = io.StringIO()
    headers, rows = (
        ["run", "best/val/accuracy", "train_seconds"],
        [["lr0.01·linear_probe·…", "83.3 %", "2.02 s"]],
    )
    Console(file=stream, width=45, highlight=False, markup=False).print(tables.table(headers, rows))
    text = stream.getvalue()
    assert "lr0.01·linear_probe·…" in text
    assert "best/val/accuracy" not in text
