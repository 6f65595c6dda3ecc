"""`frostline evaluate`: measure trained networks on their test split."""

import argparse
from pathlib import Path
from typing import Any

from frostline.commands import options
from frostline.console.errors import FrostlineError
from frostline.console.progress import LIBRARIES, waiting
from frostline.console.units import counted
from frostline.training.garbage import uncollected

EPILOG = f"""\
examples:
  frostline evaluate runs/finetune/NAME
  frostline evaluate runs/finetune/NAME --on photos_b
  frostline evaluate runs/finetune/NAME --on scans.csv dataset.columns.label=diagnosis --out site_b

{options.RUN_HELP}

Without --on, the run's own test split is measured again. With it, all images of DATA are, or its test split
if it has one. Classes are matched by name; DATA may lack some, but not have others. A table is read with the
run's columns, unless KEY=VALUE says otherwise. The results are in test_sets/NAME in the run's folder: the
same files as the run's, and test_set.json; in MLflow they are test/NAME/METRIC."""


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "evaluate", run, summary, EPILOG)
    parser.add_argument("run", metavar="RUN", nargs="?", help="a run's folder, id or name, best or last")
    parser.add_argument(
        "--on",
        metavar="DATA",
        help="measure a further labelled test set: a folder of class folders, a table, an .npz file",
    )
    options.add_overrides(parser, "dataset.columns.label=diagnosis, for --on")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for metrics and predictions (default: the run's, and with --on test_sets/NAME in it; a"
        " study's run needs one)",
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
    """Measure an arm as a stage of the pipeline, or a finished run again or on a further test set.

    Raises:
        FrostlineError: neither `--resolved` nor a run was named.
    """
    if arguments.resolved:
        _pipeline_stage(arguments)
    elif arguments.run:
        from frostline.serving import resolve

        _check_words(arguments)
        folder = resolve.folder(arguments.run)
        if arguments.on:
            _further_test_set(folder, arguments)
            return
        from frostline.base.metrics import WITHOUT_TTA, headline_value, headlines, held_out

        with waiting(LIBRARIES):
            from frostline.pipeline import reevaluate

        with waiting("evaluating"):
            metrics = reevaluate.run(folder, arguments.out, force=arguments.force, tta=arguments.tta)
        split = held_out(metrics)
        plain = metrics.get(split + WITHOUT_TTA)
        without = f", {headline_value(plain):.4f} without test-time augmentation" if plain else ""
        print(f"{arguments.out or folder}: {headlines(metrics, [split], details=True)}{without}")
    else:
        raise FrostlineError("evaluate: name a finished run: its folder, id or name, best or last")


def _check_words(arguments: argparse.Namespace) -> None:
    """Refuse keys of a test set without one, and a test set that is not there, before slow imports."""
    if arguments.on:
        from frostline.config import hints
        from frostline.pipeline.data_places import PLACES

        hints.check_path("--on", arguments.on, PLACES)
    elif arguments.overrides:
        raise FrostlineError(
            f"{arguments.overrides[0]}: evaluate measures a finished run as it was trained; keys describe the"
            " test set that --on DATA names"
        )


def _further_test_set(folder: Path, arguments: argparse.Namespace) -> None:
    """Measure a finished run on a further test set."""
    from frostline.base.metrics import headlines
    from frostline.pipeline import evaluate_on

    chosen = evaluate_on.Options(arguments.overrides, arguments.out, arguments.force, arguments.tta)
    measured = evaluate_on.run(folder, arguments.on, chosen)
    metrics = measured.metrics["test"]
    headline = headlines({measured.name: metrics}, [measured.name], details=True)
    print(f"{measured.out}: {headline}, {counted(int(metrics['n']), 'image')}")


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
