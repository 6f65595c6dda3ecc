"""`frostline pretrain`: train on the source data set."""

import argparse
from typing import Any

from frostline.commands import options, training


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "pretrain", run, summary, training.EPILOG)
    training.add_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Pretrain: a stage, a single run or a sweep."""
    training.train(arguments, "pretrain")
