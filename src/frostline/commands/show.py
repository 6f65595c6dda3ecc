"""`frostline show`: a sheet of labelled training images as the network sees them."""

import argparse
from pathlib import Path
from typing import Any

from frostline.commands import options
from frostline.console.progress import LIBRARIES, waiting
from frostline.training.garbage import uncollected

COUNT = 24
"""Images of a sheet unless `--count` says otherwise."""
EPILOG = """\
examples:
  frostline show dataset=image_folder dataset.root=DIR backbone=efficientnet_lite0 weights=imagenet
  frostline show dataset=digits augment=light --count 12 --out digits.html

It takes the overrides of `frostline finetune`, trains nothing, and prints the path of the HTML page that it
writes. With augmentation, each image is followed by views as training would draw them."""


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "show", run, summary, EPILOG)
    options.add_overrides(parser, "dataset=digits augment=light")
    parser.add_argument(
        "--out", type=options.html_path, metavar="FILE", help="page to write (default: runs/show/NAME.html)"
    )
    parser.add_argument(
        "--count",
        type=options.positive,
        metavar="N",
        default=COUNT,
        help="number of images (default: %(default)s)",
    )


@uncollected()
def run(arguments: argparse.Namespace) -> None:
    """Write the sheet, and print its path."""
    from frostline.base.files import write_text
    from frostline.config import compose, stage_configs
    from frostline.pipeline import standalone
    from frostline.pipeline.compose import study

    study.note_if_unread(arguments.overrides)
    composed, choices = compose.experiment(arguments.overrides)
    composed = stage_configs.at_first_fold(composed)
    _, folder = standalone.prepared(composed, "target")  # before torch is imported
    with waiting(LIBRARIES):
        from frostline.sheets.training_images import show

    with waiting("drawing the images"):
        shown = show(composed, choices, arguments.count, folder)
    path: Path = arguments.out or shown.file
    write_text(path, shown.sheet.page())
    print(path)
