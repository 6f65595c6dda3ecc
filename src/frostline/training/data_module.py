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
from frostline.base.seeds import derive, generator
from frostline.data.loading import batches
from frostline.data.loading.augment import augment, augments
from frostline.data.loading.class_balance import balanced_order
from frostline.data.loading.mix import mix, mixes
from frostline.data.loading.pixels import Images, normalise
from frostline.data.loading.prefetch import Prefetcher
from frostline.models.input_spec import InputSpec

STAYS = 1 << 26
"""The most values of pixels that are kept normalised, 256 MiB of them; more are normalised at each step."""


PASSES = 16
"""Forward passes of validation for one batch of Lightning's, which costs more than a small network's pass."""


class Steps:
    """An epoch's optimizer steps by their numbers, some at a time: an iterable of (first, after the last).

    Lightning spends a millisecond a batch, so several quick steps make one batch of its. How many may differ
    each time: it has no length, and what a step trains on does not depend on it.
    """

    def __init__(self, total: Callable[[], int]) -> None:
        self.total = total
        """Steps of the epoch."""
        self.at_once: Callable[[], int] = lambda: 1
        self.taken: Callable[[], int] = lambda: 0
        """Steps of the epoch that training has done; not counted here, since Lightning fetches ahead."""
        self._skip = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        first, self._skip = self._skip, 0
        while first < self.total():
            after = min(first + self.at_once(), self.total())
            yield first, after
            first = after

    def state_dict(self) -> dict[str, Any]:
        """Return where in the epoch a run is; Lightning puts it into resume points."""
        return {"taken": self.taken() % self.total()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next pass, that of the epoch to go on with, leave out what has been taken."""
        self._skip = state_dict["taken"]


class ValBatches:
    """An iterable of (rows, labels) as they lie: several passes' for one batch of Lightning's."""

    def __init__(self, images: Images, batch_size: int) -> None:
        self.images, self.at_once = images, PASSES * batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.at_once)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        labels = self.images.labels
        rows = torch.arange(len(labels))
        return zip(rows.split(self.at_once), labels.split(self.at_once), strict=True)


class ImageData(pl.LightningDataModule):
    """Training and validation images of one run.

    Args:
        train: images to train on.
        val: images to validate on.
        spec: the network's input.
        trainer: batch sizes, and whether an epoch sees each image once or all classes alike.
        augmentation: of training images.
        seed: the run's.
        classes: that are told apart.
    """

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
        self._stays = not (augments(augmentation) or mixes(augmentation)) and train.pixels.numel() <= STAYS
        self._augments, self.balanced = augments(augmentation), trainer.sampling == "balanced"
        self.coming_size: Callable[[], int] = lambda: trainer.batch_size
        """Of the coming epoch's training batches, asked for whenever Lightning asks for the loader."""
        self._batch_size = trainer.batch_size
        self.steps = Steps(lambda: len(batches.sizes(len(self.train), self._batch_size)))
        self.eval_batch_size = trainer.eval_batch_size
        self.val_batches = ValBatches(val, trainer.eval_batch_size)
        self._normalised: Tensor | None = None
        """All training images as the network sees them, where nothing changes them and they are small."""
        self._normalised_val: Tensor | None = None
        """All validation images, where they are small."""
        self.ahead: Prefetcher[tuple[Tensor, Tensor]] | None = None
        """Prepares batches; None: there is nothing to prepare, or no batch has been asked for."""
        self._drawn: tuple[tuple[int, int], tuple[Tensor, ...]] | None = None

    def train_dataloader(self) -> Steps:
        """Return the coming epoch's steps."""
        self._batch_size = self.coming_size()
        return self.steps

    def val_dataloader(self) -> ValBatches:
        """Return the validation batches in order."""
        return self.val_batches

    def training_rows(self, epoch: int) -> tuple[Tensor, ...]:
        """Return the rows of each training batch of an epoch, 0 the first: a function of (seed, epoch)."""
        key = epoch, self._batch_size
        if self._drawn is None or self._drawn[0] != key:
            stream = generator(self.seed, "order", epoch)
            if self.balanced:
                order = balanced_order(self.train.labels, stream)
            else:
                order = torch.randperm(len(self.train), generator=stream)
            self._drawn = key, batches.batches(order, self._batch_size)
        return self._drawn[1]

    def batch(
        self, rows: Tensor, step: int, coming: Tensor | None, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return what `training_images` does, perhaps made ready while the step before trained.

        Args:
            rows: (N,) of the training images.
            step: the optimizer step.
            coming: the rows of the step after it; None: not known yet.
            device: that trains.
        """
        if self._stays:  # there is nothing to prepare
            return self.training_images(rows, step, device)
        if self.ahead is None:
            self.ahead = Prefetcher(lambda rows, step: self.training_images(rows, step, device))
        return self.ahead.batch(rows, step, coming)

    def close(self) -> None:
        """Let go of what prepares batches."""
        if self.ahead:
            self.ahead.close()

    def training_images(self, rows: Tensor, step: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return a batch as the network trains on it: augmented, normalised, mixed.

        Args:
            rows: (N,) of the training images.
            step: draws the changes, so that a resumed run sees the same images.
            device: that trains.

        Returns:
            (N, C, H, W) float32, and labels, mixed ones as (N, K) shares.
        """
        # Half the time of [rows], which asks what the rows are.
        labels = _sent(self.train.labels.index_select(0, rows), device)
        if self._stays:
            if self._normalised is None:
                self._normalised = normalise(self.train.pixels[:], self.spec)
            return _sent(self._normalised.index_select(0, rows), device), labels
        pixels = _sent(self.train.pixels[rows], device)
        if self._augments:
            pixels = augment(pixels, self.augmentation, generator(self.seed, "augment", step))
        images = normalise(pixels, self.spec)
        if mixes(self.augmentation):
            return mix(images, labels, self.classes, self.augmentation, derive(self.seed, "mix", step))
        return images, labels

    def validation_images(self, rows: Tensor, device: torch.device) -> Tensor:
        """Return validation images as the network sees them, (N, C, H, W) float32."""
        if self.val.pixels.numel() > STAYS:
            return normalise(_sent(self.val.pixels[rows], device), self.spec)
        if self._normalised_val is None:
            self._normalised_val = normalise(self.val.pixels[:], self.spec)
        return _sent(self._normalised_val.index_select(0, rows), device)

    def epoch_images(self, epoch: int, step: int, device: torch.device) -> Iterator[Tensor]:
        """Give the images of an epoch's training batches, as the network would at `step`."""
        for rows in self.training_rows(epoch):
            yield self.training_images(rows, step, device)[0]


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On its way to the device: out of pinned memory it gets to a GPU while that computes."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
