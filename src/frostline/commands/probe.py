"""`frostline probe`: measure a backbone's frozen features with many heads, trained at the same time."""

import argparse
from pathlib import Path
from typing import Any

from frostline.commands import options
from frostline.training.garbage import uncollected

EPILOG = """\
examples:
  frostline probe dataset=digits backbone=efficientnet_lite0 weights=imagenet
                                                                ImageNet's features for digits
  frostline probe dataset=image_folder dataset.root=DIR backbone=efficientnet_lite0 weights=imagenet
                  optimizer.lr=1e-4,1e-3,1e-2 loss.label_smoothing=0,0.1 seed=0,1,2
                                                                18 heads, trained at the same time
  frostline probe backbone=resnet18 weights=file weights.path=runs/finetune/NAME/weights.safetensors
                  weights.head=reset                            the features of your own run, of a ResNet-18

The backbone runs once over the images; its features are cached for later probes and fine-tunings. A head is
trained for each combination of optimizer.lr, optimizer.weight_decay, loss.label_smoothing and seed.
Validation selects the best combination of the first three, by its mean over seeds. Only the heads of that
one, and ridge and k-NN classifiers, are measured on the test split.

writes into the folder out=DIR (default: runs/probe/NAME): probe.json, heads.csv (a row per head), and the
files of `frostline finetune` for the best head."""


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "probe", run, summary, EPILOG)
    options.add_overrides(parser, "optimizer.lr=1e-3,1e-2 seed=0,1,2 out=DIR")
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="has no effect: a probe always takes lists"
    )
    options.add_force(parser)
    parser.add_argument("--out", type=Path, help="folder of the results")


@uncollected()
def run(arguments: argparse.Namespace) -> None:
    """Probe, and print a table of the heads."""
    from frostline.pipeline.compose import study
    from frostline.probing import standalone

    study.note_if_unread(arguments.overrides)
    done = standalone.run(options.overrides_with_out(arguments), force=arguments.force)
    from frostline.commands.probe_table import print_probe

    print_probe(done.result, done.out)
