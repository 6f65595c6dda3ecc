"""What a network's frozen layers make of images: computed once, kept, shared by all that freeze the same."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from frostline import schema
from frostline.core import frost_line
from frostline.core.feature_cache import FeatureCache
from frostline.core.freeze import FreezePlan
from frostline.core.frost_line import Split, Whole
from frostline.core.seeds import generator
from frostline.data.augment import augment, augments
from frostline.data.mix import mixes
from frostline.data.pixels import Images, InputSpec, normalise
from frostline.progress import Progress, silent

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

    @property
    def views(self) -> int | None:
        """Of each training image, where augmentation draws a fixed number; else None."""
        drawn = isinstance(self.config, schema.AutoFeatures) and augments(self.augment)
        return self.config.views if drawn else None  # type: ignore[union-attr]

    def why_not(self) -> str | None:
        """Return why no phase can train on features, whatever it freezes; None: nothing is in the way."""
        if isinstance(self.config, schema.NoFeatures):
            return "features=off"
        if mixes(self.augment):
            return "mixup and CutMix mix the images anew at each step"
        if augments(self.augment) and self.views is None:
            return "augmentation draws the images anew at each step; features.views=4 would draw four of each"
        return None

    def cut(self, network: nn.Module, plan: FreezePlan, phase: int, images: Images) -> Split | Whole:
        """Return the network, cut at the frost line of a phase where features of `images` are worth keeping.

        Args:
            network: as `core.thaw.enter` makes it for the phase, on the device that trains.
            plan: a run's.
            phase: whose frost line is meant.
            images: that it trains on.
        """
        rows = torch.arange(PROOF) % len(images)
        device = next(network.parameters()).device
        with self._precision(device):
            found = frost_line.split(
                network, plan, phase, normalise(images.pixels[rows].to(device), self.spec)
            )
        if isinstance(found, Whole):
            return found
        needed = found.bytes * len(images) * (self.views or 1)
        if needed > self.cache.limit:
            gib = needed / 2**30
            return Whole(f"features at {found.module} take {gib:.1f} GiB, more than the cache may")
        return found

    def features(self, split: Split, images: Images, view: int | None = None) -> Tensor:
        """Return the features of images, (N, *split.shape), on the CPU; memory-mapped if they are many.

        Args:
            split: a network's.
            images: N of them.
            view: which of the augmented views, 0 the first; None: the images as they are.
        """
        device = next(split.network.parameters()).device
        drawn = None if view is None else {"seed": self.seed, "view": view, **self.augment.model_dump()}
        about: dict[str, Any] = {
            "format": FORMAT,
            "backbone": getattr(self.backbone, "name", self.backbone.kind),
            "network": self.backbone.model_dump(),
            "cut": f"{split.module}:{split.side}",
            "weights": split.fingerprint(),
            "input": self.spec.to_dict(),
            "dataset": images.dataset,
            "split": images.split if view is None else f"{images.split}, view {view}",
            "images": images.key,
            "view": drawn,
            "precision": self.trainer.precision,
            "threads": self.trainer.threads,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "versions": {name: version(name) for name in ("torch", "timm")},
        }
        shape = (len(images), *split.shape)
        title = f"features of {images.dataset} ({images.split}) at {split.module}"

        def produce() -> Iterator[Tensor]:
            with self.progress(title, len(images)) as advance, self._precision(device):
                for begin in range(0, len(images), BATCH):
                    pixels = images.pixels[begin : begin + BATCH].to(device)
                    if view is not None:
                        pixels = augment(pixels, self.augment, generator(self.seed, "view", view, begin))
                    yield split.features(normalise(pixels, self.spec))
                    advance(len(pixels))

        features, _ = self.cache.get(about, shape, split.dtype, produce)
        return features

    def _precision(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.trainer.precision == "bf16")
