"""`frostline sync`: deliver to MLflow what is still pending."""

import argparse
from typing import Any

from frostline.commands import options

EPILOG = """\
Runs write their records to .frostline/journal first. If the MLflow server is slow or unreachable, a command
waits at most 1 % of its run time (or FROSTLINE_WAIT seconds) at its end, and keeps the rest in the journal.
`frostline sync` delivers it, and so does the next command that records or compares. Nothing is recorded
twice.

To deliver records of runs that had another MLFLOW_TRACKING_URI, set it to that one.

exit status: 2 if records are still pending for this store."""


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    options.add_command(commands, "sync", run, summary, EPILOG)


def run(arguments: argparse.Namespace) -> None:
    """Deliver all pending records of this project."""
    from frostline.tracking import sync

    sync.run()
