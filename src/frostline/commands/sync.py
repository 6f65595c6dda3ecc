"""`frostline sync`: deliver to MLflow what is still pending."""

import argparse
from typing import Any

from frostline.commands import options

EPILOG = """\
Runs write what they record to .frostline/journal first. A command that ends waits for a server that
is unreachable or slow at most 1 % of its run time (FROSTLINE_WAIT=SECONDS waits longer), then the rest stays
in the journal. `frostline sync` delivers it, and so does the next command that records or compares. Nothing
is recorded twice.

Records are delivered to the store that their run had: for one of another MLFLOW_TRACKING_URI, set it.
exit status: 2 if something is still pending for this store."""


def add(commands: Any) -> None:
    """Add the command's parser."""
    text = "deliver to MLflow what it could not record when it happened"
    options.add_command(commands, "sync", run, text, EPILOG)


def run(arguments: argparse.Namespace) -> None:
    """Deliver all pending records of this project."""
    from frostline.tracking import sync

    sync.run()
