"""Images in memory as Lightning's data: batches are rows, drawn by (seed, epoch) alone.

What the network is given for a batch's rows, images or features of them, is chosen as the step begins: the
freeze schedule may have entered another phase since Lightning fetched the batch.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from frostline import schema
from frostline.core import batches
from frostline.core.class_balance import balanced_order
from frostline.core.seeds import derive, generator
from frostline.data.augment import augment
from frostline.data.mix import mix, mixes
from frostline.data.pixels import Images, InputSpec, normalise


class EpochOrder:
    """The order of an epoch's images; Lightning calls `set_epoch` before each one, a resumed one included.

    Args:
        seed: the run's.
        labels: (N,) int64, of the images.
        balanced: draw all classes alike, some images twice and others not, instead of each image once.
    """

    def __init__(self, seed: int, labels: Tensor, balanced: bool = False) -> None:
        self.seed, self.labels, self.balanced, self.epoch = seed, labels, balanced, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, 0 the first."""
        self.epoch = epoch

    def indices(self) -> Tensor:
        """Return as many images as there are, (N,) int64: a function of (seed, epoch)."""
        stream = generator(self.seed, "order", self.epoch)
        if self.balanced:
            return balanced_order(self.labels, stream)
        return torch.randperm(len(self.labels), generator=stream)


class TrainBatches:
    """An iterable of (rows, labels) in the epoch's order."""

    def __init__(self, images: Images, batch_size: int, order: EpochOrder) -> None:
        self.images, self.batch_size = images, batch_size
        # Lightning asks a loader for both, and tells the sampler the epoch.
        self.sampler, self.batch_sampler = order, None
        self.taken: Callable[[], int] = lambda: 0
        """Batches of the epoch that training has had; not counted here, since others pass through too."""
        self._skip = 0

    def __len__(self) -> int:
        return len(batches.sizes(len(self.images), self.batch_size))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        skip, self._skip = self._skip, 0
        return self._pass(skip)

    def state_dict(self) -> dict[str, Any]:
        """Return where in the epoch a run is; Lightning puts it into resume points."""
        return {"taken": self.taken() % len(self)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next pass, that of the epoch to go on with, leave out what has been taken."""
        self._skip = state_dict["taken"]

    def _pass(self, skip: int) -> Iterator[tuple[Tensor, Tensor]]:
        # Begun at the first batch: Lightning makes the iterator before it tells the sampler the epoch.
        for rows in batches.batches(self.sampler.indices(), self.batch_size)[skip:]:
            yield rows, self.images.labels[rows]


class ValBatches:
    """An iterable of (rows, labels) as they lie."""

    def __init__(self, images: Images, batch_size: int) -> None:
        self.images, self.batch_size = images, batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        labels = self.images.labels
        rows = torch.arange(len(labels))
        return zip(rows.split(self.batch_size), labels.split(self.batch_size), strict=True)


class ImageData(pl.LightningDataModule):
    """Training and validation images of one run."""

    def __init__(
        self,
        train: Images,
        val: Images,
        spec: InputSpec,
        trainer: schema.Trainer,
        augmentation: schema.Augment,
        seed: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.spec, self.augmentation, self.seed, self.classes = spec, augmentation, seed, classes
        order = EpochOrder(seed, train.labels, balanced=trainer.sampling == "balanced")
        self.train_batches = TrainBatches(train, trainer.batch_size, order)
        self.batch_size: Callable[[], int] = lambda: trainer.batch_size
        """Of the coming epoch's training batches, asked for whenever Lightning asks for the loader."""
        self.val_batches = ValBatches(val, trainer.eval_batch_size)

    def train_dataloader(self) -> TrainBatches:
        """Return the shuffled training batches."""
        self.train_batches.batch_size = self.batch_size()
        if self.trainer is not None:
            loop = self.trainer.fit_loop
            self.train_batches.taken = lambda: loop.batch_idx + 1
        return self.train_batches

    def val_dataloader(self) -> ValBatches:
        """Return the validation batches in order."""
        return self.val_batches

    def training_images(self, rows: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return a batch as the network trains on it: augmented, normalised, mixed.

        Args:
            rows: (N,) of the training images.
            labels: (N,) int64, on the device that trains.
            step: draws the changes, so that a resumed run sees the same images.

        Returns:
            (N, C, H, W) float32 on the labels' device, and labels, mixed ones as (N, K) shares.
        """
        pixels = self.train.pixels[rows].to(labels.device)
        pixels = augment(pixels, self.augmentation, generator(self.seed, "augment", step))
        images = normalise(pixels, self.spec)
        if mixes(self.augmentation):
            return mix(images, labels, self.classes, self.augmentation, derive(self.seed, "mix", step))
        return images, labels

    def validation_images(self, rows: Tensor, device: torch.device) -> Tensor:
        """Return validation images as the network sees them, (N, C, H, W) float32."""
        return normalise(self.val.pixels[rows].to(device), self.spec)

    def epoch_images(self, step: int, device: torch.device) -> Iterator[Tensor]:
        """Give the images of the current epoch's training batches, as the network would at `step`."""
        for rows, labels in self.train_batches:
            yield self.training_images(rows, labels.to(device), step)[0]
