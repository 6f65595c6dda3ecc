"""`frostline predict`: classify images with a trained network."""

import argparse
import sys
from pathlib import Path
from typing import Any

from frostline.commands import options
from frostline.console.errors import FrostlineError

EPILOG = f"""\
examples:
  frostline predict models:/digits@champion FOLDER --out predictions.csv
  frostline predict runs/finetune/NAME one.jpg two.png --top-k 3 --format json

{options.RUN_HELP}

Images are resized and normalized as in training; a test image gets the prediction in the run's
predictions.csv. A folder means all image files in it and its subfolders. The output has a row per image:
image, prediction, confidence, with --top-k also those of the next classes, and error. If an image can't be
read, error says why, the others are classified, and the exit status is 2."""


def add(commands: Any) -> None:
    """Add the command's parser."""
    text = "classify images with a trained network, as CSV or JSON"
    parser = options.add_command(commands, "predict", run, text, EPILOG)
    parser.add_argument(
        "model", metavar="RUN", help="a run's folder or a model, such as models:/digits@champion"
    )
    parser.add_argument("images", metavar="IMAGE|FOLDER", nargs="+", help="image files or folders")
    parser.add_argument("--format", choices=["csv", "json"], default="csv", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="(default: standard output)")
    parser.add_argument(
        "--top-k",
        type=options.positive,
        metavar="K",
        default=1,
        help="classes per image (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=options.positive,
        metavar="N",
        help="images per batch (default: the run's eval_batch_size)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Print or write a prediction for each image.

    Raises:
        FrostlineError: some images could not be used; the others' predictions are written.
    """
    from frostline.serving import resolve

    folder = resolve.folder(arguments.model)
    from frostline.runs.trained_run import TrainedRun
    from frostline.serving import prediction

    failed = prediction.run(
        TrainedRun.read(folder),
        arguments.images,
        arguments.format,
        arguments.out,
        arguments.top_k,
        arguments.batch_size,
    )
    if failed:
        sys.stdout.flush()
        what = "1 image" if failed == 1 else f"{failed} images"
        raise FrostlineError(
            f"predict: {what} could not be used; the error column says why, the other rows are complete"
        )
