"""`frostline register`: make a run's network a version of a registered model in MLflow."""

import argparse
from typing import Any

from frostline.commands import options

EPILOG = f"""\
examples:
  frostline register runs/finetune/NAME --name digits --alias champion
                                        the best so far; what was champion before stays a version
  frostline register 5f0c… --name digits
                                        by the run's id, as `frostline ui` shows it

{options.RUN_HELP}

The model is a program of torch.export's, without a pickle: (N, channels, size, size) uint8 images in,
(N, classes) probabilities out. It is tested before it is stored. Plain MLflow loads it with
mlflow.pytorch.load_model("models:/digits@champion"); frostline need not be installed there. Registering the
same weights again adds no second version."""


def add(commands: Any) -> None:
    """Add the command's parser."""
    text = "make a run's network a version of a model in MLflow"
    parser = options.add_command(commands, "register", run, text, EPILOG)
    parser.add_argument("run", metavar="RUN", help="a run's folder, its id or its name; see below")
    parser.add_argument("--name", required=True, help="of the model; created if there is none yet")
    parser.add_argument("--alias", help="such as champion: models:/NAME@ALIAS is then this version")


def run(arguments: argparse.Namespace) -> None:
    """Register the network, and print its version."""
    from frostline.serving import resolve
    from frostline.tracking import sync

    sync.deliver_pending()
    folder = resolve.folder(arguments.run)
    from frostline.runs.trained_run import TrainedRun
    from frostline.tracking.registry import Models
    from frostline.tracking.store import Store

    made = Models(Store()).register(TrainedRun.read(folder), arguments.name, arguments.alias)
    what = f"{made.name} version {made.version}"
    print(f"{what}{'' if made.new else ' has these weights already'}: {made.description}")
    if made.difference is not None:
        print(f"differs from the network by {made.difference:.1e} at most, on {made.tried_on}")
    if arguments.alias:
        before = f" (before: version {made.moved})" if made.moved else ""
        print(f"models:/{made.name}@{arguments.alias} is version {made.version}{before}")
