"""`frostline leakage`: find images of the source in the target's validation and test data."""

import argparse
import sys
from pathlib import Path
from typing import Any

from frostline.commands import options


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "leakage", run, summary)
    example = "source=image_folder source.root=DIR dataset=image_folder dataset.root=DIR"
    options.add_overrides(parser, example)
    parser.add_argument("--out", type=Path, help="folder for leakage.json and the contact sheet")
    stage = parser.add_argument_group("as a stage of a pipeline")
    options.add_resolved(stage)
    stage.add_argument("--source", type=Path, help="the prepared source's folder")
    stage.add_argument("--target", type=Path, help="the prepared target's folder")


def run(arguments: argparse.Namespace) -> None:
    """Compare two data sets as a stage of the pipeline, or those of the overrides."""
    from frostline.config import compose, stage_configs
    from frostline.pipeline.session import writing
    from frostline.schema import Leakage

    if arguments.resolved:
        options.require(arguments, "source", "target", "out")
        if options.write_if_omitted(arguments.resolved, arguments.out):
            return
        config = options.read_resolved(arguments.resolved, Leakage)
        source, target, out = arguments.source, arguments.target, arguments.out
    else:
        from frostline.pipeline.standalone import prepared_from

        composed, _ = compose.experiment(arguments.overrides)
        config = Leakage(
            source=stage_configs.prepare_config(composed, "source"),
            target=stage_configs.prepare_config(composed, "target"),
        )
        (_, source), (_, target) = prepared_from(config.source, "source"), prepared_from(config.target)
        out = arguments.out or Path(composed.out or "runs/leakage")
    from frostline.duplicates.contact_sheet import NEAR_DUPLICATES_FILE
    from frostline.leakage.stage import check_study

    with writing(out):
        warnings = check_study(config, source, target, out)
    for warning in warnings:
        print(f"frostline: warning: {warning}", file=sys.stderr)
    if warnings:
        print(f"frostline: the images that look alike: {out / NEAR_DUPLICATES_FILE}", file=sys.stderr)
    else:
        print(
            f"{out}: the target's validation and test data have no image of the source, nor a near-duplicate"
        )
