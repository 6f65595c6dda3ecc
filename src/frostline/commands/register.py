"""`frostline register`: register a run's network in MLflow."""

import argparse
from typing import Any

from frostline.commands import options
from frostline.console.progress import NETWORK, waiting

EPILOG = f"""\
examples:
  frostline register runs/finetune/NAME --name digits --alias champion
                                        and point the alias champion to it
  frostline register 5f0c… --name digits
                                        by the run's id in MLflow

{options.RUN_HELP}

The model takes (N, channels, height, width) uint8 images (uint16 with input.depth=16) and returns (N,
classes) probabilities. MLflow loads it without frostline and without a pickle:
mlflow.pytorch.load_model("models:/digits@champion"). The same weights are not registered twice."""


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "register", run, summary, EPILOG)
    parser.add_argument("run", metavar="RUN", help="a run's folder, id or name, best or last")
    parser.add_argument("--name", required=True, help="name of the model, new or existing")
    parser.add_argument("--alias", help="alias of this version, such as champion")


def run(arguments: argparse.Namespace) -> None:
    """Register the network, and print its version."""
    from frostline.serving import resolve
    from frostline.tracking import sync

    sync.deliver_pending()
    folder = resolve.folder(arguments.run)
    with waiting(NETWORK):
        from frostline.runs.trained_run import TrainedRun
        from frostline.tracking.registry import Models
        from frostline.tracking.store import Store

        trained = TrainedRun.read(folder)
    with waiting("registering, and comparing the model with the network"):
        registered = Models(Store()).register(trained, arguments.name, arguments.alias)
    what = f"{registered.name} version {registered.version}"
    print(f"{what}{'' if registered.new else ' has these weights already'}: {registered.description}")
    if registered.difference is not None:
        print(
            f"differs from the network in float32 by {registered.difference:.1e} at most,"
            f" on {registered.tried_on}"
        )
    if arguments.alias:
        before = f" (before: version {registered.moved})" if registered.moved else ""
        print(f"models:/{registered.name}@{arguments.alias} is version {registered.version}{before}")
