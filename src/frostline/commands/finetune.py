"""`frostline finetune`: fine-tune under a freeze schedule."""

import argparse
from typing import Any

from frostline.commands import options, training


def add(commands: Any) -> None:
    """Add the command's parser."""
    text = "fine-tune a network under a freeze schedule"
    parser = options.add_command(commands, "finetune", run, text, training.EPILOG)
    training.add_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Fine-tune: a stage, a single run or a sweep."""
    training.train(arguments, "finetune")
