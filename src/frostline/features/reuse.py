"""Feature reuse: frozen layers run once; runs with the same frozen layers share the cached outputs."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from frostline import schema
from frostline.base.project import GIB
from frostline.base.seeds import generator
from frostline.console.progress import Progress, Say, no_output, no_progress
from frostline.console.units import size
from frostline.data.loading.augment import augment, source_pixels
from frostline.data.loading.mix import mixes
from frostline.data.loading.pixels import Images, PixelStack, normalize
from frostline.features import split_point, verification
from frostline.features.cache import FeatureCache
from frostline.features.execution import Execution, Precision, autocast, execution_of, gathered
from frostline.features.split_point import NetworkSplit, NoSplit
from frostline.freezing.plan import FreezePlan
from frostline.models.input_spec import InputSpec

OFF = "features=off"
CODE_VERSION = 1
"""Of the code that computes features; a part of their cache key."""
BATCH = 64
"""Images per forward pass; fixed, since rounding depends on it."""
SAMPLES = 3
"""Number of images on which a split is verified."""
PATTERN_CELLS = 7
"""Largest height and width of the random patterns among these images, in cells of one colour."""


@dataclass(frozen=True)
class FeatureExtractor:
    """Computes and caches the features of one run: its frozen layers run once over its images."""

    cache: FeatureCache
    config: schema.Features
    backbone: schema.Backbone
    spec: InputSpec
    augment: schema.Augment
    trainer: schema.Trainer
    seed: int
    progress: Progress = no_progress
    say: Say = no_output

    @property
    def views(self) -> int | None:
        """Cached augmented views per training image; None: no augmentation, or new views at each step."""
        is_augmented = isinstance(self.config, schema.AutoFeatures) and self.augment.changes_images
        return self.config.views if is_augmented else None  # type: ignore[union-attr]

    def worthwhile_splits(
        self, network: nn.Module, plan: FreezePlan, phase: int, example: Tensor | None = None
    ) -> list[NetworkSplit] | NoSplit:
        """Return the splits that save enough, the best first, not verified; or why features are not reused.

        Args:
            network: prepared for the phase by `training.trainable.apply_phase`; may be on the meta device.
            phase: index of the phase whose split point is wanted.
            example: (N, C, H, W) images to record the forward pass of; None: zeros.
        """
        if isinstance(self.config, schema.NoFeatures):
            return NoSplit(OFF)
        device = next(network.parameters()).device
        if example is None:
            example = torch.zeros(SAMPLES, *self.spec.shape, device=device)
        # torch's meta device has no autocast, so there everything is float32.
        frozen = self.inference_execution(network).frozen_precision
        precision = nullcontext() if device.type == "meta" else autocast(frozen, device)
        with precision:
            splits = split_point.worthwhile_splits(network, plan, phase, example)
        # If there is no split, that is the reason given, even if augmentation prevents reuse as well.
        if isinstance(splits, list) and (reason := self._why_images_change()):
            return NoSplit(reason)
        return splits

    def split_network(
        self, network: nn.Module, plan: FreezePlan, phase: int, images: Images
    ) -> NetworkSplit | NoSplit:
        """Return the verified split of the network for a phase, or why its features are not reused.

        Args:
            network: prepared for the phase by `training.trainable.apply_phase`, on the training device.
            phase: index of the phase whose split point is wanted.
        """
        samples = self.sample_images(network, images)
        candidates = self.worthwhile_splits(network, plan, phase, samples[:1])
        if isinstance(candidates, NoSplit):
            return candidates
        with autocast(self.inference_execution(network).frozen_precision, samples.device):
            split = verification.first_verified(candidates, samples)
        return split if isinstance(split, NoSplit) else self.within_limit(split, len(images))

    def sample_images(self, network: nn.Module, images: Images) -> Tensor:
        """Return (SAMPLES, C, H, W) images to verify splits on, and set the network's memory format.

        The first is a training image. The others are coarse random patterns: a data set may begin with images
        that look alike, and with these alone, verification would accept a wrong split that returns the output
        of one image for another.
        """
        execution, device = self.inference_execution(network), next(network.parameters()).device
        execution.set_memory_format(network)
        shape = SAMPLES - 1, self.spec.channels, *(min(side, PATTERN_CELLS) for side in self.spec.shape[1:])
        pattern = torch.rand(shape, generator=generator(0, "proof")) * self.spec.white
        pixels = torch.cat([images.pixels[:1].float(), interpolate(pattern, self.spec.shape[1:])])
        return execution.in_memory_format(normalize(pixels.to(device), self.spec))

    @property
    def view_numbers(self) -> list[int | None]:
        """Numbers of the cached views of a training image, from 0; [None]: without augmentation."""
        return [None] if self.views is None else list(range(self.views))

    def features(self, split: NetworkSplit, images: Images, view: int | None = None) -> Tensor:
        """Return the features of N images, (N, *split.shape), on the CPU; memory-mapped if they are large.

        Args:
            view: number of the augmented view, from 0; None: without augmentation.
        """
        return self.cached_features(split, images, view)[0]

    def cached_features(
        self, split: NetworkSplit, images: Images, view: int | None = None
    ) -> tuple[Tensor, bool]:
        """Return `features`, and whether they were in the cache already."""
        device, execution = next(split.network.parameters()).device, self.inference_execution(split.network)
        view_source = (
            None
            if view is None
            else {"seed": self.seed, "view": view, **self.augment.model_dump(exclude_none=True)}
        )
        # All that the features depend on, and names for `frostline cache` to list: `backbone`, `cut` (the
        # split point), `dataset` and `split` (train, val, …). The hash of all of it is the key in the cache.
        about: dict[str, Any] = {
            "format": CODE_VERSION,
            "backbone": getattr(self.backbone, "name", self.backbone.kind),
            "network": self.backbone.model_dump(),
            "cut": split.name,
            "weights": split.fingerprint(),
            "input": self.spec.to_dict(),
            "dataset": images.dataset,
            "split": images.split if view is None else f"{images.split}, view {view}",
            "images": images.key,
            "view": view_source,
            "precision": execution.frozen_precision,
            "threads": self.trainer.threads,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "versions": {name: version(name) for name in ("torch", "timm")},
        }
        shape = (len(images), *split.shape)
        title = f"features of {images.dataset} ({images.split}) at {split.module}"

        def produce() -> Iterator[Tensor]:
            with self.progress(title, len(images)) as advance, autocast(execution.frozen_precision, device):
                for begin in range(0, len(images), BATCH):
                    batch = slice(begin, begin + BATCH)
                    if view is None:
                        pixels = images.pixels[batch].to(device)
                    else:
                        stream = generator(self.seed, "view", view, begin)
                        pixels = source_pixels(images, batch, self.augment, self.spec, stream).to(device)
                        pixels = augment(pixels, self.augment, stream)
                    yield split.features(
                        execution.in_memory_format(normalize(pixels, self.spec))
                    ).contiguous()
                    advance(len(pixels))

        return self.cache.get(about, shape, split.dtype, produce)

    def uncached_features(self, split: NetworkSplit, images: PixelStack) -> Tensor:
        """Return the features of N images, (N, *split.shape), on the CPU, without the cache.

        Args:
            images: (N, C, H, W) uint8 or uint16, of the network's input size.
        """
        device, execution = next(split.network.parameters()).device, self.inference_execution(split.network)
        with autocast(execution.frozen_precision, device):
            return gathered(
                (
                    split.features(
                        execution.in_memory_format(normalize(images[i : i + BATCH].to(device), self.spec))
                    )
                    for i in range(0, len(images), BATCH)
                ),
                len(images),
            )

    def within_limit(self, split: NetworkSplit, count: int) -> NetworkSplit | NoSplit:
        """Return `split`, unless the features of `count` images, with all views, exceed the cache's limit."""
        needed, limit = split.bytes * count * (self.views or 1), self.cache.limit
        if needed <= limit:
            return split
        return NoSplit(
            f"features at {split.name} would take {size(needed)}, but the cache is limited to {size(limit)};"
            f" FROSTLINE_CACHE_GIB={math.ceil(needed / GIB)} raises the limit"
        )

    def inference_execution(self, network: nn.Module) -> Execution:
        """Return how to run layers that do not train, on the device that they are on."""
        return execution_of(network, self.trainer.precision, next(network.parameters()).device)

    def training_execution(self, network: nn.Module) -> Execution:
        """Return how to train a network on the device that it is on.

        For bfloat16 on a CPU, it runs a forward pass to find convolutions whose gradients oneDNN may leave
        uninitialized in bfloat16 (`execution.undefined_gradient`); with these, the network trains in float32.
        """
        device = next(network.parameters()).device
        return execution_of(network, self.trainer.precision, device, self.spec.shape)

    def precision_after_split(self, network: nn.Module, plan: FreezePlan, phase: int) -> Precision:
        """Return the precision of the layers after the split point: float32 if only linear layers train.

        The matrix product of a linear head is too small to be faster in a lower precision, and its rounding
        errors would go directly into the logits.
        """
        owners = (network.get_submodule(name.rpartition(".")[0]) for name in plan.trained(phase))
        linear = all(isinstance(owner, nn.Linear) for owner in owners)
        return "fp32" if linear else self.training_execution(network).precision

    def _why_images_change(self) -> str | None:
        """Return why the images change at each step; None: they do not."""
        if mixes(self.augment):
            return "mixup and CutMix combine different pairs of images at each step"
        if self.augment.changes_images and self.views is None:
            return (
                "augmentation changes the images at each step; features.views=4 caches four versions of each"
            )
        return None
