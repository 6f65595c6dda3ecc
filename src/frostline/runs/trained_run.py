"""A finished run: its config, its network, and a few images to try the network on."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from frostline.base import project
from frostline.base.formats import read_csv, read_json, read_yaml
from frostline.base.hashes import sha256_of
from frostline.base.names import locate
from frostline.base.run_folder import CONFIG, METRICS, PREDICTIONS, TRAINING, WEIGHTS, edited_config, verified
from frostline.console.errors import FrostlineError
from frostline.data.loading.pixels import load_pixels, to_pixels
from frostline.data.reading.checks import check_keys
from frostline.data.reading.decode import decode, read_bytes
from frostline.data.reading.sources import root_of
from frostline.models import weights
from frostline.models.input_spec import InputSpec
from frostline.runs.wrapper import Served
from frostline.schema import ImageFolder, Prepare, Run
from frostline.schema.validation import validated
from frostline.training.inference import network_with


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    folder: Path
    run: Run
    """Its config, with one seed."""
    spec: InputSpec
    classes: tuple[str, ...]
    """In the order of the network's outputs."""
    state: dict[str, torch.Tensor]
    """The trained weights; an adapter's are merged."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what a run left in `folder`.

        Raises:
            FrostlineError: a file is damaged, or made by another program.
        """
        if sentence := edited_config(folder, verified(folder)):
            print(f"frostline: warning: {sentence}", file=sys.stderr, flush=True)
        run = validated(Run, read_yaml(folder / CONFIG), str(folder / CONFIG))
        state, about = weights.load(folder / WEIGHTS)
        if about is None:
            raise FrostlineError(
                f"{folder / WEIGHTS}: does not say what its network sees; train it with frostline finetune"
            )
        return cls(folder, run, InputSpec.from_dict(about["input"]), tuple(about["classes"]), state)

    @cached_property
    def sha256(self) -> str:
        """Of the file of weights, in hex."""
        return sha256_of(self.folder / WEIGHTS)

    @property
    def training_images(self) -> int:
        """How many images it trained on."""
        return int(read_json(self.folder / TRAINING)["training_images"])

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured, such as test/accuracy; empty where metrics.json lies elsewhere."""
        if not (self.folder / METRICS).is_file():
            return {}
        measured: dict[str, dict[str, float]] = read_json(self.folder / METRICS)
        return {f"{split}/{name}": value for split, part in measured.items() for name, value in part.items()}

    def network(self) -> nn.Module:
        """Return the network, on the CPU, in eval mode."""
        return network_with(self.state, self.run.backbone, self.spec, len(self.classes)).eval()

    def served(self) -> Served:
        """Return the network that takes pixels and gives probabilities."""
        return Served(self.network(), self.spec).eval()

    def about(self) -> dict[str, Any]:
        """Return plain data on what the network takes and gives, for those who run it without frostline."""
        return {"input": self.spec.to_dict(), "classes": list(self.classes), "weights_sha256": self.sha256}

    def images(self, count: int) -> tuple[torch.Tensor, str]:
        """Return a few of the data set's images to try the network on, and what to call them.

        Where the data set is not on this machine they are noise, the same each time.

        Args:
            count: at most so many.

        Returns:
            (N, C, H, W) uint8, N ≥ 1.
        """
        with suppress(FrostlineError, OSError):
            if isinstance(self.run.dataset, ImageFolder):
                found = list(self._pictures(count))
            else:
                found = list(self._arrays(count))
            if found:
                return torch.from_numpy(np.stack(found)), f"{len(found)} of its images"
        shape = (count, self.spec.channels, self.spec.size, self.spec.size)
        noise = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        return noise, f"{count} images of noise, since its data set is not here"

    def _pictures(self, count: int) -> Iterator[np.ndarray]:
        """Images by the names in predictions.csv: the data set need not be read for them."""
        root = root_of(self.run.dataset)
        keys = [row["id"] for row in read_csv(self.folder / PREDICTIONS, ["id"])]
        check_keys(keys, str(self.folder / PREDICTIONS))
        for key in keys[:: max(1, len(keys) // count)][:count]:
            yield to_pixels(decode(read_bytes(locate(root, key), key), key).image, self.spec)

    def _arrays(self, count: int) -> Iterator[np.ndarray]:
        from frostline.preparation import stage as prepare

        whole = self.run.dataset.model_copy(update={"shots": None, "fraction": None})
        index, data = prepare.cached(Prepare(dataset=whole), project.scratch())
        if index.classes != self.classes:
            return
        rows = index.rows(index.held_out)
        rows = rows[:: max(1, len(rows) // count)][:count]
        yield from load_pixels(self.run.dataset, index, data, rows, self.spec)[:].numpy()
