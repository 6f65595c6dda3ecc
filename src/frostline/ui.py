"""The MLflow pages of a project, served on this machine only."""

import os
import socket
import subprocess
import sys

from frostline import project
from frostline.errors import FrostlineError

HOST = "127.0.0.1"
PORTS_TRIED = 20


def serve(port: int) -> None:
    """Serve until interrupted, at `port` or the next free one.

    Raises:
        FrostlineError: no port is free, or the server ends by itself.
    """
    from frostline.adapters.tracking import MlflowTracker, store_uri

    MlflowTracker().connect()
    free = _free_port(port)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store_uri(), "--host", HOST]
    command += ["--port", str(free), "--workers", "1"]
    if store_uri().startswith("sqlite:"):
        command += ["--default-artifact-root", f"file://{project.home() / 'mlartifacts'}"]
    # Job execution would double memory and start-up time, for features that tracking does not use.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    print(f"http://{HOST}:{free}  (Ctrl-C ends it)", flush=True)
    status = subprocess.run(command, env=environment, check=False).returncode
    if status not in (0, -2, 130):
        raise FrostlineError(f"ui: the MLflow server ended with status {status}; see its message above")


def _free_port(first: int) -> int:
    for port in range(first, first + PORTS_TRIED):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise FrostlineError(f"ui: no port from {first} to {first + PORTS_TRIED - 1} is free; name one with --port")
