"""Computes the frozen layers of each phase once; `features.split_point` decides whether that is valid."""

import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from frostline.data.loading.pixels import Images
from frostline.features.reuse import OFF, FeatureExtractor
from frostline.features.split_point import ALL_TRAINS, NetworkSplit
from frostline.features.tensors import may_change
from frostline.training.freeze_callback import FreezeSchedule
from frostline.training.module import Classifier, ReusedFeatures

SPARE = 0.25
"""The largest share of a GPU's free memory that one feature tensor may take."""


class FeatureReuse(pl.Callback):
    """Gives the classifier the features of each phase. Must directly follow `FreezeSchedule`.

    Args:
        validation: split → images that validation measures.
        averages: whether validation measures averaged weights. In a layer that froze during the run, the
            average differs from the weights that computed the features.
    """

    def __init__(
        self,
        freezing: FreezeSchedule,
        reuse: FeatureExtractor,
        train: Images,
        validation: Mapping[str, Images],
        averages: bool,
    ) -> None:
        self.freezing, self.reuse, self.averages = freezing, reuse, averages
        self.train, self.validation = train, validation
        self.split_points: list[str] = []
        """For each phase so far: its split point, ``fc:input``, or ``whole network: …`` with the reason."""
        self.seconds = 0.0
        """Spent on features before the first step."""
        self._phase: int | None = None

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Use features in the validation before training, too."""
        begun = time.perf_counter()
        self._follow(pl_module)
        self.seconds = time.perf_counter() - begun

    def before_step(self, trainer: pl.Trainer, module: Classifier) -> None:
        """Change the features if the schedule entered a new phase."""
        if self.freezing.phase != self._phase:
            self._follow(module)

    def after_step(self, trainer: pl.Trainer, module: Classifier) -> None:
        """Do nothing: a step changes no frozen layer."""

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Release the features."""
        assert isinstance(pl_module, Classifier)
        pl_module.reused = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs; it finds the features in the cache by their key."""
        return {"said": self.split_points}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.split_points = list(state_dict["said"])

    # Lightning's sanity check runs in inference mode; autograd can't use tensors that are created in it.
    @torch.inference_mode(False)
    def _follow(self, module: pl.LightningModule) -> None:
        assert isinstance(module, Classifier)
        phase = self.freezing.phase
        if phase < 0:
            return
        self._phase = phase
        module.reused = None
        plan, network = self.freezing.plan, module.network
        split = self.reuse.split_network(network, plan, phase, self.train)
        if isinstance(split, NetworkSplit):
            module.reused, cached = self._reused(split, phase)
            self.split_points[phase:] = [split.name]
            suffix = " (from the cache)" if cached else ""
            self.reuse.say(f"phase {phase} trains on features at {split.name}{suffix}")
        else:
            self.split_points[phase:] = [f"whole network: {split.reason}"]
            if split.reason not in (ALL_TRAINS, OFF):
                self.reuse.say(f"phase {phase} runs the whole network: {split.reason}")

    def _reused(self, split: NetworkSplit, phase: int) -> tuple[ReusedFeatures, bool]:
        """Return the features of a phase, and whether all of them were cached."""
        plan = self.freezing.plan
        views = self.reuse.view_numbers
        features = [self.reuse.cached_features(split, self.train, view) for view in views]
        changed = may_change(split.network, plan.layers, plan.changed_before(phase)) if phase else frozenset()
        drifts = self.averages and not split.dependencies.isdisjoint(changed)
        measured = {
            name: self.reuse.cached_features(split, images)
            for name, images in ({} if drifts else self.validation).items()
        }
        cached = all(hit for _, hit in [*features, *measured.values()])
        precision = self.reuse.precision_after_split(split.network, plan, phase)
        device = next(split.network.parameters()).device
        train = [held_on(tensor, device) for tensor, _ in features]
        validation = {name: held_on(tensor, device) for name, (tensor, _) in measured.items()}
        return ReusedFeatures(split, train, validation or None, precision), cached


def held_on(features: Tensor, device: torch.device) -> Tensor:
    """Return features on the GPU if `SPARE` of its free memory holds them; else unchanged, on the CPU.

    A step on features takes less time than gathering them on the CPU and copying them.

    Args:
        features: (N, …).
    """
    if device.type != "cuda":
        return features
    free, _ = torch.cuda.mem_get_info(device)
    return features.to(device) if features.nbytes <= free * SPARE else features
