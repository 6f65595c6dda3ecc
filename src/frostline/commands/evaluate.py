"""`frostline evaluate`: measure trained networks on their test split."""

import argparse
from pathlib import Path
from typing import Any

from frostline.commands import options
from frostline.console.errors import FrostlineError
from frostline.console.progress import LIBRARIES, waiting
from frostline.training.garbage import uncollected


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "evaluate", run, summary, options.RUN_HELP)
    parser.add_argument("run", metavar="RUN", nargs="?", help="a run's folder, id or name, best or last")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for metrics and predictions (default: the run's; a study's run needs one)",
    )
    parser.add_argument(
        "--force", action="store_true", help="overwrite metrics that differ; accept an edited config.yaml"
    )
    options.add_tta(parser)
    stage = parser.add_argument_group("as a stage of a pipeline")
    options.add_resolved(stage)
    stage.add_argument("--data", type=Path, help="the prepared data's folder")
    stage.add_argument("--finetuned", type=Path, help="folder of the arm's seeds")


@uncollected()
def run(arguments: argparse.Namespace) -> None:
    """Measure an arm as a stage of the pipeline, or a finished run again.

    Raises:
        FrostlineError: neither `--resolved` nor a run was named.
    """
    if arguments.resolved:
        _pipeline_stage(arguments)
    elif arguments.run:
        from frostline.serving import resolve

        folder = resolve.folder(arguments.run)
        from frostline.base.metrics import WITHOUT_TTA, headline_value, headlines, held_out

        with waiting(LIBRARIES):
            from frostline.pipeline import reevaluate

        with waiting("evaluating"):
            metrics = reevaluate.run(folder, arguments.out, force=arguments.force, tta=arguments.tta)
        split = held_out(metrics)
        plain = metrics.get(split + WITHOUT_TTA)
        without = f", {headline_value(plain):.4f} without test-time augmentation" if plain else ""
        print(f"{arguments.out or folder}: {headlines(metrics, [split])}{without}")
    else:
        raise FrostlineError("evaluate: name a finished run: its folder, id or name, best or last")


def _pipeline_stage(arguments: argparse.Namespace) -> None:
    from frostline.pipeline.session import make_services, writing
    from frostline.schema import Evaluate

    options.require(arguments, "data", "finetuned", "out")
    config = options.read_resolved(arguments.resolved, Evaluate)
    with writing(arguments.out):
        # Before the imports that evaluation needs: the recorder starts beside them.
        services = make_services()
        with waiting(LIBRARIES):
            from frostline.pipeline.evaluate import stage

        stage.run(config, arguments.data, arguments.finetuned, arguments.out, services)
