"""Options and modes that `frostline pretrain` and `frostline finetune` share.

A stage of the pipeline runs from a resolved config, a single run from overrides, a sweep from lists of them.
"""

import argparse
from pathlib import Path

from frostline.commands import options
from frostline.console.progress import LIBRARIES, waiting
from frostline.training.garbage import uncollected

EPILOG = """\
writes into the folder out=DIR (default: runs/COMMAND/NAME): weights.safetensors (of the selected epoch),
metrics.json, predictions.csv, history.csv, config.yaml, training.json."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that trains."""
    options.add_overrides(parser, "freeze=gradual seed=1 out=DIR")
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="run every combination of lists: a=x,y b=1,2"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="with -m: start over instead of resuming the sweep"
    )
    options.add_force(parser)
    parser.add_argument("--cfg", choices=["job"], help="print the composed config as YAML, and train nothing")
    stage = parser.add_argument_group("as a stage of a pipeline")
    options.add_resolved(stage)
    stage.add_argument("--data", type=Path, help="the prepared data's folder")
    stage.add_argument("--out", type=Path, help="folder of the results")
    stage.add_argument("--timing", type=Path, help="file for the training times")
    stage.add_argument("--pretrained", type=Path, help="folder of the pretraining, for weights=pretrain")


@uncollected()
def train(arguments: argparse.Namespace, stage: str) -> None:
    """Run `stage`, pretrain or finetune, in the mode that the arguments ask for."""
    from frostline.config import compose

    if arguments.cfg:
        print(compose.composed_yaml(arguments.overrides), end="")
    elif arguments.resolved:
        _pipeline_stage(arguments, stage)
    elif arguments.multirun:
        _sweep(arguments, stage)
    else:
        _single_run(arguments, stage)


def _pipeline_stage(arguments: argparse.Namespace, stage: str) -> None:
    """Run a stage of the pipeline: all paths are arguments, and nothing is composed."""
    from frostline.pipeline.session import make_services, writing
    from frostline.schema import Arm, Run, needs_pretraining

    options.require(arguments, "data", "out")
    if options.write_if_omitted(arguments.resolved, arguments.out, arguments.timing):
        return
    config = options.read_resolved(arguments.resolved, Run if stage == "pretrain" else Arm)
    if needs_pretraining(config.weights) and arguments.pretrained:
        path = str(arguments.pretrained / "weights.safetensors")
        config = config.model_copy(update={"weights": config.weights.model_copy(update={"path": path})})
    with writing(arguments.out):
        # Before the imports that training needs: the recorder starts beside them.
        services = make_services()
        with waiting(LIBRARIES):
            from frostline.pipeline.finetune.stage import finetune
            from frostline.pipeline.pretrain.stage import train_once
            from frostline.training.earlier_runs import RunsOfStage

        paths_and_services = arguments.data, arguments.out, services, arguments.timing
        if isinstance(config, Run):
            train_once(config, *paths_and_services, earlier=RunsOfStage(services, arguments.out))
        elif isinstance(config, Arm):
            finetune(config, *paths_and_services)


def _sweep(arguments: argparse.Namespace, stage: str) -> None:
    """Run every combination of the overrides' lists."""
    from frostline.commands.sweep_table import print_sweep
    from frostline.pipeline.compose import study
    from frostline.sweeps import jobs

    study.note_if_unread(arguments.overrides)
    overrides = options.overrides_with_out(arguments)
    print_sweep(jobs.run(stage, overrides, force=arguments.force, fresh=arguments.fresh))


def _single_run(arguments: argparse.Namespace, stage: str) -> None:
    """Train once, and print the main metrics and the epoch of the saved weights."""
    from frostline.base.metrics import headlines
    from frostline.config import compose
    from frostline.pipeline import unread
    from frostline.pipeline.compose import study
    from frostline.pipeline.standalone import Job

    composed, choices = compose.experiment(options.overrides_with_out(arguments))
    study.note_if_unread(arguments.overrides)
    if stage == "finetune":
        unread.warn_of_source(composed, choices, arguments.overrides)
    done = Job(stage, arguments.force)(composed, choices)
    trainer = composed.pretrain.trainer if stage == "pretrain" else composed.trainer
    saved = _saved_epoch(done.out, trainer.monitor)
    print(f"{done.out}: {headlines(done.metrics, ('test', 'val'), details=True)}{saved}")


def _saved_epoch(out: Path, monitor: str) -> str:
    """Return the clause on the epoch whose weights were saved; empty: nothing was trained."""
    from frostline.base.formats import read_json
    from frostline.base.metrics import deciding_metrics
    from frostline.base.run_folder import TRAINING

    record = read_json(out / TRAINING)
    if not record["epochs"]:
        return ""
    deciding = deciding_metrics(monitor, record["selection"]["chooses"])
    reason = f"best {deciding[0]}" if deciding else "the last"
    return f"; epoch {record['best_epoch']} of {record['epochs']} ({reason})"
