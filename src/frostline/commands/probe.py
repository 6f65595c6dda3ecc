"""`frostline probe`: judge a backbone's frozen features with many heads, trained at once."""

import argparse
from pathlib import Path
from typing import Any

from frostline.commands import options
from frostline.training.garbage import uncollected

EPILOG = """\
examples:
  frostline probe dataset=digits backbone=efficientnet_lite0 weights=imagenet
                                                                how good ImageNet's features are for digits
  frostline probe dataset=image_folder dataset.root=DIR backbone=efficientnet_lite0 weights=imagenet
                  optimizer.lr=1e-4,1e-3,1e-2 loss.label_smoothing=0,0.1 seed=0,1,2
                                                                18 heads, trained at once
  frostline probe weights=file weights.path=runs/NAME/weights.safetensors weights.head=reset
                                                                what a run of yours has learned

The backbone runs once over the images; its features are cached for later probes and fine-tunings
(frostline cache). Lists of optimizer.lr, optimizer.weight_decay, loss.label_smoothing and seed make the
heads; validation chooses among them, and only the best configuration is measured on the test split.

writes to out: probe.json, heads.csv (a row per head), and the best head as a run with the files of
`frostline finetune freeze=linear_probe`; out is runs/probe/NAME unless set."""


def add(commands: Any) -> None:
    """Add the command's parser."""
    text = "judge a backbone's frozen features: many heads at once"
    parser = options.add_command(commands, "probe", run, text, EPILOG)
    options.add_overrides(parser, "optimizer.lr=1e-3,1e-2 seed=0,1,2 out=DIR")
    parser.add_argument("-m", "--multirun", action="store_true", help="not needed: lists are tried anyway")
    options.add_force(parser)
    parser.add_argument("--out", type=Path, help="folder of the results")


@uncollected()
def run(arguments: argparse.Namespace) -> None:
    """Probe, and print a table of the heads."""
    from frostline.probing import standalone

    done = standalone.run(options.overrides_with_out(arguments), force=arguments.force)
    from frostline.commands.probe_table import print_probe

    print_probe(done.result, done.out)
