"""`frostline ui`: serve MLflow with a project's runs."""

import argparse
from typing import Any

from frostline.commands import options

PORT = 5000


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "ui", run, summary)
    parser.add_argument(
        "--port", type=int, default=PORT, help="port (default: %(default)s, or the next free one)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Serve the pages until interrupted."""
    from frostline.commands.mlflow_server import serve

    serve(arguments.port)
