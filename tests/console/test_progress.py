"""Bars on a terminal, lines elsewhere, nothing where nobody asked."""

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from frostline.console import progress

ROOT = Path(__file__).parents[2]


def test_a_long_wait_is_named_once_and_a_short_one_is_not(monkeypatch, capsys):
    monkeypatch.setattr(progress, "WAITING_SECONDS", 0.05)
    with progress.waiting("unseen"):  # not in a terminal
        time.sleep(0.2)
    monkeypatch.setattr(progress, "is_watched", lambda: True)
    for seconds in (0.3, 0.3):
        with progress.waiting("loading a library"):
            time.sleep(seconds)
    with progress.waiting("something short"):
        pass
    time.sleep(0.2)
    assert capsys.readouterr().err == "loading a library …\n"


def test_silence(capsys):
    with progress.no_progress("work", 3) as advance:
        advance()
        advance(2, "note")
    assert capsys.readouterr() == ("", "")


def test_a_sentence_is_said_once(capsys):
    for text in ("one", "two", "one"):
        progress.say_once(text)
    assert capsys.readouterr() == ("", "one\ntwo\n")


def test_short_work_is_one_line(capsys):
    with progress.shown("work", 3) as advance:
        for _ in range(3):
            advance(1, "val/accuracy 0.5")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"work: 3/3 val/accuracy 0\.5, 0\.\d s\n", err)


def test_long_work_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    with progress.shown("work", 3) as advance:
        advance(2)
        advance(1, "done")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "work: 2/3"
    assert re.fullmatch(r"work: 3/3 done, 0\.\d s", lines[1])
    assert len(lines) == 2


def test_output_that_goes_to_a_file_is_not_drawn_on_the_terminal(tmp_path):
    with (tmp_path / "rows.csv").open("w") as stream:
        text = on_a_terminal(
            """
from frostline.console.progress import shown
with shown("work", 2) as advance:
    print("a row")
    advance(2)
""",
            stream,
        )
    assert (tmp_path / "rows.csv").read_text() == "a row\n"
    assert "2/2" in text
    assert "a row" not in text


def test_work_that_fails_does_not_say_that_it_is_done(capsys):
    with pytest.raises(ZeroDivisionError), progress.shown("work", 3):
        1 / 0  # noqa: B018
    assert capsys.readouterr().err == ""


def on_a_terminal(code, stdout=None):
    """What a terminal is sent on standard error, each line as often as it is drawn, without colours."""
    ours, theirs = pty.openpty()
    settings = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", code], stdout=stdout, stderr=theirs, env=settings, check=True)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # Linux says so when the other end is closed.
        pass
    os.close(ours)
    return re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", shown.decode())


def test_a_terminal_gets_a_bar():
    text = on_a_terminal("""
from frostline.console.progress import shown
with shown("work [1/2]", 2) as advance:
    advance(1, "val/accuracy 0.5")
    advance()
""")
    assert "2/2" in text
    assert "val/accuracy 0.5" in text
    assert "━" in text
    assert "work [1/2]" in text


def test_the_bar_of_a_part_stands_below_that_of_the_whole():
    text = on_a_terminal("""
from frostline.console.progress import say_once, shown
with shown("whole", 1) as advance:
    with shown("part", 1) as inner:
        inner()
        say_once("a sentence")
    advance()
""")
    assert re.search(r"whole[^\n]*\r\n[^\n]*part[^\n]* 1/1", text)
    assert "a sentence" in text
