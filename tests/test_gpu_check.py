"""`scripts/gpu-check`: what it does with checks that fail, and that it runs with what it says it needs."""

import json
import subprocess
import sys
from importlib.metadata import distribution, distributions
from pathlib import Path

import psutil
import pytest
from benchmarks import gpu_check
from benchmarks.gpu_check import CHECKS, LIGHT, Check, main, pinned, run

ROOT = Path(__file__).parents[1]
WITH_TORCH = ("torch", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "setuptools")
"""What a machine that has torch has."""


@pytest.fixture
def failing(monkeypatch):
    monkeypatch.setattr(gpu_check, "CHECKING", "tests.failing_checks")


def checks(*names, seconds=100):
    return [Check(name, f"what {name} is", 1 if name == "hangs" else seconds) for name in names]


@pytest.mark.usefixtures("failing")
def test_a_check_that_fails_hangs_or_dies_costs_no_other(capsys):
    names = ("first", "fails", "hangs", "second", "dies", "third", "breaks the device", "fourth")
    rows = list(run(checks(*names), Path(sys.executable), "cpu", None))
    assert [row.check for row in rows] == list(names)
    assert [row.passed for row in rows] == [True, False, False, True, False, True, False, True]
    results = {row.check: row.result for row in rows}
    assert results["fails"] == "AssertionError: 1 is not 2"
    assert results["hangs"] == "not over after 1 s"
    assert results["dies"] == "the process ended with status 7: out of luck"
    assert len({results[name] for name in ("first", "second", "third", "fourth")}) == 4  # processes
    assert "FAIL" in capsys.readouterr().out
    assert not [p for p in psutil.Process().children(recursive=True) if "sleep(600)" in " ".join(p.cmdline())]


@pytest.mark.usefixtures("failing")
def test_checks_for_which_there_is_no_time_have_failed():
    rows = list(run(checks("first", "second"), Path(sys.executable), "cpu", None, minutes=0))
    assert [(row.passed, row.result) for row in rows] == [(False, "no time left")] * 2


@pytest.mark.usefixtures("failing")
@pytest.mark.parametrize(("names", "status"), [(["first", "second"], 0), (["first", "fails"], 1)])
def test_the_exit_status_and_the_file_say_whether_all_passed(names, status, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "CHECKS", tuple(checks(*names)))
    out = tmp_path / "report.json"
    assert main(["--device", "cpu", "--out", str(out)]) == status
    report = json.loads(out.read_text())
    assert (report["passed"], report["device"]) == (not status, "cpu")
    assert [row["check"] for row in report["rows"]] == names


def test_each_row_of_the_table_is_a_check_and_there_is_time_for_it():
    from benchmarks.gpu_checks import CHECKS as FUNCTIONS

    assert [check.name for check in CHECKS] == list(FUNCTIONS)
    assert all(check.seconds < 60 * gpu_check.MINUTES for check in CHECKS)


def test_what_is_sent_to_a_machine_is_in_the_lock():
    wanted = pinned((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    assert [each.partition("==")[0] for each in wanted] == list(LIGHT)
    assert f"torchvision=={gpu_check.TORCHVISION}" in wanted


@pytest.mark.slow
def test_checks_need_no_more_than_what_is_sent(tmp_path):
    """On the CPU, with the digits from a file, and with no other package."""
    packages = tmp_path / "packages"
    packages.mkdir()
    others = (d.name for d in distributions() if d.name.startswith(("nvidia-", "cuda-", "triton")))
    for name in {*LIGHT, *WITH_TORCH, *others}:
        for top in {path.parts[0] for path in distribution(name).files or () if path.parts[0] != ".."}:
            link = packages / top
            if not link.exists():
                link.symlink_to(Path(distribution(name).locate_file(top)).resolve())
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{packages}" exec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    code = "from benchmarks.gpu_bench import write_digits; write_digits('digits.npz')"
    paths = f"{ROOT / 'src'}:{ROOT}"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": paths}, check=True)
    chosen = [check for check in CHECKS if check.name in ("environment", "resume", "bench_gradual")]
    rows = list(run(chosen, python, "cpu", tmp_path / "digits.npz", minutes=60))
    assert len(rows) == 3
    assert all(row.passed for row in rows), rows


def test_a_folder_that_is_none_of_wheels_is_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--from", str(tmp_path)])
    assert exit_.value.code == 2
    said = f"frostline: error: --from: {tmp_path} has no digits.npz; make it by --wheels DIR\n"
    assert capsys.readouterr().err == said


def test_packages_that_can_t_be_downloaded_are_one_sentence(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", f"file://{tmp_path}/nowhere")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(SystemExit) as exit_:
        main(["--wheels", str(tmp_path / "wheels")])
    assert exit_.value.code == 2
    assert (
        capfd.readouterr()
        .err.splitlines()[-1]
        .startswith(f"frostline: error: --wheels: {tmp_path}/wheels can't")
    )


def test_help_says_how_to_send_it(tmp_path):
    words = [ROOT / "scripts/gpu-check", "--help"]
    done = subprocess.run(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
    assert "--wheels" in done.stdout
    assert "--from" in done.stdout
