"""A finished run: its config, its network, and a few images to test exports with."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from frostline.base import project
from frostline.base.formats import read_csv, read_json, read_yaml
from frostline.base.hashes import sha256_of
from frostline.base.run_folder import (
    CONFIG,
    METRICS,
    PREDICTIONS,
    THRESHOLDS,
    TRAINING,
    WEIGHTS,
    edited_config,
    verified,
)
from frostline.console.errors import FrostlineError
from frostline.data.loading.pixels import load_pixels
from frostline.data.loading.resize import format_of, to_pixels
from frostline.data.prepared.index import PreparedData
from frostline.data.reading.bands import decode_as
from frostline.data.reading.checks import check_keys
from frostline.data.reading.sources import store_of
from frostline.models import weights
from frostline.models.input_spec import InputSpec
from frostline.runs.measured import measured_in
from frostline.runs.serving_model import ServingModel
from frostline.schema import ImageFolder, Prepare, Run, Table, Tta, is_multi_label
from frostline.schema.validation import validated
from frostline.training.inference import network_with


@dataclass(frozen=True)
class TrainedRun:
    """A finished run."""

    folder: Path
    run: Run
    """The config, with one seed."""
    spec: InputSpec
    classes: tuple[str, ...]
    """In the order of the network's outputs."""
    state: dict[str, torch.Tensor]
    """The trained weights, with an adapter merged."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the run in `folder`.

        Raises:
            FrostlineError: a file is damaged, or was written by another program.
        """
        if sentence := edited_config(folder, verified(folder)):
            print(f"frostline: warning: {sentence}", file=sys.stderr, flush=True)
        run = validated(Run, read_yaml(folder / CONFIG), str(folder / CONFIG))
        state, about = weights.load(folder / WEIGHTS)
        if about is None:
            raise FrostlineError(
                f"{folder / WEIGHTS}: has no metadata on its input; train it with frostline finetune"
            )
        return cls(folder, run, InputSpec.from_dict(about["input"]), tuple(about["classes"]), state)

    def with_tta(self, tta: Tta) -> Self:
        """Return the run, measured with another test-time augmentation."""
        return replace(self, run=self.run.with_tta(tta))

    @cached_property
    def sha256(self) -> str:
        """The hash of the weights file, in hex."""
        return sha256_of(self.folder / WEIGHTS)

    @property
    def training_images(self) -> int:
        """The number of training images."""
        return int(read_json(self.folder / TRAINING)["training_images"])

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics such as test/accuracy; empty if the run was not measured."""
        path = measured_in(self.folder) / METRICS
        if not path.is_file():
            return {}
        measured: dict[str, dict[str, float]] = read_json(path)
        return {f"{split}/{name}": value for split, part in measured.items() for name, value in part.items()}

    @property
    def several_labels(self) -> bool:
        """Whether an image may have any number of labels."""
        return is_multi_label(self.run.dataset)

    @property
    def thresholds(self) -> list[float] | None:
        """The probability from which each label is predicted; None with one label per image."""
        if not self.several_labels:
            return None
        recorded: list[float] = read_json(self.folder / TRAINING)[THRESHOLDS]
        return recorded

    def network(self) -> nn.Module:
        """Return the network, on the CPU, in eval mode."""
        return network_with(self.state, self.run.backbone, self.spec, len(self.classes)).eval()

    def serving_model(self) -> ServingModel:
        """Return the network with its serving wrapper: from pixels to probabilities."""
        return ServingModel(self.network(), self.spec, several_labels=self.several_labels).eval()

    def about(self) -> dict[str, Any]:
        """Return the network's input, classes and hash as plain data, for use without frostline."""
        about: dict[str, Any] = {
            "input": self.spec.to_dict(),
            "classes": list(self.classes),
            "weights_sha256": self.sha256,
        }
        if self.several_labels:
            about |= {"task": "multi_label", "thresholds": self.thresholds}
        return about

    def images(self, count: int) -> tuple[torch.Tensor, str]:
        """Return a few images of the data set, and what they are in words.

        If the data set is not on this machine they are noise, with a fixed seed.

        Args:
            count: the largest number of images.

        Returns:
            (N, C, H, W) uint8 or uint16, N ≥ 1.
        """
        with suppress(FrostlineError, OSError):
            if isinstance(self.run.dataset, ImageFolder | Table):
                images = list(self._files(count))
            else:
                images = list(self._arrays(count))
            if images:
                return torch.from_numpy(np.stack(images)), f"{len(images)} of its images"
        shape = (count, *self.spec.shape)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randint(0, self.spec.white + 1, shape, generator=generator, dtype=torch.int32)
        return noise.to(self.spec.dtype), f"{count} images of noise, since its data set is not here"

    def _files(self, count: int) -> Iterator[np.ndarray]:
        """Yield images by their names in predictions.csv, without scanning the data set."""
        store = store_of(self.run.dataset)
        path = measured_in(self.folder) / PREDICTIONS
        keys = [row["id"] for row in read_csv(path, ["id"])]
        check_keys(keys, str(path))
        for key in keys[:: max(1, len(keys) // count)][:count]:
            yield to_pixels(decode_as(store.read(key), key, format_of(self.spec)).image, self.spec)

    def _arrays(self, count: int) -> Iterator[np.ndarray]:
        from frostline.preparation.stage import prepare_cached

        index, folder = prepare_cached(Prepare.of(self.run.dataset, self.run.input), project.scratch())
        if index.classes != self.classes:
            return
        rows = index.rows(index.held_out)
        rows = rows[:: max(1, len(rows) // count)][:count]
        yield from load_pixels(PreparedData(self.run.dataset, index, folder), rows, self.spec)[:].numpy()
