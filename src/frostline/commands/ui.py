"""`frostline ui`: serve MLflow with a project's runs."""

import argparse
from typing import Any

from frostline.commands import options

PORT = 5000


def add(commands: Any) -> None:
    """Add the command's parser."""
    text = "serve MLflow with this project's runs, on this machine only"
    parser = options.add_command(commands, "ui", run, text)
    parser.add_argument("--port", type=int, default=PORT, help="(default: %(default)s, or the next free one)")


def run(arguments: argparse.Namespace) -> None:
    """Serve the pages until interrupted."""
    from frostline.commands.mlflow_server import serve

    serve(arguments.port)
