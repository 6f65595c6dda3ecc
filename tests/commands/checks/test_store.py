"""What the doctor says of a store that takes no run; each of its fixes is followed to the letter."""

import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.imports import SRC

from frostline.base.locks import exclusive
from frostline.base.processes import process_key
from frostline.commands.checks import project, store
from frostline.commands.checks.finding import Finding
from frostline.tracking import local_store
from frostline.training.services import RunInfo

# MLflow 3.17 uses what SQLAlchemy 2.1 will drop.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")


@pytest.fixture
def place(tmp_path, monkeypatch, no_runs):
    """A project with a store of one run, in a folder whose name a shell would split."""
    from frostline.tracking.store import Store

    folder = tmp_path / "my prôject"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_EXP_NAME", "FROSTLINE_TRACKING"):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(no_runs, folder)
    record(Store())
    return folder


def record(mlflow) -> bool:
    """Record a run; say whether it is there."""
    data = {"name": "digits", "kind": "digits", "fingerprint": "ab" * 16}
    run = mlflow.begin(RunInfo("a", "finetune", "s", {}, data, "training", {}), process_key(), when=1)
    run.files({"config.yaml": b"a: 1"})
    run.end("FINISHED")
    return run.id is not None


@pytest.fixture
def recorded(warm) -> Callable[[], bool]:
    """Whether a run started now is recorded, by a process that knows nothing of this one's store."""
    code = "from tests.commands.checks.test_store import record; from frostline.tracking.store import Store"

    def now() -> bool:
        result = subprocess.run(
            [warm, "-c", f"{code}; raise SystemExit(not record(Store()))"],
            env={**os.environ, "PYTHONPATH": f"{SRC}:{SRC.parent}"},
            capture_output=True,
        )
        return result.returncode == 0

    return now


@pytest.fixture
def ok(recorded) -> Callable[[], bool]:
    """Whether the doctor finds nothing, and it is so."""
    return lambda: said().state == "ok" and recorded()


def said() -> Finding:
    (finding,) = store.store()
    return finding


def follow(command: str) -> int:
    return subprocess.run(["bash", "-c", command], capture_output=True).returncode


def aside(finding: Finding) -> str:
    return re.search(r"move it aside: (mv .*)$", finding.fix)[1]


def upgrade(finding: Finding) -> str:
    return re.search(r"upgrade it: (.*); should that fail", finding.fix)[1]


@contextmanager
def opened(path: Path):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def test_a_store_that_takes_runs(place):
    assert (said().state, said().message) == ("ok", f"sqlite:///{place}/mlflow.db, 2 runs")


@pytest.mark.parametrize("content", [None, b""])
def test_no_store_yet(place, content, recorded):
    (place / "mlflow.db").unlink()
    if content is not None:
        (place / "mlflow.db").write_bytes(content)
    assert (said().state, said().message) == (
        "ok",
        f"sqlite:///{place}/mlflow.db will be created by the first run",
    )
    assert recorded()


def test_an_older_mlflows_store_is_upgraded(place, ok):
    from alembic import command
    from mlflow.store.db.utils import InitialBase, _get_alembic_config, create_sqlalchemy_engine

    (place / "mlflow.db").unlink()
    uri = local_store.address(place / "mlflow.db")
    engine = create_sqlalchemy_engine(uri)
    InitialBase.metadata.create_all(engine)
    config = _get_alembic_config(uri)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "acf3f17fdcc7")
    engine.dispose()
    finding = said()
    assert finding.state == "broken"
    assert "has the schema acf3f17fdcc7 of an older MLflow" in finding.message
    assert follow(upgrade(finding)) == 0
    assert (place / "mlflow.db.backup").is_file()
    assert ok()


def test_a_schema_that_is_not_what_its_version_says(place, ok):
    with opened(place / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'acf3f17fdcc7'")
    finding = said()
    assert follow(upgrade(finding)) != 0
    assert follow(aside(finding)) == 0
    assert ok()


def test_a_newer_mlflows_store(place, ok):
    with opened(place / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    finding = said()
    assert "has the schema ffffffffffff, which the installed MLflow does not know" in finding.message
    assert follow(aside(finding)) == 0
    assert ok()


def test_damage(place, ok):
    content = (place / "mlflow.db").read_bytes()
    for damaged in (b"not a database " * 99, content[:5000], content[:40960] + b"x" * 4096 + content[45056:]):
        (place / "mlflow.db").write_bytes(damaged)
        finding = said()
        assert finding.state == "broken"
        assert "is damaged" in finding.message
    assert follow(aside(finding)) == 0
    assert ok()


def test_a_folder_in_place_of_the_store(tmp_path):
    (tmp_path / "mlflow.db").mkdir()
    problem = local_store.problem(tmp_path / "mlflow.db")
    assert problem.reason == "is a folder, not a file"
    assert problem.fix.startswith("move it aside: mv ")


def test_another_programs_database(place, ok):
    (place / "mlflow.db").unlink()
    with opened(place / "mlflow.db") as connection:
        connection.execute("CREATE TABLE games (name TEXT)")
    finding = said()
    assert "is no MLflow store" in finding.message
    assert follow(aside(finding)) == 0
    assert ok()


def test_a_process_that_locks_the_database_is_named(place, monkeypatch, ok):
    monkeypatch.setattr(local_store, "BUSY_SECONDS", 0.2)
    code = (
        "import sqlite3; c = sqlite3.connect('mlflow.db', isolation_level=None);"
        " c.execute('BEGIN EXCLUSIVE'); print(1, flush=True); input()"
    )
    pipe = subprocess.PIPE
    other = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe)
    try:
        other.stdout.readline()
        finding = said()
    finally:
        other.communicate(b"\n")
    assert finding.state == "broken"
    assert "is locked by another process" in finding.message
    assert f"pid {other.pid}" in finding.message
    assert ok()


def test_runs_in_progress(place):
    lock = place / ".frostline" / "locks" / "a.lock"
    assert list(project.locks()) == []
    with exclusive(lock), exclusive(place / "mlflow.db.lock"):
        (finding,) = project.locks()
        assert finding.message == f"1 held by running processes: pid {os.getpid()}"
        assert f"is being opened by pid {os.getpid()}" in said().message
    assert list(project.locks()) == []
    assert said().state == "ok"


def test_a_deleted_experiment(place, capsys):
    from mlflow.tracking import MlflowClient

    from frostline.tracking.store import Store

    client = MlflowClient(local_store.address(place / "mlflow.db"))
    experiment = client.get_experiment_by_name("frostline")

    client.delete_experiment(experiment.experiment_id)
    finding = said()
    assert (finding.state, "the experiment 'frostline' was deleted" in finding.message) == ("note", True)
    assert follow(finding.fix.partition("to restore it now: ")[2]) == 0
    assert said().state == "ok"

    client.delete_experiment(experiment.experiment_id)
    capsys.readouterr()
    assert record(Store())
    assert capsys.readouterr().err == (
        "frostline: the MLflow experiment 'frostline' had been deleted and is restored: runs are recorded"
        " in it; to record in another, set MLFLOW_EXPERIMENT_NAME\n"
    )
    assert said().state == "ok"


def test_a_store_without_its_files(place):
    shutil.rmtree(place / "mlartifacts")
    finding = said()
    assert (finding.state, finding.message) == (
        "note",
        f"sqlite:///{place}/mlflow.db, 2 runs, whose files are missing",
    )


def test_a_project_that_was_moved(place, tmp_path, monkeypatch, recorded):
    new = tmp_path / "new"
    place.rename(new)
    monkeypatch.chdir(new)
    finding = said()
    assert (finding.state, f"this project was moved or copied from {place}" in finding.message) == (
        "note",
        True,
    )
    assert recorded()
    assert said().state == "ok"


def test_recording_that_is_off(place, monkeypatch):
    monkeypatch.setenv("FROSTLINE_TRACKING", "off")
    finding, _ = store.store()
    assert (finding.state, finding.fix) == ("note", "unset FROSTLINE_TRACKING")


def test_a_password_is_not_shown(place, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    assert said().message.startswith("http://me:***@127.0.0.1:9 is unreachable")


@pytest.mark.parametrize("uri", ["file:///tmp/runs", "./mlruns", "s3://runs"])
def test_what_is_no_store(place, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert said().message == f"{uri} is neither a database nor a server's address"


# ── servers ─────────────────────────────────────────────────────────────────────────────────────────────────


class Answering(BaseHTTPRequestHandler):
    """Answers what the test sets, and notes what it was asked."""

    status, text, asked = 200, "", None

    def do_GET(self) -> None:
        type(self).asked = (self.path, dict(self.headers))
        body = self.text.encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words) -> None:
        pass


@pytest.fixture
def server(place, monkeypatch):
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{running.server_port}")
        yield Answering
        running.shutdown()


@pytest.mark.parametrize(
    ("status", "text", "state", "words", "fix"),
    [
        (200, '{"experiment": {"experiment_id": "1", "lifecycle_stage": "active"}}', "ok", "answers", ""),
        (404, '{"error_code": "RESOURCE_DOES_NOT_EXIST"}', "ok", "answers", ""),
        (
            200,
            '{"experiment": {"experiment_id": "7", "lifecycle_stage": "deleted"}}',
            "note",
            "the experiment 'frostline' was deleted",
            "mlflow experiments restore --experiment-id 7",
        ),
        (401, "", "broken", "refuses access (401)", "set MLFLOW_TRACKING_USERNAME"),
        (500, "<html>", "broken", "answers 500 Internal Server Error", "see the server's log"),
        (404, "<html>nothing here", "broken", "answers 404 Not Found", "see the server's log"),
        (200, "<html>welcome", "broken", "is not an MLflow server", "name an MLflow server"),
        (200, "[]", "broken", "is not an MLflow server", "name an MLflow server"),
    ],
)
def test_what_a_server_answers(server, monkeypatch, status, text, state, words, fix):
    monkeypatch.setattr(server, "status", status)
    monkeypatch.setattr(server, "text", text)
    finding = said()
    assert finding.state == state
    assert words in finding.message
    assert fix in finding.fix


def test_requests_to_a_server_carry_the_credentials(server, monkeypatch):
    monkeypatch.setattr(server, "text", json.dumps({"experiment": {"lifecycle_stage": "active"}}))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "a & b")
    assert said().state == "ok"
    path, headers = server.asked
    assert path == "/api/2.0/mlflow/experiments/get-by-name?experiment_name=a+%26+b"
    assert headers["Authorization"] == "Basic bWU6c2VjcmV0"


def test_a_server_that_is_down_or_hangs(place, monkeypatch):
    monkeypatch.setattr(store, "ANSWER_SECONDS", 0.5)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        for reason in ("Connection refused", "timed out"):
            finding = said()
            assert finding.state == "broken"
            assert finding.message.startswith(f"{uri} is unreachable (")
            assert reason in finding.message
            assert "unset MLFLOW_TRACKING_URI" in finding.fix
            listener.listen()  # and never accepts
