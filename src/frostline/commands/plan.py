"""`frostline plan`: show what a run would train, without training."""

import argparse
from pathlib import Path
from typing import Any

from frostline.commands import options
from frostline.console.errors import FrostlineError
from frostline.console.progress import waiting

CLASSES = 10
"""Default of `--classes`: as many as the data sets have that come with frostline."""
PLOT_SUFFIXES = (".svg", ".png")
EPILOG = """\
examples:
  frostline plan freeze=gradual                                   the study of params.yaml, with this schedule
  frostline plan experiment=null freeze=gradual backbone=resnet18 --images 1000
                                                                  without params.yaml and a data set
  frostline plan freeze=gradual --picture plan.svg                also plot it
  frostline plan freeze=gradual --time                            how long it trains on this machine
  frostline plan freeze=lp_ft --format yaml                       print the schedule, to write your own

FLOPs per image: "once" for frozen layers whose output is cached; "forward" and "backward" once per epoch.
Sizes are those of float32. A run in bfloat16 or float16 needs about half. So it may cache features although
the plan says that this would save little."""


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "plan", run, summary, EPILOG)
    options.add_overrides(parser, "freeze=gradual backbone=resnet18")
    parser.add_argument(
        "--stage",
        choices=["pretrain", "finetune"],
        default="finetune",
        help="stage to plan (default: %(default)s)",
    )
    parser.add_argument(
        "--images",
        type=options.positive,
        metavar="N",
        help="number of training images; the data set is not read",
    )
    parser.add_argument(
        "--classes",
        type=options.positive,
        metavar="N",
        default=CLASSES,
        help="number of classes, with --images (default: %(default)s)",
    )
    parser.add_argument(
        "--format",
        choices=["table", "yaml", "json"],
        default="table",
        help="yaml: a freeze schedule to edit (default: %(default)s)",
    )
    parser.add_argument(
        "--time",
        action="store_true",
        help="also measure a few steps of each phase, and estimate how long the run trains on this machine",
    )
    parser.add_argument(
        "--picture",
        type=_plot_path,
        metavar="FILE",
        help="also plot learning rates and frozen layers, as .svg or .png",
    )


def run(arguments: argparse.Namespace) -> None:
    """Print the plan of a run, and plot it where `--picture` names a file."""
    from frostline.config import compose, stage_configs
    from frostline.pipeline import standalone
    from frostline.pipeline.compose import study

    if arguments.time and arguments.images:
        raise FrostlineError("plan: --time trains on the images of a data set; leave out --images")
    if arguments.time and arguments.format == "yaml":
        raise FrostlineError("plan: --format yaml has no place for --time; leave out one of the two")
    overrides = study.on_selection(arguments.overrides)
    try:
        composed, choices = compose.experiment(overrides)
        composed = stage_configs.at_first_fold(composed, arguments.stage)
        data: Any = (arguments.images, arguments.classes)
        folder: Path | None = None
        if not arguments.images:  # before torch is imported
            role = "source" if arguments.stage == "pretrain" else "target"
            data, folder = standalone.prepared(composed, role)
    except FrostlineError as error:
        if len(overrides) > len(arguments.overrides):
            error.args = (f"{error} (with the study of params.yaml; experiment=null plans without it)",)
        raise
    with waiting("loading PyTorch and building the network"):
        from frostline.planning import plan, text

        run_plan = plan.make(composed, choices, arguments.stage, data)
    if arguments.time and folder:
        run_plan = plan.with_duration(run_plan, composed, choices, arguments.stage, folder)
    match arguments.format:
        case "table":
            text.show(run_plan)
        case "yaml":
            print(text.as_yaml(run_plan), end="")
        case "json":
            print(run_plan.as_json(), end="")
    if arguments.picture:
        from frostline.base.files import write_bytes
        from frostline.planning import plot

        write_bytes(arguments.picture, plot.draw(run_plan.as_data(), arguments.picture.suffix))


def _plot_path(text: str) -> Path:
    path = Path(text)
    if path.suffix not in PLOT_SUFFIXES:
        endings = " or ".join(PLOT_SUFFIXES)
        raise argparse.ArgumentTypeError(f"found {text}; name a file that ends in {endings}")
    return path
