"""`frostline compare`: compare finished runs, grouped over seeds."""

import argparse
import sys
from pathlib import Path
from typing import Any

from frostline.commands import options
from frostline.commands.ui import PORT
from frostline.console.errors import FrostlineError

EPILOG = """\
examples:
  frostline compare                                             the newest study or sweep
  frostline compare --study mnist_to_digits --out arms.html     a page with a plot
  frostline compare resnet10t·full·digits resnet10t·gradual·digits
                                                                all seeds of two configurations
  frostline compare runs/finetune/a runs/finetune/b --open      in the browser too
  frostline compare --filter "tags.freeze = 'full'" --metric test/f1_macro --metric test/loss

The best on the first metric comes first. The others' differences from it in test accuracy are paired by
seed; p is a paired t-test's, corrected for all rows together (Holm)."""


def add(commands: Any) -> None:
    """Add the command's parser."""
    text = "put finished runs side by side, grouped over seeds"
    parser = options.add_command(commands, "compare", run, text, EPILOG)
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="an id, a name with or without its seed, or a run's folder"
    )
    parser.add_argument("--study", help="all runs of a study or a sweep (default: the newest)")
    parser.add_argument("--filter", metavar="TEXT", help="all runs for which MLflow's filter holds")
    parser.add_argument(
        "--metric", action="append", metavar="NAME", help="a column, the first orders; may be repeated"
    )
    parser.add_argument("--format", choices=["table", "md", "csv", "html"], default="table", help="to print")
    parser.add_argument("--out", type=Path, help="write a file instead: .md, .csv or .html")
    parser.add_argument(
        "--open", action="store_true", help="then open MLflow's page that compares the same runs"
    )


def run(arguments: argparse.Namespace) -> None:
    """Print or write the comparison, and open MLflow's page of it where `--open` asks for it.

    Raises:
        FrostlineError: runs and a study or filter were named; or none is found.
    """
    if arguments.runs and (arguments.study or arguments.filter):
        raise FrostlineError("compare: name runs, or use --study and --filter")
    from frostline.comparison import command

    made = command.run(
        arguments.runs,
        arguments.study,
        arguments.filter,
        arguments.metric or (),
        arguments.out,
        arguments.format,
        None if sys.stdout.isatty() else options.TABLE_WIDTH,
    )
    if arguments.open:
        from frostline.commands.mlflow_server import serve
        from frostline.tracking.store import Store

        sys.stdout.flush()
        serve(PORT, command.page(made, Store(reading=True).experiment))
