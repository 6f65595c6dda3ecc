"""Writes a finished run's network as an MLflow model, and checks it.

A model holds an exported program (`data/model.pt2` of torch.export), which needs neither frostline nor
pickle, and the files of its run (`run/`), from which frostline builds the network itself.
"""

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from frostline.console.errors import FrostlineError, first_line
from frostline.console.progress import no_output

if TYPE_CHECKING:
    from frostline.runs.trained_run import TrainedRun

RUN = "run"
"""The folder of a model that holds its run's files."""
CHECKED = 16
"""Images that a stored model is checked on."""


def save(trained: "TrainedRun", folder: Path, about: Model) -> tuple[float, str]:
    """Write a finished run's network into a new folder as an MLflow model, and check it.

    Args:
        about: MLflow's metadata, to which the signature and the rest of MLmodel are added.

    Returns:
        The largest difference of a probability between the network and the model that was read again, and the
        images that were compared, in words.

    Raises:
        FrostlineError: torch.export can't export the network, or the export gives other results.
    """
    import mlflow.pytorch
    import numpy
    import torch

    from frostline.runs.serving_model import TOLERANCE, TRACED, largest_difference
    from frostline.training import machine

    machine.configure_inference(trained.run.trainer.threads, torch.device("cpu"), no_output)
    model = trained.serving_model()
    images, tried_on = trained.images(CHECKED)
    example = images[torch.arange(TRACED) % len(images)].numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings between torch and MLflow
        try:
            mlflow.pytorch.save_model(
                model,
                str(folder),
                mlflow_model=about,
                signature=_signature(trained),
                input_example=example,
                pip_requirements=[
                    f"torch=={torch.__version__.partition('+')[0]}",
                    f"numpy=={numpy.__version__}",
                ],
                metadata=trained.about(),
                serialization_format="pt2",
            )
        except Exception as error:
            raise FrostlineError(
                f"register: torch.export can't write this network ({type(error).__name__}:"
                f" {first_line(error)}); frostline predict and frostline export --format safetensors take the"
                " run's folder"
            ) from error
        # An exported program can't move to another device, but MLflow would try to.
        about.flavors["python_function"]["config"] = {"device": "cpu"}
        shutil.copytree(trained.folder, folder / RUN, ignore=_but_the_run)
        about.save(str(folder / "MLmodel"))
        loaded = mlflow.pytorch.load_model(str(folder))
    difference = largest_difference(model, loaded, images)
    if not difference <= TOLERANCE:
        raise FrostlineError(
            f"{trained.folder}: the stored model differs from the network by {difference:.1e} on {tried_on},"
            f" and {TOLERANCE:.0e} is allowed; report this with the run's config.yaml"
        )
    return difference, tried_on


def _signature(trained: "TrainedRun") -> ModelSignature:
    """Return the shapes of images and probabilities; without names, or MLflow would pass a dictionary."""
    import numpy as np

    spec = trained.spec
    images = TensorSpec(np.dtype(f"u{spec.depth // 8}"), (-1, *spec.shape))
    probabilities = TensorSpec(np.dtype(np.float32), (-1, len(trained.classes)))
    return ModelSignature(Schema([images]), Schema([probabilities]))


def _but_the_run(folder: str, names: list[str]) -> list[str]:
    """The files of a run folder that are not part of a model."""
    from frostline.base.run_folder import FILES, METRICS

    return [name for name in names if name not in (*FILES, METRICS)]
