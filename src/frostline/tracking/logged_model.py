"""Writes a finished run's network as a model of MLflow's, and tries it.

A model is torch.export's program (`data/model.pt2`), which needs neither frostline nor a pickle, and beside
it the files of its run (`run/`), from which frostline builds the network itself.
"""

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from frostline.console.errors import FrostlineError

if TYPE_CHECKING:
    from frostline.runs.trained_run import TrainedRun

RUN = "run"
"""The folder of a model that holds its run's files."""
CHECKED = 16
"""Images that a stored model is tried on."""


def save(trained: "TrainedRun", folder: Path, about: Model) -> tuple[float, str]:
    """Write a finished run's network into an empty folder as a model of MLflow's, and try it.

    Args:
        trained: the run.
        folder: to make.
        about: is told the signature and the rest of what MLmodel says.

    Returns:
        The largest difference of a probability between the network and what was read again, and the images
        that this was seen on, in words.

    Raises:
        FrostlineError: torch.export can't write the network, or what it wrote gives something else.
    """
    import mlflow.pytorch
    import numpy as np
    import torch

    from frostline.runs.wrapper import TOLERANCE, TRACED, largest_difference

    served, spec = trained.served(), trained.spec
    images, tried_on = trained.images(CHECKED)
    example = images[torch.arange(TRACED) % len(images)].numpy()
    shape = (-1, spec.channels, spec.size, spec.size)
    # Without names: MLflow would hand the network a dictionary.
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.uint8), shape)]),
        Schema([TensorSpec(np.dtype(np.float32), (-1, len(trained.classes)))]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's and MLflow's, on each other's ways
        try:
            mlflow.pytorch.save_model(
                served,
                str(folder),
                mlflow_model=about,
                signature=signature,
                input_example=example,
                pip_requirements=[
                    f"torch=={torch.__version__.partition('+')[0]}",
                    f"numpy=={np.__version__}",
                ],
                metadata=trained.about(),
                serialization_format="pt2",
            )
        except Exception as error:
            raise _cannot("torch.export can't write this network", error) from error
        # A program can't move to another device than it was written on, and MLflow would try.
        about.flavors["python_function"]["config"] = {"device": "cpu"}
        shutil.copytree(trained.folder, folder / RUN, ignore=_but_the_run)
        about.save(str(folder / "MLmodel"))
        loaded = mlflow.pytorch.load_model(str(folder))
    difference = largest_difference(served, loaded, images)
    if not difference <= TOLERANCE:
        raise FrostlineError(
            f"{trained.folder}: the stored model differs from the network by {difference:.1e} on {tried_on},"
            f" and {TOLERANCE:.0e} is allowed; report this with the run's config.yaml"
        )
    return difference, tried_on


def _cannot(what: str, error: Exception) -> FrostlineError:
    reason = (str(error).strip().splitlines() or [""])[0][:200]
    return FrostlineError(
        f"register: {what} ({type(error).__name__}: {reason}); frostline predict and frostline export"
        " --format safetensors take the run's folder"
    )


def _but_the_run(folder: str, names: list[str]) -> list[str]:
    """What of a run's folder is no part of a model: all but the files that make it a run, and its metrics."""
    from frostline.base.run_folder import FILES, METRICS

    return [name for name in names if name not in (*FILES, METRICS)]
