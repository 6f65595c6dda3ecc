"""A sheet of training images as the network sees them: resized, cropped, augmented, de-normalized."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from frostline.data.loading import transforms
from frostline.data.loading.augment import augments
from frostline.data.loading.label_budget import label_budget
from frostline.data.loading.mix import mixes
from frostline.data.loading.pixels import Images, Uncropped, aspects_of, labels_of
from frostline.data.loading.resize import format_of, to_pixels
from frostline.data.prepared.index import PreparedData
from frostline.data.reading.bands import decode_as
from frostline.data.reading.decode import shown
from frostline.data.reading.label_sets import text_of
from frostline.data.reading.sources import store_of
from frostline.models.input_spec import InputSpec
from frostline.schema import PretrainWeights
from frostline.sheets.page import Card, Picture, Sheet

if TYPE_CHECKING:
    from frostline.schema import Experiment, Run

VIEWS = 4
"""Augmented views of each image."""
SHARE = 0.005
"""Shares of mixed labels below this are not listed."""


@dataclass(frozen=True)
class Shown:
    """A sheet of a run's training images, and the file that it is written to by default."""

    sheet: Sheet
    file: Path


def show(composed: "Experiment", choices: Mapping[str, str], count: int) -> Shown:
    """Return a sheet of `count` training images of an experiment's data set.

    Args:
        choices: the option chosen in each group.

    Raises:
        FrostlineError: the data set, an image or the weights are not available.
    """
    from frostline.config import stage_configs
    from frostline.models.pretrained import expected_weights, input_spec
    from frostline.pipeline import standalone
    from frostline.pipeline.output_folders import named_folder

    run = stage_configs.finetune_config(composed, choices)
    _, folder = standalone.prepared(composed, "target")
    weights = run.weights
    if isinstance(weights, PretrainWeights) and weights.path is None:
        weights = composed.pretrain.weights  # the pretraining has the same input
    spec = input_spec(run.backbone, expected_weights(run.backbone, weights), run.input)
    data = PreparedData.read(run.dataset, folder)
    sheet = _sheet(run, data, spec, _Chosen.of(run, data, count), choices.get("augment", ""))
    name = named_folder("show", data.index.name, [run.model_dump(), count])
    return Shown(sheet, name.with_name(f"{name.name}.html"))


@dataclass(frozen=True)
class _Chosen:
    """The images of a sheet."""

    rows: NDArray[np.int64]
    """(N,) positions in the index."""
    total: int
    """Number of the run's training images."""

    @classmethod
    def of(cls, run: "Run", data: PreparedData, count: int) -> "_Chosen":
        """Choose up to `count` training images, evenly from all classes and from each class's images."""
        rows = label_budget(data.index, run.dataset, run.seed).train
        labels = data.index.labels[rows]
        if data.index.several_labels:
            chosen = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]
            return cls(chosen, len(rows))
        of_class = [rows[labels == label] for label in range(len(data.index.classes))]
        share = -(-count // len(of_class))
        spread = [own[np.linspace(0, len(own) - 1, min(share, len(own))).astype(int)] for own in of_class]
        turns = [own[turn] for turn in range(share) for own in spread if turn < len(own)]
        return cls(np.array(sorted(turns[:count], key=lambda row: (data.index.labels[row], row))), len(rows))


def _sheet(run: "Run", data: PreparedData, spec: InputSpec, chosen: _Chosen, option: str) -> Sheet:
    index, rows = data.index, chosen.rows
    changes = augments(run.augment) or mixes(run.augment)
    pixels = pixels_of(data, rows, spec)
    plain = [_picture(image) for image in pixels]
    images = Images(pixels, labels_of(index, rows))
    if transforms.crops(run.augment):
        whole = pixels_of(data, rows, transforms.uncropped(spec))
        images = replace(images, uncropped=Uncropped(whole, aspects_of(index, torch.as_tensor(rows))))
    views = list(_views(run, spec, images, len(index.classes))) if changes else []
    cards = []
    for place, row in enumerate(rows):
        pictures = [plain[place], *(pictures[place] for pictures, _ in views)]
        mixed = [_label_text(shares[place], index.classes) for _, shares in views]
        captions = ["plain", *mixed] if mixes(run.augment) else []
        note = f"{index.widths[row]}×{index.heights[row]} px"
        cards.append(Card(pictures, text_of(index.labels[row], index.classes), note, captions))
    channels = {1: "grey", 3: "RGB"}.get(
        spec.channels, f"{spec.channels} channels, of which up to three are shown"
    )
    augmentation = f"augment={option}" if option else "augmented"
    drawn = f"plain, then {VIEWS} augmented views of each ({augmentation})" if changes else "no augmentation"
    title = f"{index.name}: {len(cards)} of {chosen.total:,} training images, {len(index.classes)} classes"
    size = (
        f"{spec.width}×{spec.height} px, {channels}, {spec.interpolation}, fit {spec.fit}, crop {spec.crop:g}"
    )
    return Sheet(title, f"What the network sees: {size}; {drawn}", cards)


def pixels_of(data: PreparedData, rows: NDArray[np.int64], spec: InputSpec) -> Tensor:
    """Return some images at the network's input size, as `load_pixels` does, without resizing all others.

    Args:
        rows: (N,) positions in the index.

    Returns:
        (N, C, H, W) uint8 or uint16.
    """
    if data.index.storage == "arrays":
        images: list[Any] = [Image.fromarray(image) for image in data.index.images(data.folder)[rows]]
    else:
        store = store_of(data.dataset)
        keys = [data.index.keys[row] for row in rows]
        images = [decode_as(store.read(key), key, format_of(spec)).image for key in keys]
    return torch.from_numpy(np.stack([to_pixels(image, spec) for image in images]))


def _views(run: "Run", spec: InputSpec, images: Images, classes: int) -> "list[tuple[list[Picture], Tensor]]":
    """Return for each view its images and (N, K) shares of labels, made as training makes a batch."""
    from frostline.training.data_module import ImageData

    data = ImageData(images, images, spec, run.trainer, run.augment, run.seed, classes)
    every, drawn = torch.arange(len(images)), []
    for step in range(VIEWS):
        batch, mixed = data.training_images(every, step, torch.device("cpu"))
        shares = mixed if mixed.ndim == 2 else torch.nn.functional.one_hot(mixed, classes).float()
        drawn.append(([_picture(image) for image in _denormalised(batch, spec)], shares))
    return drawn


def _denormalised(batch: Tensor, spec: InputSpec) -> Tensor:
    """Undo `pixels.normalise`: (N, C, H, W) float32 → uint8."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    return ((batch * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def _picture(image: Tensor) -> Picture:
    """(C, H, W) → (H, W) or (H, W, 3) uint8."""
    return shown(image.permute(1, 2, 0).numpy())


def _label_text(shares: Tensor, classes: Sequence[str]) -> str:
    """Return ``70 % cat + 30 % dog``."""
    parts = [(classes[k], share) for k, share in enumerate(shares.tolist()) if share >= SHARE]
    return " + ".join(f"{100 * share:.0f} % {name}" for name, share in parts)
