"""`frostline pretrain`: train on the source data set."""

import argparse
from typing import Any

from frostline.commands import options, training


def add(commands: Any) -> None:
    """Add the command's parser."""
    text = "pretrain a network on the source data set"
    parser = options.add_command(commands, "pretrain", run, text, training.EPILOG)
    training.add_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Pretrain: a stage, a single run or a sweep."""
    training.train(arguments, "pretrain")
