"""A stub of the Hugging Face hub on loopback: a folder's files, with the headers that its client needs."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def publish_model(folder: Path, name: str, hub_id: str) -> dict[str, torch.Tensor]:
    """Put a model with random weights of 1,000 classes into `folder`, as timm's repositories are laid out."""
    torch.manual_seed(3)
    model = timm.create_model(name)
    target = folder / hub_id
    target.mkdir(parents=True)
    save_file(model.state_dict(), target / "model.safetensors")
    (target / "config.json").write_text(json.dumps({"architecture": name, "num_classes": 1000}))
    return model.state_dict()


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the hub's address, and the list of its requests."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            owner, repository, _, revision, name = (*self.path.strip("/").split("/", 4), *[""] * 5)[:5]
            path = folder / owner / repository / name
            if revision not in ("main", COMMIT) or not path.is_file():
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = path.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
