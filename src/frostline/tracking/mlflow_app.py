"""MLflow's UI as `frostline ui` serves it: the pages for runs and models, nothing that runs commands.

MLflow 3.17 also serves an assistant that can run shell commands, a gateway to language models, jobs and
webhooks, which no option turns off. This program serves the rest on loopback, to pages of its own origin.

    FROSTLINE_UI_STORE=URI python -m frostline.tracking.mlflow_app ARTIFACTS PORT
"""

import json
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

HOST = "127.0.0.1"
PAGES = (
    *("", "build", "favicon.ico", "get-artifact", "graphql"),
    *("health", "model-versions", "static-files", "version"),
)
"""The first parts of paths that are served beside the API."""
RESOURCES = (
    *("artifacts", "datasets", "experiments", "get-artifact", "get-online-trace-details"),
    *("get-trace-artifact", "issues", "label-schemas", "logged-models", "metrics", "model-versions"),
    *("registered-models", "review-queues", "runs", "server-info", "traces", "ui-telemetry"),
    *("unified-traces", "upload-artifact", "workspaces"),
)
"""What the API serves: the part of a path after ``/api/2.0/mlflow/``."""
REFUSED = ("/experiments/create",)
"""A new experiment could name any folder as its artifact location and so expose the files in it."""
GATEWAY = "/ajax-api/2.0/mlflow/gateway-proxy"
"""The page of runs asks here for language models; an empty list prevents an error message on the page."""

STORED = {
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.workflowType_v1": '"machine_learning"',
}
"""What the pages find in the browser's storage at first: the assistant is closed, and runs are of models."""
SCRIPT = f"""<script>try {{
  for (const [key, value] of Object.entries({json.dumps(STORED)}))
    if (localStorage.getItem(key) === null) localStorage.setItem(key, value)
}} catch {{}}</script><style>[data-assistant-ui] {{ display: none !important }}</style>""".encode()
HEAD = b"<head>"
LENGTH_OR_VERSION = (b"content-length", b"etag", b"last-modified")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guarded:
    """An ASGI application that serves only the paths that show runs and models, to its own pages.

    Args:
        port: the port of this server, which its origin contains.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], port: int) -> None:
        self._app = app
        self._origins = {f"http://{host}:{port}".encode() for host in (HOST, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond with 404 to a path that is not served, and with 403 to a page of another origin."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        origin = dict(scope["headers"]).get(b"origin")
        if scope["type"] == "http" and (scope["method"], scope["path"]) == ("GET", GATEWAY):
            await _answer(send, 200, b'{"endpoints": []}', b"application/json")
        elif scope["type"] != "http" or not is_served(scope["path"]):
            await _answer(send, 404, b"frostline ui does not serve this part of MLflow")
        elif origin is not None and origin not in self._origins:
            await _answer(send, 403, b"frostline ui serves its own pages only")
        elif (scope["method"], scope["path"]) == ("GET", "/"):
            # Without the conditions under which the page need not be sent again.
            headers = [pair for pair in scope["headers"] if not pair[0].startswith(b"if-")]
            await self._app({**scope, "headers": headers}, receive, Page(send))
        else:
            await self._app(scope, receive, send)


class Page:
    """Sends the response with MLflow's page, with `SCRIPT` in its head; other content is sent as it is."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: MutableMapping[str, Any] = {}
        self._body = b""

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """Collect the response, and send it when it is complete."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = self._body.replace(HEAD, HEAD + SCRIPT, 1)
        headers = [pair for pair in self._start["headers"] if pair[0].lower() not in LENGTH_OR_VERSION]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def is_served(path: str) -> bool:
    """Return whether a URL's path belongs to the pages for runs and models."""
    first, *rest = path.removeprefix("/").split("/")
    if first not in ("api", "ajax-api"):
        return first in PAGES
    return len(rest) > 2 and rest[1] == "mlflow" and rest[2] in RESOURCES and not path.endswith(REFUSED)


async def _answer(send: Send, status: int, text: bytes, kind: bytes = b"text/plain") -> None:
    headers = [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def main(store: str, artifacts: str, port: int) -> None:
    """Serve MLflow's store.

    Args:
        artifacts: the URI below which new experiments store their artifacts.
    """
    import uvicorn
    from mlflow.server import constants

    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: store,
        constants.REGISTRY_STORE_URI_ENV_VAR: store,
        constants.ARTIFACT_ROOT_ENV_VAR: artifacts,
        # Against DNS rebinding: requests for other host names are refused.
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"{HOST}:{port},localhost:{port}",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "",
        "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(store, store, artifacts)
    uvicorn.run(Guarded(app, port), host=HOST, port=port, log_level="warning")


if __name__ == "__main__":
    main(os.environ["FROSTLINE_UI_STORE"], sys.argv[1], int(sys.argv[2]))
