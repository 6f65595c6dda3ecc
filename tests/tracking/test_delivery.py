"""Nothing that a run records is lost or recorded twice, whatever becomes of servers and processes."""

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.flaky import HELD_SECONDS, Proxy, mlflow_server
from tests.study import environment

# MLflow 3.17 uses what SQLAlchemy 2.1 will drop.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")
ROOT = Path(__file__).parents[2]
RUN = """
import sys, time
from frostline.tracking.tracker import JournalTracker
from frostline.training.services import RunInfo

def info(name):
    dataset = {"name": "digits", "kind": "digits", "fingerprint": "ab12" * 16}
    return RunInfo(name, "finetune", "tiny", {"seed": 0}, dataset, "training", {"seed": "0"}, 0)

recorder = JournalTracker()

def epochs(run, first, last, pause=0.0):
    for epoch in range(first, last):
        begun = time.monotonic()
        run.log_epoch({"epoch": epoch, "step": epoch, "val/loss": 1.0 / (1 + epoch)})
        calls.append(time.monotonic() - begun)
        time.sleep(pause)

def say(*words):
    print(*words, flush=True)
    if not sys.stdin.readline():
        time.sleep(100)  # it is being killed

calls = []
"""
CLOSE = """
begun = time.monotonic()
recorder.close()
print("closed", time.monotonic() - begun, max(calls), flush=True)
sys.exit(0)
"""


class Place:
    """A project folder, the server that it records in and the proxy before it."""

    def __init__(self, python: Path, folder: Path, database: Path, port: int) -> None:
        self.python, self.folder, self.database, self.proxy = python, folder, database, Proxy(port)
        self._begun: list[subprocess.Popen] = []
        self.experiment = folder.parent.name

    def start(self, code: str, **variables: str) -> subprocess.Popen:
        """A training that runs `code` and records in the server; it waits for a line where it says one."""
        (self.folder / "training.py").write_text(RUN + code)
        return self.begin("training", **variables)

    def frostline(self, *words: str, status: int = 0, **variables: str) -> tuple[str, str]:
        command = self.begin("frostline", *words, **variables)
        out, err = command.communicate(timeout=120)
        assert command.returncode == status, (out, err)
        return out, err

    def begin(self, *words: str, **variables: str) -> subprocess.Popen:
        """Start a module, with words for it."""
        server = {"MLFLOW_TRACKING_URI": self.proxy.uri, "MLFLOW_EXPERIMENT_NAME": self.experiment}
        path = os.pathsep.join([str(ROOT / "src"), str(self.folder)])
        settings = environment(self.folder / "x", PYTHONPATH=path, **server | variables)
        pipe = subprocess.PIPE
        self._begun.append(
            subprocess.Popen(
                [str(self.python), "-m", *words],
                cwd=self.folder,
                env=settings,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                text=True,
            )
        )
        return self._begun[-1]

    def runs(self) -> dict[str, tuple[str, dict[str, list[float]]]]:
        """Run → status, and the curves that it has by metric."""
        found: dict[str, tuple[str, dict[str, list[float]]]] = {}
        with closing(sqlite3.connect(self.database)) as store:
            select = (
                "SELECT runs.name, runs.status, run_uuid FROM runs JOIN experiments USING (experiment_id)"
                " WHERE runs.lifecycle_stage = 'active' AND runs.name != 'tiny' AND experiments.name = ?"
            )
            for name, status, run in store.execute(select, [self.experiment]).fetchall():
                assert name not in found, f"{name} is there twice"
                curves: dict[str, list[float]] = {}
                rows = store.execute(
                    "SELECT key, value FROM metrics WHERE run_uuid = ? AND key NOT LIKE 'system%'"
                    " ORDER BY step",
                    [run],
                )
                for key, value in rows:
                    curves.setdefault(key, []).append(value)
                found[name] = status, curves
        return found

    def count(self, stage: str) -> int:
        """How many runs, and studies, are active or deleted."""
        with closing(sqlite3.connect(self.database)) as store:
            select = (
                "SELECT COUNT(*) FROM runs JOIN experiments USING (experiment_id)"
                " WHERE runs.lifecycle_stage = ? AND experiments.name = ?"
            )
            return int(store.execute(select, [stage, self.experiment]).fetchone()[0])

    def journals(self) -> list[Path]:
        return sorted((self.folder / ".frostline/journal").glob("*"))

    def close(self) -> None:
        for process in self._begun:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self.proxy.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory, warm, no_runs) -> Iterator[tuple[Path, int]]:
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(warm, folder, no_runs) as port:
        yield folder / "team.db", port


@pytest.fixture
def place(server, warm, tmp_path) -> Iterator[Place]:
    folder = tmp_path / "a prôject"
    folder.mkdir()
    made = Place(warm, folder, *server)
    yield made
    made.close()


def curve(epochs: int) -> list[float]:
    return [1.0 / (1 + epoch) for epoch in range(epochs)]


def ended(training: subprocess.Popen) -> tuple[float, float, str]:
    """How long it waited for the recorder, its longest call, and what it said."""
    out, err = training.communicate(timeout=150)
    assert training.returncode == 0, (out, err)
    (line,) = [line for line in out.splitlines() if line.startswith("closed")]
    return float(line.split()[1]), float(line.split()[2]), err


def wait_for(condition) -> None:
    give_up = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


FOUR_PARTS = """
with recorder.run(info("mine")) as run:
    epochs(run, 0, 10)
    say("first")
    epochs(run, 10, 20)
    say("second")
    epochs(run, 20, 30)
    run.log_metrics({"best/val/accuracy": 0.5})
"""
WHOLE = {"mine·s0": ("FINISHED", {"val/loss": curve(30), "best/val/accuracy": [0.5]})}


def go(training: subprocess.Popen, word: str) -> None:
    """Wait until it says a word, and let it continue."""
    assert training.stdout.readline() == f"{word}\n"
    training.stdin.write("\n")
    training.stdin.flush()


def test_a_server_that_is_gone_for_a_while_costs_nothing(place):
    training = place.start(FOUR_PARTS + CLOSE, FROSTLINE_WAIT="60")
    wait_for(lambda: "mine·s0" in place.runs())
    place.proxy.becomes("refuse")
    go(training, "first")
    time.sleep(2.0)
    place.proxy.becomes("pass")
    go(training, "second")
    _, _, err = ended(training)
    assert err == ""
    assert place.runs() == WHOLE
    assert place.journals() == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["refuse", "error", "hang", "lose"])
def test_what_a_server_does_not_take_stays_in_the_journal_until_the_next_command(place, mode):
    training = place.start(FOUR_PARTS + CLOSE)
    wait_for(lambda: "mine·s0" in place.runs())
    place.proxy.becomes(mode)
    go(training, "first")
    go(training, "second")
    _, _, err = ended(training)
    assert err.count("\n") == 1
    assert "records for MLflow at http://127.0.0.1" in err
    assert "`frostline sync` or the next command delivers them" in err
    assert place.runs()["mine·s0"][0] == "RUNNING" or mode == "lose"

    if mode in ("refuse", "error"):  # sync says so; these fail at once
        _, err = place.frostline("sync", status=2)
        why = "it closes the connection" if mode == "refuse" else "it answers with status 500"
        assert f"can't record them ({why})" in err
        assert "Traceback" not in err
    place.proxy.becomes("pass")
    out, err = place.frostline("compare")
    assert err.count("warning") == 0
    assert "mine" in out
    assert place.runs() == WHOLE
    assert place.journals() == []
    assert "nothing is pending" in place.frostline("sync")[0]


def test_a_slow_server_is_not_waited_for(place):
    place.proxy.delay = 2.0
    training = place.start(FOUR_PARTS + CLOSE)
    go(training, "first")
    go(training, "second")
    waited, _, err = ended(training)
    assert waited < 60  # 30 answers at 2 s each, were they waited for one after the other
    assert "it is slow" in err
    place.proxy.delay = 0.0
    out, _ = place.frostline("sync")
    assert "delivered" in out
    assert place.runs() == WHOLE
    assert place.journals() == []


@pytest.mark.parametrize("victims", ["recorder", "training", "both"])
def test_processes_that_are_killed_lose_nothing(place, victims):
    code = """
say(recorder._process.pid)
"""
    training = place.start(code + FOUR_PARTS + CLOSE, FROSTLINE_WAIT="60")
    child = int(training.stdout.readline())
    training.stdin.write("\n")
    training.stdin.flush()
    wait_for(lambda: "mine·s0" in place.runs())
    go(training, "first")
    if victims in ("recorder", "both"):
        os.kill(child, signal.SIGKILL)
    if victims in ("training", "both"):
        assert training.stdout.readline() == "second\n"
        training.kill()
        training.communicate()
        if victims == "training":
            wait_for(lambda: not place.journals())
        else:
            assert place.runs()["mine·s0"][0] == "RUNNING"
            place.frostline("sync")
        assert place.runs() == {"mine·s0": ("KILLED", {"val/loss": curve(20)})}
    else:
        go(training, "second")
        _, _, err = ended(training)
        assert err == ""
        assert place.runs() == WHOLE
    assert place.journals() == []


@pytest.mark.parametrize(("fault", "message"), [("losing", b"runs/create"), ("holding", b'"mine')])
def test_a_run_is_created_once(place, fault, message):
    """The server creates it, and its answer is lost; or it does so long after the client gave up."""
    setattr(place.proxy, fault, message)
    training = place.start(FOUR_PARTS + CLOSE, MLFLOW_HTTP_REQUEST_TIMEOUT="1", FROSTLINE_WAIT="60")
    go(training, "first")
    wait_for(lambda: place.proxy.lost >= 2 if fault == "losing" else not place.proxy.holding)
    time.sleep(HELD_SECONDS + 1)
    go(training, "second")
    _, _, err = ended(training)
    assert err == ""
    assert place.runs() == WHOLE
    assert place.count("active") == 2
    # The next try finds the run, or has made another by the time that it appears, which is then deleted.
    assert place.count("deleted") <= (fault == "holding")


def test_two_syncs_at_once_deliver_once(place):
    place.proxy.becomes("refuse")
    training = place.start(FOUR_PARTS + CLOSE)
    go(training, "first")
    go(training, "second")
    ended(training)
    assert place.runs() == {}
    place.proxy.becomes("pass")
    place.proxy.delay = 0.05
    syncs = [place.begin("frostline", "sync") for _ in range(3)]
    assert [sync.communicate(timeout=150)[1] for sync in syncs] == ["", "", ""]
    wait_for(lambda: not place.journals())
    assert place.runs() == WHOLE


def test_records_go_to_their_own_store_only(place, no_runs):
    place.proxy.becomes("refuse")
    training = place.start(FOUR_PARTS + CLOSE)
    go(training, "first")
    go(training, "second")
    ended(training)
    place.proxy.becomes("pass")
    out, _ = place.frostline("sync", MLFLOW_TRACKING_URI="")
    assert f"records wait for {place.proxy.uri}: MLFLOW_TRACKING_URI={place.proxy.uri} frostline sync" in out
    assert place.runs() == {}
    place.frostline("sync")
    assert place.runs() == WHOLE
