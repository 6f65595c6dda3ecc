"""Which process is which, and ending with DVC."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from frostline.processes import cores, lives, name_of_this, processors

SRC = Path(__file__).parents[1] / "src"


def test_a_process_is_known_by_number_and_start():
    assert lives(name_of_this())
    assert not lives(f"{os.getpid()}@1.0")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert not lives(f"{gone.pid}@{time.time()}")
    assert not any(map(lives, ("", "x", "1@", "@1", "99999999999@1")))


def test_a_process_that_nobody_collects_is_dead():
    """In a container often nobody does it for orphans."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        name = f"{process.pid}@{psutil.Process(process.pid).create_time()}"
        assert lives(name)
        process.kill()
        give_up = time.monotonic() + 20
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < give_up
        assert not lives(name)


def test_a_process_uses_no_more_than_it_may():
    assert 1 <= cores() <= processors() <= os.cpu_count()
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
    code += "from frostline.processes import cores, processors; print(cores(), processors())"
    if hasattr(os, "sched_setaffinity"):
        found = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONPATH": str(SRC)}, capture_output=True
        )
        assert found.stdout.split() == [b"1", b"1"]


def start(folder: Path, program: str, **variables: str) -> tuple[subprocess.Popen, psutil.Process]:
    """Start `program`, a shell script that starts a stage, which then waits; return both processes."""
    stage = "import time; from frostline.processes import end_with_dvc; end_with_dvc(); "
    stage += "print('up', flush=True); time.sleep(60)"
    (folder / program).write_text(f'#!/bin/sh\n"{sys.executable}" -c "{stage}"\n:\n')
    settings = {**os.environ, "PYTHONPATH": str(SRC), **variables}
    parent = subprocess.Popen(["sh", str(folder / program)], env=settings, stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "up\n"
    (child,) = psutil.Process(parent.pid).children()
    return parent, child


def test_a_stage_ends_with_the_dvc_that_started_it(tmp_path):
    parent, child = start(tmp_path, "dvc", DVC_STAGE="finetune")
    parent.kill()
    parent.wait()
    parent.stdout.close()
    child.wait(10)


def test_a_stage_outlives_who_is_not_dvc(tmp_path):
    """Not even a program whose name has dvc in it, nor DVC's own variable, makes a parent DVC."""
    parent, child = start(tmp_path, "run-dvc-later", DVC_STAGE="finetune")
    parent.kill()
    parent.wait()
    parent.stdout.close()
    time.sleep(2.5)
    assert child.is_running()
    child.kill()
