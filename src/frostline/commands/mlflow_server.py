"""Serve MLflow's pages of a project's runs, on this machine only."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from frostline.base import project
from frostline.base.files import write_text
from frostline.base.formats import canonical_json, read_json
from frostline.base.hashes import content_key
from frostline.base.processes import process_is_alive, process_key
from frostline.console.errors import FrostlineError
from frostline.tracking import local_store, sync

HOST = "127.0.0.1"
PORTS_TRIED = 20
SERVER = "ui.json"
"""The note in the scratch folder on the server that runs."""
MOST_STUDIES = 100
"""How many of the newest studies and sweeps `ui` searches for the addresses that it prints."""
MOST_RUNS = 100
"""How many of the newest rows of a study's view `ui` looks at for a result; without one, it shows nothing."""
SINGLE_RUNS = "default"
"""The study of runs outside studies and sweeps, as conf/config.yaml names it."""
RESULTS = ("best/", "test/")
"""The prefixes of metrics that are results."""
START_SECONDS = 90.0
CHECK_SECONDS = 0.2
END_SECONDS = 5.0
"""Time limit for the server to close its connections, before it is killed."""
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens addresses of this machine without the environment's proxy, whose 127.0.0.1 is another machine."""


def serve(port: int, page: str | None = None) -> None:
    """Serve until interrupted; where a server runs already, print its address instead.

    Args:
        port: the first port to try; the next free one is used.
        page: the page to open in the browser, such as ``/#/compare-runs?…``.

    Raises:
        FrostlineError: no port is free, the store can't be opened, or the server ends by itself.
    """
    sync.deliver_pending()
    uri = project.store_uri()
    if uri.startswith(("http://", "https://")):
        pages = [] if page else _pages_of_runs(uri, urllib.request.build_opener())
        print(f"{uri}{page or ''}  (MLFLOW_TRACKING_URI)", *pages, sep="\n")
        if page:
            webbrowser.open(f"{uri}{page}")
        return
    if (running := _running(uri)) is not None:
        _show(running, "runs already; Ctrl-C in its terminal ends it", page)
        return
    port = free_port(port)
    ends = _interrupted_by(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    with ends, _opened(uri) as store, tempfile.TemporaryFile() as log, _server(store, port, log) as server:
        if not _comes_up(server, port):
            raise _ended_error(server, log)
        with _noted(uri, port):
            _show(port, "Ctrl-C ends it", page)
            server.wait()
        raise _ended_error(server, log)


def _show(port: int, note: str, page: str | None) -> None:
    """Print the addresses of a server's pages, and open one if it is named."""
    here = f"http://{HOST}:{port}"
    pages = [f"{here}{page}"] if page else _pages_of_runs(here, DIRECTLY)
    print(f"{here}  ({note})", *pages, sep="\n", flush=True)
    if page:
        webbrowser.open(f"{here}{page}")


@contextmanager
def _noted(uri: str, port: int) -> Iterator[None]:
    """Note during the block, in the project's scratch folder, that this process serves a store at a port."""
    note, process = project.scratch() / SERVER, process_key()
    with suppress(FrostlineError, OSError):  # a read-only project
        write_text(note, canonical_json({"store": content_key(uri), "port": port, "process": process}))
    try:
        yield
    finally:
        with suppress(FrostlineError, OSError, KeyError, TypeError):
            if read_json(note)["process"] == process:
                note.unlink()


def _running(uri: str) -> int | None:
    """Return the port at which another process serves a store already; None: none does."""
    with suppress(FrostlineError, OSError, KeyError, TypeError):
        noted = read_json(project.scratch() / SERVER)
        if noted["store"] == content_key(uri) and process_is_alive(noted["process"]):
            with DIRECTLY.open(f"http://{HOST}:{noted['port']}/health", timeout=1):
                return int(noted["port"])
    return None


def free_port(first: int) -> int:
    """Return the first free port from `first`.

    Raises:
        FrostlineError: `first` is no port, or the next `PORTS_TRIED` are all taken.
    """
    if not 0 < first < 65536:
        raise FrostlineError(f"--port: found {first}; name one from 1 to 65535")
    for port in range(first, min(first + PORTS_TRIED, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((HOST, port))
                return port
    raise FrostlineError(f"--port: none from {first} to {first + PORTS_TRIED - 1} is free; name another")


@contextmanager
def _opened(uri: str) -> Iterator[str]:
    """Yield the URI to serve a store by; create the default store if no run has yet.

    The store of a read-only project is served as it is; if that project was moved, a copy of the store with
    the new paths is served.
    """
    database = local_store.database(uri)
    if database is None:
        yield uri
        return
    if problem := local_store.problem(database):
        raise FrostlineError(f"ui: {uri} {problem.reason}; {problem.fix}")
    if local_store.unwritable(database) and not local_store.is_empty(database):
        if not local_store.moved_from(database):
            yield local_store.readable(database)
            return
        with tempfile.TemporaryDirectory(prefix="frostline-") as folder:
            yield local_store.address(local_store.copied(database, Path(folder)))
        return
    if local_store.is_empty(database) or local_store.moved_from(database):
        from frostline.tracking.store import Store

        if not Store().connect():
            raise FrostlineError("ui: there is no store to show; the warning above says why")
    yield local_store.address(database)


@contextmanager
def _server(uri: str, port: int, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server in its own session, and end it with its workers when the block ends."""
    database = local_store.database()
    artifacts = local_store.artifacts_uri(database) if database else "./mlartifacts"
    # -P: modules in the current folder must not shadow installed ones.
    command = [sys.executable, "-P", "-m", "frostline.tracking.mlflow_app", artifacts, str(port)]
    settings = {"MLFLOW_LOGGING_LEVEL": "WARNING", "PYTHONWARNINGS": "ignore"}
    # Not as an argument: other users can read those, and the URI may contain a password.
    environment = {**settings, **os.environ, "FROSTLINE_UI_STORE": uri}
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield server
    except KeyboardInterrupt:
        pass
    finally:
        for number, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, None)):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(server.pid, number)
                server.wait(seconds)


def _comes_up(server: subprocess.Popen[bytes], port: int) -> bool:
    """Return whether the server answers; False: it ended instead."""
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        if server.poll() is not None:
            return False
        with suppress(OSError), DIRECTLY.open(f"http://{HOST}:{port}/health", timeout=1):
            return True
        time.sleep(CHECK_SECONDS)
    raise FrostlineError(f"ui: the MLflow server did not start in {START_SECONDS:.0f} seconds; try again")


def _pages_of_runs(here: str, opener: urllib.request.OpenerDirector) -> list[str]:
    """Return lines with addresses: results of the newest study and sweep that have any, and all runs.

    MLflow's start page is about language models.

    Args:
        here: the server's address.
        opener: opens it.
    """
    from frostline.tracking import views

    def asked(path: str, content: dict[str, object] | None = None) -> dict[str, Any]:
        body = None if content is None else json.dumps(content).encode()
        address = f"{here.rstrip('/')}/api/2.0/mlflow/{path}"
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with opener.open(request, timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def search(condition: str, limit: int) -> list[dict[str, Any]]:
        content = {"experiment_ids": [identity], "filter": condition, "max_results": limit}
        answer = asked("runs/search", {**content, "order_by": ["attributes.start_time DESC"]})
        return [run["data"] for run in answer.get("runs", [])]

    def newest(condition: str, limit: int) -> list[dict[str, str]]:
        return [{tag["key"]: tag["value"] for tag in run["tags"]} for run in search(condition, limit)]

    def order(study: str) -> str | None:
        """Return the metric that orders the study's results; None while there are none."""
        state = json.loads(states.get(f"{views.PREFIX}{views.key(study)}", "null"))
        rows = search(state["searchFilter"], MOST_RUNS) if state else []
        measured = any(metric["key"].startswith(RESULTS) for row in rows for metric in row.get("metrics", []))
        return state["orderByKey"].removeprefix("metrics.").strip("`") if measured else None

    query = urllib.parse.urlencode({"experiment_name": project.experiment()})
    try:
        experiment = asked(f"experiments/get-by-name?{query}")["experiment"]
        identity = experiment["experiment_id"]
        last = newest("tags.study LIKE '%'", 1)
        studies = newest("tags.stage = 'study'", MOST_STUDIES)
        last_first = sorted(studies, key=lambda tags: tags["study"] not in [run["study"] for run in last])
        states = {tag["key"]: tag["value"] for tag in experiment.get("tags", [])}
        lines: dict[str, str] = {}
        for tags in last_first:
            kind, study = ("sweep" if "objective" in tags else "study"), tags["study"]
            if kind not in lines and (metric := order(study)):
                what = "single runs" if study == SINGLE_RUNS else f"{kind} {study}"
                lines[kind] = f"{here}{views.page(identity, study)}  ({what}, by {metric})"
    except (OSError, ValueError, KeyError):  # no such experiment, or the server wants a password
        return []
    runs = f"{here}/#/experiments/{identity}/runs?workflowType=machine_learning"
    return [*lines.values(), f"{runs}  (training runs)"]


def _ended_error(server: subprocess.Popen[bytes], log: IO[bytes]) -> FrostlineError:
    """Return an error with the reason that the server ended for: the last one in its log."""
    log.seek(0)
    lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    reasons = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)] or lines
    reason = f" ({reasons[-1]})" if reasons else ""
    return FrostlineError(f"ui: the MLflow server ended with status {server.returncode}{reason}")


@contextmanager
def _interrupted_by(*signals: signal.Signals) -> Iterator[None]:
    """Treat these signals like Ctrl-C."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
