"""Images in memory as a Lightning data module: batches are rows, a function of (seed, epoch).

Whether a batch's rows become images or features is decided when the step starts: the freeze schedule may
have entered another phase since Lightning fetched the batch.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import repeat
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from frostline import schema
from frostline.base.seeds import derive, generator
from frostline.data.loading import batches
from frostline.data.loading.augment import augment, source_pixels
from frostline.data.loading.class_balance import balanced_order
from frostline.data.loading.mix import mix, mixes
from frostline.data.loading.pixels import Images, normalize
from frostline.data.loading.prefetch import Prefetcher
from frostline.models.input_spec import InputSpec

MAX_NORMALISED = 1 << 26
"""Largest number of pixel values that are cached normalized, 256 MiB; more are normalized at each step."""


FORWARD_PASSES = 16
"""Forward passes per Lightning batch in validation: Lightning's overhead exceeds a small network's pass."""


class Steps:
    """An iterable of an epoch's optimizer steps, as ranges (first, last + 1), one per Lightning batch.

    Lightning's overhead is 1 ms per batch, so several quick steps form one batch. The number of steps varies,
    so the iterable has no length; what a step trains on does not depend on it.
    """

    def __init__(self, total: Callable[[], int]) -> None:
        self.total = total
        """Returns the number of steps of the epoch."""
        self.per_batch: Callable[[], int] = lambda: 1
        """Returns the number of steps of the next Lightning batch."""
        self.steps_taken: Callable[[], int] = lambda: 0
        """Returns the number of steps taken in the epoch; not counted here, since Lightning prefetches."""
        self._skip = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        first, self._skip = self._skip, 0
        while first < self.total():
            after = min(first + self.per_batch(), self.total())
            yield first, after
            first = after

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the epoch; Lightning saves it in checkpoints."""
        return {"taken": self.steps_taken() % self.total()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """In the next iteration, skip the steps that were taken before the checkpoint."""
        self._skip = state_dict["taken"]


class ValBatches:
    """An iterable of (split, rows, labels) in order, several forward passes per Lightning batch.

    Args:
        splits: split → its images.
    """

    def __init__(self, splits: Mapping[str, Images], batch_size: int) -> None:
        self.splits, self.per_batch = splits, FORWARD_PASSES * batch_size

    def __len__(self) -> int:
        return sum(math.ceil(len(images) / self.per_batch) for images in self.splits.values())

    def __iter__(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        for split, images in self.splits.items():
            rows = torch.arange(len(images))
            parts = zip(rows.split(self.per_batch), images.labels.split(self.per_batch), strict=True)
            for part, labels in parts:
                yield split, part, labels


class ImageData(pl.LightningDataModule):
    """Training and validation images of one run.

    Args:
        trainer: batch sizes and sampling.
        select_on: how the best epoch is selected. ``val``: by the validation metrics. Images: by their
            metrics; they are the split ``selection``. ``last``: it is the last epoch.
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
        select_on: Images | Literal["val", "last"] = "val",
    ) -> None:
        super().__init__()
        self.train, self.validation = train, {"val": val}
        """Images by split: val, and selection if those choose the epoch."""
        self.selection_split: str = "val"
        """The split that selects the best epoch; ``last``: none."""
        if isinstance(select_on, Images):
            self.validation["selection"], self.selection_split = select_on, "selection"
        else:
            self.selection_split = select_on
        self.spec, self.augmentation, self.seed, self.classes = spec, augmentation, seed, classes
        self._augments, self.balanced = augmentation.changes_images, trainer.sampling == "balanced"
        constant = not (self._augments or mixes(augmentation))
        self._cached = constant and train.pixels.numel() <= MAX_NORMALISED
        self.images_of_next_step: Callable[[], int] = trainer.images_per_step
        """Returns the images per step of the next epoch; called whenever Lightning asks for the loader."""
        self._step_size = trainer.images_per_step()
        self.steps = Steps(lambda: len(batches.sizes(len(self.train), self._step_size)))
        self._accumulate = trainer.accumulate or 1
        self.eval_batch_size = trainer.eval_batch_size
        self.val_batches = ValBatches(self.validation, trainer.eval_batch_size)
        self._normalized: Tensor | None = None
        """All training images, normalized, once they were needed; None if they are augmented, or too many."""
        self._normalized_val: dict[str, Tensor] = {}
        """Split → its images, normalized; without those that are too many."""
        self.prefetcher: Prefetcher[tuple[Tensor, Tensor]] | None = None
        """Prefetches batches; None: there is nothing to prefetch, or no batch was requested yet."""
        self._drawn: tuple[tuple[int, int], tuple[Tensor, ...]] | None = None

    def train_dataloader(self) -> Steps:
        """Return the next epoch's steps."""
        self._step_size = self.images_of_next_step()
        return self.steps

    def val_dataloader(self) -> ValBatches:
        """Return the validation batches in order."""
        return self.val_batches

    def training_rows(self, epoch: int) -> tuple[Tensor, ...]:
        """Return the rows of each optimizer step of an epoch, counted from 0: a function of (seed, epoch)."""
        key = epoch, self._step_size
        if self._drawn is None or self._drawn[0] != key:
            stream = generator(self.seed, "order", epoch)
            if self.balanced:
                order = balanced_order(self.train.labels, stream)
            else:
                order = torch.randperm(len(self.train), generator=stream)
            self._drawn = key, batches.batches(order, self._step_size)
        return self._drawn[1]

    def batch(
        self, rows: Tensor, step: int, next_rows: Tensor | None, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Return `training_images` of a step, which may have been prefetched during the step before.

        Args:
            rows: (N,) of the training images.
            next_rows: the rows of the next step; None: not known yet.
        """
        if self._cached:  # there is nothing to prepare
            return self.training_images(rows, step, device)
        if self.prefetcher is None:
            self.prefetcher = Prefetcher(lambda rows, step: self.training_images(rows, step, device))
        return self.prefetcher.batch(rows, step, next_rows)

    def step_batches(
        self, rows: Tensor, inputs: Tensor, labels: Tensor
    ) -> Iterable[tuple[Tensor, Tensor, Tensor | None]]:
        """Return the micro-batches of a step: inputs, labels, image weights. Without accumulation it is one.

        Args:
            rows: (N,) of the training images.
            inputs: (N, …), the images, or the rows themselves where features are reused.
            labels: (N,) or (N, K), on the device.
        """
        weights = self.train.weights
        if weights is not None:
            weights = weights.index_select(0, rows).to(labels.device)
        if self._accumulate == 1:
            return ((inputs, labels, weights),)
        part_weights = repeat(None) if weights is None else self._parts(weights)
        return zip(self._parts(inputs), self._parts(labels), part_weights, strict=False)

    def _parts(self, step: Tensor) -> tuple[Tensor, ...]:
        """Split a step's rows, images or labels, (N, …), into the batches whose gradients are accumulated."""
        return batches.batches(step, self._step_size // self._accumulate)

    def close(self) -> None:
        """Stop prefetching."""
        if self.prefetcher:
            self.prefetcher.close()

    def training_images(self, rows: Tensor, step: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return a step's images as the network trains on them: augmented, normalized, mixed.

        Args:
            rows: (N,) of the training images.
            step: seeds the augmentation, so that a resumed run sees the same images.

        Returns:
            Images, (N, C, H, W) float32, and labels; after mixup or CutMix soft labels, (N, K).
        """
        # index_select takes half the time of [rows].
        labels = _sent(self.train.labels.index_select(0, rows), device)
        if self._cached:
            if self._normalized is None:
                self._normalized = normalize(self.train.pixels[:], self.spec)
            return _sent(self._normalized.index_select(0, rows), device), labels
        stream = generator(self.seed, "augment", step)
        pixels = _sent(source_pixels(self.train, rows, self.augmentation, self.spec, stream), device)
        if self._augments:
            pixels = augment(pixels, self.augmentation, stream)
        images = normalize(pixels, self.spec)
        if mixes(self.augmentation):
            return mix(images, labels, self.classes, self.augmentation, derive(self.seed, "mix", step))
        return images, labels

    def validation_images(self, split: str, rows: Tensor, device: torch.device) -> Tensor:
        """Return images of val or selection as the network sees them, (N, C, H, W) float32."""
        pixels = self.validation[split].pixels
        if pixels.numel() > MAX_NORMALISED:
            return normalize(_sent(pixels[rows], device), self.spec)
        if split not in self._normalized_val:
            self._normalized_val[split] = normalize(pixels[:], self.spec)
        return _sent(self._normalized_val[split].index_select(0, rows), device)

    def epoch_images(self, epoch: int, step: int, device: torch.device) -> Iterator[Tensor]:
        """Yield the images of an epoch's training batches, augmented as at `step`."""
        for rows in self.training_rows(epoch):
            yield from self._parts(self.training_images(rows, step, device)[0])


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device; from pinned memory the copy overlaps with a GPU's computation."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
