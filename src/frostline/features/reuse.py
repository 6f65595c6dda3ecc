"""What a network's frozen layers make of images: computed once, kept, shared by all that freeze the same."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from frostline import schema
from frostline.base.project import GIB
from frostline.base.seeds import generator
from frostline.console.progress import Progress, Say, mute, silent
from frostline.console.units import size
from frostline.data.loading.augment import augment, augments
from frostline.data.loading.mix import mixes
from frostline.data.loading.pixels import Images, normalise
from frostline.features import split_point as frost_line
from frostline.features.cache import FeatureCache
from frostline.features.execution import Execution, autocast, execution_of
from frostline.features.split_point import Split, Whole
from frostline.freezing.plan import FreezePlan
from frostline.models.input_spec import InputSpec

OFF = "features=off"
FORMAT = 1
"""Of all that features depend on beside their key; changes when their making does."""
BATCH = 64
"""Images a pass: fixed, since a network's rounding depends on it."""
PROOF = 3
"""Images that prove a cut."""


@dataclass(frozen=True)
class Reuse:
    """Runs the frozen layers of one run's network once over its images."""

    cache: FeatureCache
    config: schema.Features
    backbone: schema.Backbone
    spec: InputSpec
    augment: schema.Augment
    trainer: schema.Trainer
    seed: int
    progress: Progress = silent
    say: Say = mute

    @property
    def views(self) -> int | None:
        """Of each training image, where augmentation draws a fixed number; else None."""
        drawn = isinstance(self.config, schema.AutoFeatures) and augments(self.augment)
        return self.config.views if drawn else None  # type: ignore[union-attr]

    def cuts(
        self, network: nn.Module, plan: FreezePlan, phase: int, stand_in: Tensor | None = None
    ) -> list[Split] | Whole:
        """Return where training may cut the network, best first, none of them proven, or why nowhere.

        Args:
            network: as `training.thaw.enter` makes it for the phase; may have no data.
            plan: a run's.
            phase: whose frost line is meant.
            stand_in: (N, C, H, W) images that the network is watched on; None: black ones.
        """
        if isinstance(self.config, schema.NoFeatures):
            return Whole(OFF)
        device = next(network.parameters()).device
        if stand_in is None:
            stand_in = torch.zeros(PROOF, self.spec.channels, self.spec.size, self.spec.size, device=device)
        # What has no data is in float32: torch's meta device has no autocast.
        with nullcontext() if device.type == "meta" else autocast(self.execution(network).frozen, device):
            found = frost_line.worthwhile(network, plan, phase, stand_in)
        # Only of what could be cut else is it worth knowing what is in the way.
        if isinstance(found, list) and (reason := self._fresh()):
            return Whole(reason)
        return found

    def cut(self, network: nn.Module, plan: FreezePlan, phase: int, images: Images) -> Split | Whole:
        """Return the network, cut at the frost line of a phase where features of `images` are worth keeping.

        Args:
            network: as `training.thaw.enter` makes it for the phase, on the device that trains.
            plan: a run's.
            phase: whose frost line is meant.
            images: that it trains on.
        """
        shown = self.shown(network, images)
        cuts = self.cuts(network, plan, phase, shown[:1])
        if isinstance(cuts, Whole):
            return cuts
        with autocast(self.execution(network).frozen, shown.device):
            found = frost_line.proven(cuts, shown)
        return found if isinstance(found, Whole) else self.fitting(found, len(images))

    def shown(self, network: nn.Module, images: Images) -> Tensor:
        """Make the network ready, and return (PROOF, C, H, W) of the images, on which its cuts are tried."""
        execution, device = self.execution(network), next(network.parameters()).device
        execution.arrange(network)
        rows = torch.arange(PROOF) % len(images)
        return execution.arranged(normalise(images.pixels[rows].to(device), self.spec))

    def features(self, split: Split, images: Images, view: int | None = None) -> Tensor:
        """Return the features of images, (N, *split.shape), on the CPU; memory-mapped if they are many.

        Args:
            split: a network's.
            images: N of them.
            view: which of the augmented views, 0 the first; None: the images as they are.
        """
        return self.kept(split, images, view)[0]

    def kept(self, split: Split, images: Images, view: int | None = None) -> tuple[Tensor, bool]:
        """Return `features`, and whether they were there already."""
        device, execution = next(split.network.parameters()).device, self.execution(split.network)
        drawn = None if view is None else {"seed": self.seed, "view": view, **self.augment.model_dump()}
        about: dict[str, Any] = {
            "format": FORMAT,
            "backbone": getattr(self.backbone, "name", self.backbone.kind),
            "network": self.backbone.model_dump(),
            "cut": split.name,
            "weights": split.fingerprint(),
            "input": self.spec.to_dict(),
            "dataset": images.dataset,
            "split": images.split if view is None else f"{images.split}, view {view}",
            "images": images.key,
            "view": drawn,
            "precision": execution.frozen,
            "threads": self.trainer.threads,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "versions": {name: version(name) for name in ("torch", "timm")},
        }
        shape = (len(images), *split.shape)
        title = f"features of {images.dataset} ({images.split}) at {split.module}"

        def produce() -> Iterator[Tensor]:
            with self.progress(title, len(images)) as advance, autocast(execution.frozen, device):
                for begin in range(0, len(images), BATCH):
                    pixels = images.pixels[begin : begin + BATCH].to(device)
                    if view is not None:
                        pixels = augment(pixels, self.augment, generator(self.seed, "view", view, begin))
                    yield split.features(execution.arranged(normalise(pixels, self.spec))).contiguous()
                    advance(len(pixels))

        return self.cache.get(about, shape, split.dtype, produce)

    def fitting(self, cut: Split, count: int) -> Split | Whole:
        """Return `cut`, unless its features, those of so many images, are more than may be kept."""
        needed, limit = cut.bytes * count * (self.views or 1), self.cache.limit
        if needed <= limit:
            return cut
        return Whole(
            f"features at {cut.name} would take {size(needed)}, and {size(limit)} may be kept;"
            f" FROSTLINE_CACHE_GIB={math.ceil(needed / GIB)} allows more"
        )

    def execution(self, network: nn.Module) -> Execution:
        """Return how a network is run where it lies."""
        return execution_of(network, self.trainer.precision, next(network.parameters()).device)

    def _fresh(self) -> str | None:
        """Why the network sees other images at each step; None: it sees the same ones."""
        if mixes(self.augment):
            return "mixup and CutMix mix the images anew at each step"
        if augments(self.augment) and self.views is None:
            return "augmentation draws the images anew at each step; features.views=4 draws four of each once"
        return None
