"""`frostline finetune`: fine-tune under a freeze schedule."""

import argparse
from typing import Any

from frostline.commands import options, training

EPILOG = f"""\
examples:
  frostline finetune dataset=image_folder dataset.root=IMAGES backbone=efficientnet_lite0 weights=imagenet
                     freeze=linear_probe out=DIR                  on your own images
  frostline finetune experiment=NAME trainer.epochs=10 optimizer.lr=0.0003
                                                                  with other hyperparameters
  frostline finetune -m freeze=linear_probe,full seed=0,1,2       a sweep; run it again to resume
  frostline finetune --cfg job                                    all keys and their values

{training.EPILOG}"""


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "finetune", run, summary, EPILOG)
    training.add_options(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the command: as a stage of the DVC pipeline, as a single run, or as a sweep."""
    training.train(arguments, "finetune")
