"""Ray for real: on this machine alone, and as a cluster of two nodes; one is killed.

Nodes that `ray start` makes listen on every address of the machine, so all of this is in a network namespace
that has nothing but loopback. One address there stands for an outside one.
"""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

import psutil
import pytest
from tests.imports import SRC
from tests.study import environment
from tests.sweeps.test_launchers import check_each_point_ran_once, light
from tests.sweeps.test_sweeper import COMPLETE, WORDS, all_of, asked, rows, trials

# MLflow 3.17 uses what SQLAlchemy 2.1 will drop.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")
OUTSIDE = "198.51.100.7"
SPACE = f"ip link set lo up && ip addr add {OUTSIDE}/32 dev lo && ip route add default dev lo src {OUTSIDE}"
PORT = 6379
TOKEN = "of-a-test-of-frostline-alone-0000"
# Ray's workers step back behind all else, which beside other tests takes minutes.
NOT_LAST = {"RAY_worker_niceness": "0"}
RAY = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, **NOT_LAST}
UNDER_WAY = """SELECT number || ' ' || value_json FROM trials
    JOIN trial_user_attributes USING (trial_id) JOIN trial_intermediate_values USING (trial_id)
    WHERE key = 'process' AND state = 'RUNNING' AND step = 10 AND trial_id NOT IN
    (SELECT trial_id FROM trial_intermediate_values WHERE step = 120)"""


@pytest.fixture(scope="module")
def within():
    """What makes a command run where only loopback is."""
    user, enter = (
        ([], []) if os.geteuid() == 0 else (["--map-root-user"], ["--user", "--preserve-credentials"])
    )
    command = ["unshare", *user, "--net", "sh", "-c", f"{SPACE} && echo ready && exec sleep 600"]
    try:
        holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        pytest.skip("no network namespaces on this machine")
    if holder.stdout.readline() != "ready\n":
        holder.communicate()
        pytest.skip("may not make a network namespace")
    yield ["nsenter", f"--target={holder.pid}", *enter, "--net", "--"]
    holder.kill()
    holder.communicate()


@pytest.fixture
def scratch():
    """Ray's own folder, whose sockets need a short path; what lies in /tmp/ray misleads others."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    yield {"RAY_TMPDIR": folder}
    shutil.rmtree(folder, ignore_errors=True)


def listening(within):
    lines = subprocess.run([*within, "ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
    return {line.split()[3].rpartition(":")[0] for line in lines.splitlines()}


@pytest.mark.slow
def test_a_local_ray_is_unreachable_from_other_machines_and_writes_no_token(within, scratch, tmp_path):
    words = ["hydra/launcher=ray", "sweep.workers=2", "seed=range(8)"]
    process = light(tmp_path, *words, within=within, **scratch, **NOT_LAST)
    addresses = set()
    while process.poll() is None:
        addresses |= listening(within)
        time.sleep(0.2)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.splitlines()[-8:] == [f"seed={seed} {seed / 10}" for seed in range(8)]
    check_each_point_ran_once(trials(tmp_path), 8)
    assert len({trial.user_attrs["process"] for trial in trials(tmp_path)}) == 2
    assert addresses == {"127.0.0.1", "[::ffff:127.0.0.1]"}
    assert not list(tmp_path.parent.glob(".ray*"))


class Node:
    """One of a cluster, with one core."""

    def __init__(self, within, folder, scratch, *words):
        self.log = folder / f"{words[0].strip('-').partition('=')[0]}.log"
        command = [*within, sys.executable, "-m", "ray.scripts.scripts", "start", *words]
        command += ["--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats", "--block"]
        settings = environment(folder / "x", PYTHONPATH=str(SRC), **RAY, **scratch)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=settings, stdout=log, stderr=log)

    def wait(self):
        give_up = time.monotonic() + 60
        while "Ray runtime started" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < give_up
            time.sleep(0.1)
        return self

    def pids(self):
        return {process.pid for process in psutil.Process(self.process.pid).children(recursive=True)}

    def kill(self):
        """SIGKILL all of it at once, what its workers have started too."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait()


@pytest.fixture
def cluster(within, scratch, tmp_path):
    with contextlib.ExitStack() as stack:
        head = Node(within, tmp_path, scratch, "--head", f"--port={PORT}", "--include-dashboard=false")
        stack.callback(head.kill)
        head.wait()
        other = Node(within, tmp_path, scratch, f"--address={OUTSIDE}:{PORT}")
        stack.callback(other.kill)
        yield other.wait()


def runs(folder, **tags):
    """The states of MLflow's runs with these tags."""
    tagged = "run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)"
    query = f"SELECT status FROM runs WHERE {' AND '.join([tagged] * len(tags))}"
    values = [part for key, value in tags.items() for part in (key.replace("_", "."), value)]
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db", timeout=20)) as store:
        return [status for (status,) in store.execute(query, values)]


def held_in_the_middle(folder, node):
    """A trial that the node runs, while another has ended: its number and process, which is held there."""
    for taken in all_of(folder, UNDER_WAY) if asked(folder, COMPLETE) else []:
        number, _, process = taken.partition(" ")
        pid = int(json.loads(process).partition("@")[0])
        if pid in node.pids():
            os.kill(pid, signal.SIGSTOP)
            if taken in all_of(folder, UNDER_WAY) and free(folder):
                return number, json.loads(process)
            os.kill(pid, signal.SIGCONT)  # it ended just now, or holds the store, for which others would wait
    return None


def free(folder):
    """Whether nobody reads the study's store or writes to it."""
    (path,) = (folder / ".frostline/sweeps").glob("*.db")
    with contextlib.closing(sqlite3.connect(path, timeout=0)) as store:
        try:
            store.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            return False
        store.rollback()
        return True


@pytest.mark.slow
def test_a_node_that_is_killed_in_the_middle_costs_a_sweep_nothing(
    within, scratch, cluster, no_runs, tmp_path
):
    folder = tmp_path / "a project"
    folder.mkdir()
    shutil.copy(no_runs, folder)
    words = [*WORDS, "freeze=full", "trainer.epochs=150", "optimizer.lr=0.01,0.02,0.03,0.04,0.05"]
    words += ["hydra/launcher=ray", f"hydra.launcher.ray.init.address={OUTSIDE}:{PORT}", "sweep.workers=2"]
    settings = environment(folder / "x", PYTHONPATH=str(SRC), FROSTLINE_TRACKING="", **RAY, **scratch)
    pipe = subprocess.PIPE
    command = [*within, sys.executable, "-m", "frostline", "finetune", *words]
    process = subprocess.Popen(command, cwd=folder, env=settings, stdout=pipe, stderr=pipe, text=True)
    while not (held := held_in_the_middle(folder, cluster)):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    number, victim = held
    while runs(folder, trial_number=number) != ["RUNNING"]:  # what records it is a process of its own
        time.sleep(0.1)
    cluster.kill()
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "frostline: trials whose process died, and that were retried: 1" in err
    assert len(rows(out)) == 5
    check_each_point_ran_once(trials(folder), 5, killed=1)
    assert runs(folder, trial_number=number, process=victim) == ["KILLED"]
    assert sorted(runs(folder, stage="finetune")) == ["FINISHED"] * 5 + ["KILLED"], err
