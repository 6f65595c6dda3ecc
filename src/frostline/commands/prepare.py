"""`frostline prepare`: read a data set and write its index."""

import argparse
import sys
from pathlib import Path
from typing import Any

from frostline.commands import options


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "prepare", run, summary)
    options.add_overrides(parser, "dataset=image_folder dataset.root=DIR out=DIR")
    options.add_resolved(parser)
    parser.add_argument("--out", type=Path, help="folder of the index")


def run(arguments: argparse.Namespace) -> None:
    """Prepare the data set of a resolved config or of overrides, and print its size."""
    from frostline.base import project
    from frostline.config import compose, stage_configs
    from frostline.console.progress import shown
    from frostline.pipeline.session import writing
    from frostline.schema import Prepare

    role = "target"
    if arguments.resolved:
        role = arguments.resolved.stem.removeprefix("prepare-")  # as `frostline compose` names it
        out = arguments.out or Path("artifacts/data")
        if options.write_if_omitted(arguments.resolved, out):
            return
        config = options.read_resolved(arguments.resolved, Prepare)
    else:
        composed, _ = compose.experiment(arguments.overrides)
        config = stage_configs.prepare_config(composed, role)
        out = arguments.out or Path(composed.out or f"runs/prepare/{config.dataset.kind}")
    from frostline.preparation.stage import prepare, set_aside_if_damaged

    with writing(out), stage_configs.keys_of(role):
        index = prepare(config, out, shown)
    if not arguments.resolved:
        set_aside_if_damaged(config, project.scratch())
    for warning in index.warnings:
        print(f"frostline: warning: {warning}", file=sys.stderr)
    counts = ", ".join(f"{len(index.rows(split)) or 'no'} {split}" for split in ("train", "val", "test"))
    print(f"{out}: {len(index.labels)} images of {len(index.classes)} classes ({counts})")
