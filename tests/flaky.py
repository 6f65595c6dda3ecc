"""A real MLflow server on loopback, and a proxy in front of it that fails as networks and servers do."""

import contextlib
import os
import selectors
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 120
HELD_SECONDS = 3.0
SERVER = """
import os, sys
import uvicorn
from mlflow.server import constants, handlers

folder, port = sys.argv[1:]
store = f"sqlite:///{folder}/team.db"
os.environ |= {
    constants.BACKEND_STORE_URI_ENV_VAR: store,
    constants.REGISTRY_STORE_URI_ENV_VAR: store,
    constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
    constants.ARTIFACTS_DESTINATION_ENV_VAR: f"{folder}/files",
    constants.SERVE_ARTIFACTS_ENV_VAR: "true",
}
handlers.initialize_backend_stores(store, store, "mlflow-artifacts:/")
uvicorn.run("mlflow.server.fastapi_app:app", host="127.0.0.1", port=int(port))
"""
"""What `mlflow server --workers 1` does; test_team.py starts one by that command."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(
    python: Path, folder: Path, empty: Path | None = None, port: int | None = None
) -> Iterator[int]:
    """Run a server that stores everything in `folder`; yields its port.

    Args:
        python: that of tests/warm.py, or another with MLflow.
        empty: a store without runs, to begin with; None: that of `folder`, which the server makes if need be.
        port: where it listens; None: a free one.
    """
    port = port or free_port()
    if empty:
        shutil.copy(empty, folder / "team.db")
    command = [str(python), "-c", SERVER, str(folder), str(port)]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=inherited | settings, stdout=log, stderr=log, start_new_session=True
        )
    try:
        give_up = time.monotonic() + START_SECONDS
        while not answers(port):
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < give_up, (folder / "log").read_text()
            time.sleep(0.2)
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
        return True
    return False


class Proxy:
    """Passes connections on to a server, or does not.

    `mode`: pass, refuse (closes what connects), error (answers 500), hang (takes connections and answers
    nothing), lose (passes requests on and loses the answers).
    """

    def __init__(self, server: int) -> None:
        self._server = server
        self.mode = "pass"
        self.delay = 0.0
        """Seconds before each answer."""
        self.losing = self.holding = b""
        """The path of requests whose answers are lost; of a request that the server gets 3 s later, once."""
        self.lost = 0
        """Answers."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._connections: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut all connections."""
        for each in list(self._connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def becomes(self, mode: str) -> None:
        """Fail in another way from now on, on connections that there are, too."""
        self.mode = mode
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._connections.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            match self.mode:
                case "refuse":
                    return
                case "hang":
                    while client.recv(1 << 16):
                        pass
                case "error":
                    client.recv(1 << 16)
                    body = b'{"error_code": "INTERNAL_ERROR", "message": "broken"}'
                    head = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"
                    client.sendall(
                        head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
                    )
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(1 << 16):
                        pass
                case _:
                    self._pass(client)
        self._connections.discard(client)

    def _pass(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._server)) as server:
            self._connections.add(server)
            watch = selectors.DefaultSelector()
            watch.register(client, selectors.EVENT_READ, (client, server))
            watch.register(server, selectors.EVENT_READ, (server, client))
            asked, lose = False, self.mode == "lose"
            while True:
                for key, _ in watch.select():
                    source, target = key.data
                    content = source.recv(1 << 16)
                    if not content:
                        self._connections.discard(server)
                        return
                    if source is server and (lose or self.mode == "lose"):
                        self.lost += 1
                        return
                    if source is server and asked:
                        time.sleep(self.delay)
                    asked = source is client
                    lose |= asked and self.losing != b"" and self.losing in content
                    if asked and self.holding and self.holding in content:
                        self.holding = b""
                        time.sleep(HELD_SECONDS)
                    target.sendall(content)
