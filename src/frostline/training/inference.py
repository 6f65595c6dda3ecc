"""Logits of a trained network on prepared images, for evaluation, soups and WiSE-FT."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from frostline.base import project
from frostline.console.errors import FrostlineError
from frostline.data.loading.pixels import PixelStack, normalize
from frostline.data.prepared.index import PreparedData
from frostline.features.cache import FeatureCache
from frostline.features.execution import (
    Precision,
    autocast,
    device_of,
    execution_of,
    gathered,
    run_layers,
)
from frostline.features.reuse import FeatureExtractor
from frostline.features.split_point import NetworkSplit
from frostline.models import weights
from frostline.models.backbones import build
from frostline.models.input_spec import InputSpec
from frostline.schema import Backbone, Run, Trainer
from frostline.training.services import Services


@dataclass(frozen=True)
class TrainedWeights:
    """The weights of a trained network, and its input."""

    state: Mapping[str, torch.Tensor]
    spec: InputSpec


def read_weights(path: Path, data: PreparedData) -> TrainedWeights:
    """Read the weights that a training stage wrote.

    Raises:
        FrostlineError: they belong to other data.
    """
    state, about = weights.load(path)
    if about is None or tuple(about["classes"]) != data.index.classes:
        raise FrostlineError(f"{path}: not made from the data in {data.folder}; run the training stage again")
    return TrainedWeights(state, InputSpec.from_dict(about["input"]))


def reuse_of(run: Run, spec: InputSpec, services: Services) -> FeatureExtractor:
    """Return the feature reuse of a run."""
    cache = FeatureCache(services.scratch / "features", project.features_limit())

    def say(text: str) -> None:
        services.say(f"{run.stage} {run.arm or run.freeze_name}: {text}")

    return FeatureExtractor(
        cache, run.features, run.backbone, spec, run.augment, run.trainer, run.seed, services.progress, say
    )


def network_with(
    state: Mapping[str, torch.Tensor], backbone: Backbone, spec: InputSpec, classes: int
) -> torch.nn.Module:
    """Return the network with the weights `state`; all of them must match."""
    network = build(backbone, spec, classes, seed=0)
    weights.transfer(network, state, (), reset_head=False, source="the trained weights")
    return network


@torch.no_grad()
def logits_of(
    network: torch.nn.Module, pixels: PixelStack, spec: InputSpec, trainer: Trainer
) -> torch.Tensor:
    """Return the network's logits, (N, K) float32 on the CPU, for (N, C, H, W) uint8 images."""
    device = device_of(trainer.device)
    network.eval().to(device)
    execution = execution_of(network, trainer.precision, device, spec.shape)
    execution.set_memory_format(network)
    with autocast(execution.precision, device):
        size = trainer.eval_batch_size
        return gathered(
            (
                network(execution.in_memory_format(normalize(pixels[i : i + size].to(device), spec))).float()
                for i in range(0, len(pixels), size)
            ),
            len(pixels),
        )


@torch.no_grad()
def logits_after_split(
    split: NetworkSplit, features: torch.Tensor, precision: Precision, batch_size: int
) -> torch.Tensor:
    """Return the logits of the network in `split`, as `logits_of` does.

    Args:
        split: the network, split, on the device to use.
        features: (N, …) at the split point.
        batch_size: images per forward pass.
    """
    split.network.eval()
    device = next(split.network.parameters()).device
    parts = (run_layers(split.rest, part.to(device), precision) for part in features.split(batch_size))
    return gathered((part.float() for part in parts), len(features))
