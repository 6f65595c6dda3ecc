"""A sheet of training images as the network sees them: resized, cropped, augmented, de-normalized."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frostline.data.loading import transforms
from frostline.data.loading.label_budget import label_budget
from frostline.data.loading.mix import mixes
from frostline.data.loading.pixels import Images, Uncropped, aspects_of, labels_of
from frostline.data.loading.resize import format_of, to_pixels
from frostline.data.prepared.index import PreparedData
from frostline.data.reading.label_sets import NO_LABEL, names_of
from frostline.models.input_spec import InputSpec
from frostline.planning import training_images
from frostline.schema import needs_pretraining
from frostline.sheets.page import BOX, VIEW_BOX, Card, Sheet

if TYPE_CHECKING:
    from frostline.schema import Experiment, Run


@dataclass(frozen=True)
class Shown:
    """A sheet of a run's training images, and the file that it is written to by default."""

    sheet: Sheet
    file: Path


def show(composed: "Experiment", choices: Mapping[str, str], count: int, folder: Path) -> Shown:
    """Return a sheet of `count` training images of an experiment's data set.

    Args:
        choices: the option chosen in each group.
        folder: of the prepared data set.

    Raises:
        FrostlineError: an image or the weights are not available.
    """
    from frostline.config import stage_configs
    from frostline.models.pretrained import expected_weights, input_spec
    from frostline.pipeline.output_folders import named_folder

    run = stage_configs.finetune_config(composed, choices)
    weights = run.weights
    if needs_pretraining(weights):
        weights = composed.pretrain.weights  # the pretraining has the same input
    spec = input_spec(run.backbone, expected_weights(run.backbone, weights), run.input)
    data = PreparedData.read(run.dataset, folder)
    sheet = _sheet(run, data, spec, count, choices.get("augment", ""))
    name = named_folder("show", data.index.name, [run.model_dump(), count])
    return Shown(sheet, name.with_name(f"{name.name}.html"))


def _sheet(run: "Run", data: PreparedData, spec: InputSpec, count: int, option: str) -> Sheet:
    from frostline.training.data_module import ImageData

    index = data.index
    all_rows = label_budget(index, run.dataset, run.seed).train
    rows = all_rows[training_images.spread(index.labels[all_rows], len(index.classes), count)]
    changes = training_images.changes(run.augment)
    pixels = pixels_of(data, rows, spec)
    plain = [training_images.picture(image) for image in pixels]
    images = Images(pixels, labels_of(index, rows))
    if transforms.crops(run.augment):
        whole = pixels_of(data, rows, transforms.uncropped(spec))
        images = replace(images, uncropped=Uncropped(whole, aspects_of(index, torch.as_tensor(rows))))
    data_module = ImageData(images, images, spec, run.trainer, run.augment, run.seed, len(index.classes))
    views = training_images.views(data_module, torch.arange(len(images)))
    cards = []
    for place, row in enumerate(rows):
        pictures = [plain[place], *(pictures[place] for pictures, _ in views)]
        mixed = [training_images.label_text(shares[place], index.classes) for _, shares in views]
        captions = ["plain", *mixed] if mixes(run.augment) else []
        note = f"original: {index.widths[row]}×{index.heights[row]} px"
        title = ", ".join(names_of(index.labels[row], index.classes)) or NO_LABEL
        cards.append(Card(pictures, title, note, captions))
    channels = {1: "grey", 3: "RGB"}.get(
        spec.channels, f"{spec.channels} channels, of which up to three are shown"
    )
    augmentation = f"augment={option}" if option else "augmented"
    drawn = (
        f"plain, then {training_images.VIEWS} augmented views of each ({augmentation})"
        if changes
        else "no augmentation"
    )
    title = f"{index.name}: {len(cards)} of {len(all_rows):,} training images, {len(index.classes)} classes"
    scale = _scale(spec, VIEW_BOX if changes else BOX)
    size = (
        f"{spec.width}×{spec.height} px{scale}, {channels}, {spec.interpolation}, fit {spec.fit}, crop"
        f" {spec.crop:g}"
    )
    return Sheet(title, f"What the network sees: {size}; {drawn}", cards)


def _scale(spec: InputSpec, box: int) -> str:
    """Say at which size images are shown, if that is smaller than the network's input."""
    longest = max(spec.width, spec.height)
    return f" (shown at {100 * box / longest:.0f} % of it)" if longest > box else ""


def pixels_of(data: PreparedData, rows: NDArray[np.int64], spec: InputSpec) -> Tensor:
    """Return some images at the network's input size, as `load_pixels` does, without resizing all others.

    Args:
        rows: (N,) positions in the index.

    Returns:
        (N, C, H, W) uint8 or uint16.
    """
    images = data.decoded(rows, format_of(spec))
    return torch.from_numpy(np.stack([to_pixels(decoded.image, spec) for decoded in images]))
