"""`frostline lr-find`: a learning-rate range test."""

import argparse
from pathlib import Path
from typing import Any

from frostline.commands import options
from frostline.lr_finder import standalone
from frostline.pipeline.compose import study
from frostline.training.garbage import uncollected

EPILOG = """\
examples:
  frostline lr-find dataset=image_folder dataset.root=DIR backbone=efficientnet_lite0 weights=imagenet
                    freeze=linear_probe
  frostline lr-find experiment=NAME optimizer=sgd --low 1e-5 --high 100 --steps 200

It takes the overrides of `frostline finetune`, and trains in the first phase of the schedule, each step at a
higher learning rate, until the loss diverges (Smith 2017). Frozen layers run once if the run
reuses their features. It prints two learning
rates as overrides, changes no run, and writes lr.csv and lr.svg to out (default: runs/lr-find/NAME)."""


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "lr-find", run, summary, EPILOG)
    options.add_overrides(parser, "freeze=linear_probe optimizer=sgd")
    for name, default in (("--low", standalone.LOW), ("--high", standalone.HIGH)):
        end = "first" if name == "--low" else "last"
        parser.add_argument(
            name,
            type=float,
            metavar="LR",
            default=default,
            help=f"{end} learning rate (default: %(default)g)",
        )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        default=standalone.STEPS,
        help="number of learning rates (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results")


@uncollected()
def run(arguments: argparse.Namespace) -> None:
    """Print the suggested learning rates as overrides, and the path of the plot."""
    study.note_if_unread(arguments.overrides)
    overrides = options.overrides_with_out(arguments)
    done = standalone.run(overrides, arguments.low, arguments.high, arguments.steps)
    suggestion = done.test.suggestion
    assert suggestion is not None
    print(f"optimizer.lr={suggestion.steepest:g}    where the loss falls fastest")
    print(f"optimizer.lr={suggestion.tenth:g}    a tenth of the learning rate with the lowest loss")
    print(done.out / standalone.PLOT)
