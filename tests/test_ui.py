"""The MLflow pages: a real server, asked, interrupted, and told what is wrong."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from frostline.errors import FrostlineError
from frostline.ui import DIRECTLY, PORTS_TRIED, free_port


def test_a_taken_port_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        first = taken.getsockname()[1]
        assert first < free_port(first) < first + PORTS_TRIED


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_what_is_no_port_is_refused(port):
    with pytest.raises(FrostlineError, match=f"--port: found {port}; name one from 1 to 65535"):
        free_port(port)


@pytest.fixture
def start(tmp_path):
    """Start `frostline ui` in an empty folder; return it and the first lines it prints."""
    started = []

    def starter(lines, **variables):
        with socket.socket() as free:  # one of our own: other tests serve at the same time
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        command = [sys.executable, "-m", "frostline", "ui", "--port", port]
        ui = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={k: v for k, v in os.environ.items() if not k.startswith("MLFLOW")} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(ui)
        return ui, [ui.stdout.readline() for _ in range(lines)]

    yield starter
    for ui in started:
        ui.terminate()  # so that it ends its server, which a kill would leave
        ui.communicate(timeout=30)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_serves_until_interrupted_and_takes_its_server_along(start, how):
    ui, (address, page) = start(2, http_proxy="http://127.0.0.1:9")  # where nothing is
    url = re.fullmatch(r"(http://127\.0\.0\.1:\d+)  \(Ctrl-C ends it\)\n", address)[1]
    assert page == f"{url}/#/experiments/1/runs?workflowType=machine_learning  (training runs)\n"
    with DIRECTLY.open(f"{url}/health") as answer:
        assert answer.status == 200
    ui.send_signal(how)
    _, errors = ui.communicate(timeout=30)
    assert ui.returncode == 0
    assert "Traceback" not in errors
    assert not answers(url)


def test_a_teams_server_is_named_not_started(start):
    ui, lines = start(1, MLFLOW_TRACKING_URI="https://mlflow.example.org")
    assert lines == ["https://mlflow.example.org  (MLFLOW_TRACKING_URI)\n"]
    assert ui.wait(timeout=20) == 0


def test_a_store_that_is_no_database_is_told_in_a_sentence(start, tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database")
    ui, _ = start(0, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path / 'mlflow.db'}")
    _, errors = ui.communicate(timeout=90)
    assert ui.returncode == 2
    assert errors == (
        "frostline: error: ui: the MLflow server ended with status 1 "
        "(sqlalchemy.exc.DatabaseError: (sqlite3.DatabaseError) file is not a database)\n"
    )


def answers(url):
    for _ in range(20):
        try:
            DIRECTLY.open(f"{url}/health", timeout=1).close()
        except OSError:
            return False
        time.sleep(0.2)
    return True
