"""Which process is which, and ending with DVC."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from frostline.base.processes import cores, process_is_alive, process_key, processors, used_by_others

SRC = Path(__file__).parents[2] / "src"


def test_a_process_is_known_by_number_and_start():
    assert process_is_alive(process_key())
    assert not process_is_alive(f"{os.getpid()}@1.0")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert not process_is_alive(f"{gone.pid}@{time.time()}")
    assert not any(map(process_is_alive, ("", "x", "1@", "@1", "99999999999@1")))


def test_a_process_that_nobody_collects_is_dead():
    """In a container often nobody does it for orphans."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        name = f"{process.pid}@{psutil.Process(process.pid).create_time()}"
        assert process_is_alive(name)
        process.kill()
        give_up = time.monotonic() + 20
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < give_up
        assert not process_is_alive(name)


def test_a_process_uses_no_more_than_it_may():
    assert 1 <= cores() <= processors() <= os.cpu_count()
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
    code += "from frostline.base.processes import cores, processors; print(cores(), processors())"
    if hasattr(os, "sched_setaffinity"):
        found = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONPATH": str(SRC)}, capture_output=True
        )
        assert found.stdout.split() == [b"1", b"1"]


def test_what_other_processes_use_is_counted_and_the_own_use_is_not():
    """The more of them compute, the more; the processes of other tests count too."""
    code = "import sys; from frostline.base.processes import used_by_others; import time\n"
    code += "end = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass\nprint(used_by_others())"
    assert 0 <= used_by_others() <= psutil.cpu_count()

    def used() -> float:
        settings = {"PYTHONPATH": str(SRC)}
        return float(subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True).stdout)

    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(psutil.cpu_count())]
    try:
        busy = used()
    finally:
        for process in others:
            process.kill()
            process.wait()
    assert busy > psutil.cpu_count() / 4


def start(folder: Path, program: str, **variables: str) -> tuple[subprocess.Popen, psutil.Process]:
    """Start `program`, a shell script that starts a stage, which then waits; return both processes."""
    stage = "import time; from frostline.base.processes import end_with_dvc; end_with_dvc(); "
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


PYTHON = """\
#!/bin/sh
echo $$ > pid.new
mv pid.new pid
sleep {start}
exec "{python}" -c "
import time
from frostline.base.processes import end_with_dvc
end_with_dvc()
open('up', 'w').close()
time.sleep(60)"
"""


def stage(folder: Path, program: str, start: float, **variables: str) -> subprocess.Popen:
    """Start `program`, which runs scripts/stage with a Python that needs `start` seconds before it is up."""
    for name in ("scripts", ".venv/bin"):
        (folder / name).mkdir(parents=True)
    shutil.copy(SRC.parent / "scripts/stage", folder / "scripts/stage")
    python = folder / ".venv/bin/python"
    python.write_text(PYTHON.format(python=sys.executable, start=start))
    python.chmod(0o755)
    # A shell that has a command left to do waits as DVC does, instead of becoming the stage.
    (folder / program).write_text("scripts/stage finetune\n:\n")
    (folder / "src").symlink_to(SRC)
    settings = {key: value for key, value in os.environ.items() if not key.startswith("FROSTLINE_")}
    return subprocess.Popen(["sh", program], cwd=folder, env={**settings, "DVC_STAGE": "x", **variables})


def wait_for(path: Path) -> None:
    give_up = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < give_up
        time.sleep(0.005)


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1, 0.3, 0.6, 1.5])
def test_a_stage_ends_though_its_dvc_was_killed_before_python_was_up(delay, tmp_path):
    with stage(tmp_path, "dvc", 0.3) as dvc:
        wait_for(tmp_path / "pid")
        child = psutil.Process(int((tmp_path / "pid").read_text()))
        time.sleep(delay)
        dvc.kill()
    give_up = time.monotonic() + 60
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < give_up, f"up: {(tmp_path / 'up').exists()}"
        time.sleep(0.05)


@pytest.mark.parametrize("program", ["dvc", "notebook"])
def test_a_stage_runs_while_whoever_started_it_does(program, tmp_path):
    """Also where that is DVC in a program of another name."""
    with stage(tmp_path, program, 0.0) as parent:
        wait_for(tmp_path / "up")
        child = psutil.Process(int((tmp_path / "pid").read_text()))
        assert child.is_running()
        child.kill()
        assert parent.wait(60) == 0


@pytest.mark.parametrize(
    ("words", "forced"),
    [
        ("repro", False),
        ("repro -s finetune", False),
        ("exp run -Sfreeze=full", False),
        ("repro -f", True),
        ("repro -sf finetune", True),
        ("exp run --force", True),
    ],
)
def test_whether_dvc_was_told_to_repeat_stages_by_force(words, forced, tmp_path):
    code = "from frostline.base.processes import forced_by_dvc; print(forced_by_dvc())"
    (tmp_path / "dvc").write_text(f'#!/bin/sh\n"{sys.executable}" -c "{code}"\n:\n')
    settings = {**os.environ, "PYTHONPATH": str(SRC), "DVC_STAGE": "finetune"}
    command = ["sh", str(tmp_path / "dvc"), *words.split()]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    assert done.stdout == f"{forced}\n"
