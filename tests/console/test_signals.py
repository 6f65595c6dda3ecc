"""SIGINT, SIGTERM and SIGHUP at every stage: one sentence, 128 + the number, the record says KILLED."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest
from tests.shell import RESUMABLE, TINY
from tests.study import environment

pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")

SRC = Path(__file__).parents[2] / "src"
INTERRUPTED = "frostline: interrupted"
SWEEP = f"{INTERRUPTED}; the same command continues the sweep (0 of 2 trials have ended)"
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
LONG = [*TINY, "weights=none", "trainer.epochs=100000", "out=out"]
INSTALLED = "from frostline.console import signals; signals.install()\n"


def wait_for(condition: Callable[[], object], process: subprocess.Popen) -> None:
    give_up = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.02)


def interrupted(
    process: subprocess.Popen, folder: Path, *numbers: signal.Signals, sentence: str | None = None
) -> None:
    """Send the signals; see that the process ends as the first of them says."""
    for number in numbers:
        process.send_signal(number)
    ends(process, folder, numbers[0], sentence)


def ends(
    process: subprocess.Popen, folder: Path, number: signal.Signals, sentence: str | None = None
) -> None:
    """See that the process ends as the signal says.

    Args:
        sentence: its last line; None: it promises a checkpoint only if `folder` has one.
    """
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    resumable = [*folder.glob(".frostline/resume/*/*.ckpt"), *folder.glob(".frostline/resume/*/done")]
    assert err.splitlines()[-1] == (sentence or (RESUMABLE if resumable else INTERRUPTED))
    assert "Traceback" not in err


def left(folder: Path) -> list[str]:
    """Temporary files and folders below `folder`."""
    return sorted(path.name for path in folder.rglob(".*.*") if path.name != ".frostline")


@pytest.mark.parametrize("number", SIGNALS)
def test_while_it_trains(shell, number):
    with shell.start("finetune", *LONG) as process:
        wait_for(lambda: list(shell.folder.glob(".frostline/resume/*/.done.*")), process)
        interrupted(process, shell.folder, number)
    assert not (shell.folder / "out").exists()
    assert left(shell.folder) == []


def test_a_group_that_is_signalled_after_its_process(shell):
    """As GNU timeout does: the second is the same request."""
    with shell.start("finetune", *LONG) as process:
        wait_for(lambda: list(shell.folder.glob(".frostline/resume/*/.done.*")), process)
        interrupted(process, shell.folder, signal.SIGTERM, signal.SIGTERM)
    assert left(shell.folder) == []


@pytest.mark.parametrize("number", SIGNALS)
def test_as_soon_as_it_runs(shell, number):
    """A cold Python, during the imports of frostline or of a run's libraries."""
    settings = environment(shell.folder / "x", PYTHONPATH=str(SRC))
    command = [sys.executable, "-X", "importtime", "-m", "frostline", "finetune", *LONG]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=shell.folder, env=settings, stderr=pipe, text=True) as process:
        assert process.stderr
        while not process.stderr.readline().rstrip().endswith("omegaconf"):
            assert process.poll() is None
        interrupted(process, shell.folder, number)
    assert not (shell.folder / "out").exists()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGTERM, []),
        (signal.SIGINT, []),
        pytest.param(
            signal.SIGTERM,
            ["-m", "seed=0,1", "hydra/launcher=joblib", "sweep.workers=2"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_record_says_killed(shell, number, words, no_runs):
    store = shell.folder / "runs.db"
    store.write_bytes(no_runs.read_bytes())
    tracking = {"FROSTLINE_TRACKING": "on", "MLFLOW_TRACKING_URI": f"sqlite:///{store}"}
    runs = 1
    if words:  # its workers are children, which are signalled with it
        tracking["COLD_WORKERS"], runs = "1", 2

    def asked(text: str) -> list[tuple[str, ...]]:
        with sqlite3.connect(store, timeout=30) as connection:
            return connection.execute(text).fetchall()

    with shell.start("finetune", *LONG, *words, **tracking) as process:
        wait_for(lambda: len(asked("select 1 from runs where status = 'RUNNING'")) == runs, process)
        interrupted(process, shell.folder, number, sentence=SWEEP if words else None)
    assert asked("select status from runs where name like '%mlp·%'") == [("KILLED",)] * runs
    assert asked("select value from tags where key = 'error'") == [(number.name,)] * runs


AMID = """
import importlib, os, signal, sys
place, number, *words = sys.argv[1:]
module, _, name = place.partition(":")
owner = importlib.import_module(module)
*path, name = name.split(".")
for part in path:
    owner = getattr(owner, part)
inside = getattr(owner, name)

def signalled(*arguments, **options):
    os.kill(os.getpid(), int(number))
    return inside(*arguments, **options)

setattr(owner, name, signalled)
sys.argv[1:] = words
from frostline.__main__ import main
sys.exit(main())
"""
PLACES = {
    "prepare": ("frostline.preparation.stage:assign", []),
    "pixels": ("frostline.data.loading.pixel_files:write", []),
    "features": ("frostline.features.cache:FeatureCache._write", ["KILLED"]),
    "weights": ("frostline.training.run:write_outputs", ["KILLED"]),
    "publish": ("frostline.training.run:record_outputs", ["KILLED"]),
    "output": ("frostline.training.run:link_or_copy", ["FINISHED"]),
}


@pytest.mark.slow
@pytest.mark.parametrize(("place", "number"), list(zip(PLACES, cycle([signal.SIGTERM, signal.SIGINT]))))
def test_inside_each_part_of_a_run(shell, place, number, no_runs):
    """The process gets the signal on its way into a function."""
    function, states = PLACES[place]
    store = shell.folder / "runs.db"
    store.write_bytes(no_runs.read_bytes())
    tracking = {"FROSTLINE_TRACKING": "on", "MLFLOW_TRACKING_URI": f"sqlite:///{store}"}
    words = ["finetune", *TINY, "weights=none", "freeze=linear_probe", "out=out"]
    words += ["input.size=64", "input.interpolation=nearest", "backbone.hidden=[512,512]"]
    settings = environment(shell.folder / "x", PYTHONPATH=str(SRC), **tracking)
    command = [str(shell.python), "-c", AMID, function, str(int(number)), *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=shell.folder, env=settings, stderr=pipe, text=True) as process:
        ends(process, shell.folder, number)
    assert not (shell.folder / "out").exists()
    assert left(shell.folder) == []
    with sqlite3.connect(store, timeout=30) as connection:
        statuses = connection.execute("select status from runs where name like '%mlp·%'").fetchall()
    assert [state for (state,) in statuses] == states


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_a_sweep(shell, number):
    with shell.start("finetune", "-m", *LONG, "seed=0,1") as process:
        wait_for(lambda: list(shell.folder.glob(".frostline/resume/*/.done.*")), process)
        interrupted(process, shell.folder, number, sentence=SWEEP)
    assert left(shell.folder) == []


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("frostline.commands.evaluate:run", ["evaluate", "run"]),
        ("frostline.commands.predict:run", ["predict", "run", "."]),
        ("frostline.commands.doctor:run", ["doctor"]),
    ],
)
def test_a_command_without_checkpoints_promises_none(function, words, tmp_path):
    settings = environment(tmp_path / "x", PYTHONPATH=str(SRC))
    command = [sys.executable, "-c", AMID, function, str(int(signal.SIGINT)), *words]
    result = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (130, "frostline: interrupted\n")


def test_what_is_ignored_stays_ignored():
    """As under nohup."""
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + INSTALLED
    code += "signal.raise_signal(signal.SIGHUP); print('still here')"
    result = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(SRC)}, capture_output=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"still here\n", b"")


HUNG = """
import time
signals.GRACE_SECONDS = 0.2
with signals.interruptible():
    try:
        print("up", flush=True)
        time.sleep(60)
    except BaseException:
        print("swallowed", flush=True)
    time.sleep(60)
"""


def test_a_library_that_swallows_the_exception_does_not_keep_the_command_alive():
    with subprocess.Popen(
        [sys.executable, "-c", INSTALLED + HUNG],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        interrupted_at = time.monotonic()
        process.terminate()
        assert process.stdout.readline() == "swallowed\n"
        assert process.wait(60) == 143
        assert process.stderr
        assert process.stderr.read() == INTERRUPTED + "\n"
        assert time.monotonic() - interrupted_at < 60


CLEANS = """
import signal, sys
signals.SAME_SECONDS = 0.0
with signals.interruptible():
    try:
        signal.raise_signal(signal.SIGTERM)
    except signals.Interrupted:
        signal.raise_signal(int(sys.argv[1]))
        print("clean", flush=True)
        sys.exit(signals.exit_status())
"""


@pytest.mark.parametrize(
    ("second", "printed"), [(signal.SIGTERM, "clean\n"), (signal.SIGHUP, "clean\n"), (signal.SIGINT, "")]
)
def test_only_a_second_ctrl_c_ends_a_command_that_cleans_up(second, printed):
    """A busy process may handle the second signal of a group long after the first."""
    command = [sys.executable, "-c", INSTALLED + CLEANS, str(int(second))]
    result = subprocess.run(command, env={"PYTHONPATH": str(SRC)}, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (143, printed, INTERRUPTED + "\n")


def test_after_the_results_are_there_it_says_so():
    code = INSTALLED + "import os; signals.mark_complete(); os.kill(os.getpid(), 15)"
    result = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(SRC)}, capture_output=True)
    assert result.returncode == 143
    assert result.stderr == b"frostline: interrupted at the end; the results are complete\n"


def test_a_signal_that_an_import_turned_into_an_error_is_still_a_signal(monkeypatch, capsys):
    from frostline.commands import doctor
    from frostline.commands import main as cli
    from frostline.console import signals

    def broken(arguments: object) -> None:
        monkeypatch.setattr(signals._State, "number", signal.SIGTERM)
        raise ImportError("initialization failed")

    monkeypatch.setattr(signals._State, "said", True)  # to the tests' own standard error
    monkeypatch.setattr(doctor, "run", broken)
    assert cli.main(["doctor"]) == 143
