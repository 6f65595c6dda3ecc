"""The inputs that the runs of an arm share if only their seed differs: resized images, weights if any."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frostline.console.errors import FrostlineError, resource_errors
from frostline.data.loading import transforms
from frostline.data.loading.pixels import (
    Images,
    ImageStack,
    Uncropped,
    aspects_of,
    images_of,
    load_pixels,
    select,
)
from frostline.data.loading.resize import crop_warning
from frostline.data.prepared.index import Index, PreparedData
from frostline.models.initial_weights import InitialWeights
from frostline.models.input_spec import InputSpec
from frostline.models.pretrained import input_spec
from frostline.schema import NoWeights, Run
from frostline.training.services import Services


@dataclass(frozen=True)
class TrainingInputs:
    """Prepared data at the network's resolution, and pretrained weights, if any."""

    data: PreparedData
    rows: torch.Tensor
    """(N,) the loaded rows of the index, sorted: train and val, never test."""
    pixels: ImageStack
    """(N, C, H, W) uint8 or uint16."""
    spec: InputSpec
    initial: InitialWeights
    uncropped: ImageStack | None = None
    """(N, C, H, W) uint8 or uint16, larger than the input, if training draws random crops."""

    @property
    def index(self) -> Index:
        """The index of the prepared data."""
        return self.data.index

    def images(self, split: str, rows: Any) -> Images:
        """Return the images of rows of the index.

        Args:
            split: train, val or selection; only those of train have loss weights and uncropped versions.
        """
        rows = torch.as_tensor(rows)
        positions = torch.searchsorted(self.rows, rows)
        images = images_of(self.index, rows, select(self.pixels, positions), self.spec, split)
        if split != "train":
            return images
        uncropped = None
        if self.uncropped is not None:
            uncropped = Uncropped(select(self.uncropped, positions), aspects_of(self.index, rows))
        return replace(images, weights=relative_weights(self.index, rows), uncropped=uncropped)


def relative_weights(index: Index, rows: torch.Tensor) -> torch.Tensor | None:
    """Return the weights of some images in the training loss, (N,) float32 with mean 1; None: all equal.

    Raises:
        FrostlineError: all of them are 0.
    """
    if index.weights is None:
        return None
    weights = torch.as_tensor(index.weights)[rows]
    if not weights.any():
        raise FrostlineError(
            f"dataset.columns.weight: all {len(rows)} training images have weight 0; give one a weight above "
            "0, or set dataset.columns.weight=null"
        )
    return None if bool((weights == weights[0]).all()) else (weights / weights.mean()).float()


@resource_errors("loading the images", ["input.size"])
def load_inputs(run: Run, folder: Path, initial: InitialWeights, services: Services) -> TrainingInputs:
    """Load the train and val images of the prepared data in `folder`."""
    data = PreparedData.read(run.dataset, folder)
    index = data.index
    spec = input_spec(run.backbone, initial, run.input)
    rows = np.sort(np.concatenate([index.rows("train"), index.rows("val")]))
    # All arms of a study have the same input (`pipeline.compose.study`), so only the arm from scratch warns
    # that the centre crop cuts off much of the images. Pretraining and single runs, which have no arm, warn
    # too. If `input.fit` is set, the user has chosen.
    warns = run.arm is None or isinstance(run.weights, NoWeights)
    if warns and run.input.fit is None and (sentence := crop_warning(index, spec)):
        services.say(f"frostline: warning: {sentence}")
    transforms.check(run.augment, spec)
    uncropped = None
    # Uncropped images are loaded first: if the cache has no room for them and for the images of the input's
    # size, those loaded last are decoded at each read. Every training step reads the uncropped ones, and
    # validation the others.
    if transforms.crops(run.augment):
        uncropped = load_pixels(data, rows, transforms.uncropped(spec), services.progress, services.scratch)
    pixels = load_pixels(data, rows, spec, services.progress, services.scratch)
    return TrainingInputs(data, torch.as_tensor(rows), pixels, spec, initial, uncropped)
