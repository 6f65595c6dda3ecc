"""Any terminal: what commands print and what they refuse, in encodings that lack our signs."""

import os
import subprocess
import sys

import pytest
from tests.imports import SRC
from tests.shell import TINY
from tests.study import environment

PLAN = ["plan", *TINY, "weights=none", "--images", "100"]
LIST = ["cache"]
ERROR = ["plan", "optimizer.lrr=é…·×−"]
TRAIN = ["finetune", *TINY, "weights=none", "out=run"]


def command(words, folder, redirection="", python=sys.executable, **variables):
    """What a real command gives: its status, and both streams as bytes."""
    script = f'exec "$@" {redirection}'
    done = subprocess.run(
        ["bash", "-c", script, "bash", python, "-m", "frostline", *words],
        cwd=folder,
        env=environment(folder / "x", PYTHONPATH=str(SRC), **variables),
        capture_output=True,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("variables", "encoding"),
    [
        ({"PYTHONIOENCODING": "latin-1", "COLUMNS": "80"}, "latin-1"),
        ({"PYTHONIOENCODING": "ascii", "COLUMNS": "40", "NO_COLOR": "1"}, "ascii"),
        ({"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TERM": "dumb"}, "ascii"),
    ],
)
def test_signs_that_an_encoding_lacks_are_written_in_ascii(variables, encoding, tmp_path, warm):
    # What a locale means is decided as Python starts; a plan takes seconds to import.
    python = warm if "PYTHONIOENCODING" in variables else sys.executable
    status, out, _ = command(PLAN, tmp_path, python=python, **variables)
    assert status == 0
    assert out.decode(encoding)
    status, _, err = command(ERROR, tmp_path, **variables)
    assert status == 2
    assert err.decode(encoding).startswith("frostline: error: optimizer.lrr: unknown key; did you mean")
    assert b"\\u" not in err


@pytest.mark.parametrize(
    ("redirection", "words"), [(">&-", LIST), ("2>&-", LIST), (">&- 2>&-", PLAN), ("<&-", LIST)]
)
def test_a_stream_that_is_closed_is_not_missed(redirection, words, tmp_path):
    assert command(words, tmp_path, redirection)[0] == 0
    assert command(ERROR, tmp_path, redirection)[0] == 2


def test_output_that_can_not_be_written_is_an_error_of_one_sentence(tmp_path):
    status, _, err = command(LIST, tmp_path, ">/dev/full")
    assert status == 3
    assert err.decode().count("\n") == 1
    assert err.startswith(b"frostline: error: the disk is full (No space left on device); make room")


@pytest.mark.slow
def test_a_training_ends_well_though_nobody_reads_what_it_shows(tmp_path):
    read, write = os.pipe()
    os.close(read)
    settings = environment(tmp_path / "x", PYTHONPATH=str(SRC), PYTHONIOENCODING="ascii")
    words = [sys.executable, "-m", "frostline", *TRAIN]
    done = subprocess.run(words, cwd=tmp_path, env=settings, stdout=write, stderr=write, check=False)
    os.close(write)
    assert done.returncode == 0
    assert (tmp_path / "run/metrics.json").is_file()


def test_what_stands_for_our_signs():
    code = (
        "from frostline.console import terminal; terminal.configure_streams()\n"
        "print('1·2…−3×4 → é ß \\udcff 中 ━│')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(SRC), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1-2...-3x4 -> e \\xdf \\udcff \\u4e2d -|\n"
