"""WiSE-FT: how far to go from a run's start towards its end, chosen on validation (Wortsman et al. 2022b)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from frostline import schema
from frostline.base.metrics import classification_metrics, score
from frostline.data.loading.pixels import ImageStack
from frostline.models.input_spec import InputSpec
from frostline.training.averaging import Score, best_alpha, interpolate
from frostline.training.inference import logits_of


def sweep_alphas(
    network: torch.nn.Module,
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    val: tuple[ImageStack, Tensor],
    spec: InputSpec,
    config: schema.WiseFt,
    trainer: schema.Trainer,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Measure (1 − α)·start + α·end on validation for each α, and choose by `trainer.monitor`.

    Ties go to the lower loss, then to the larger α.

    Args:
        network: takes the weights; what it holds is lost.
        start: the weights that the run began with, on the CPU.
        end: those that it kept, likewise.
        val: images (N, C, H, W) uint8 and labels (N,).
        spec: the network's input.
        config: the αs to try.
        trainer: monitor, batches, device and precision.

    Returns:
        The weights of the best α; and what to record: alpha, and the curve, a row an α.
    """
    pixels, labels = val
    curve: list[dict[str, float]] = []

    def measured(alpha: float) -> Score:
        network.load_state_dict(interpolate(start, end, alpha))
        found = classification_metrics(logits_of(network, pixels, spec, trainer), labels)
        row = {"alpha": alpha, "val/accuracy": found["accuracy"], "val/loss": found["loss"]}
        curve.append(row)
        return tuple(score(name, row[name]) for name in (trainer.monitor, "val/loss"))

    best = best_alpha(config.alphas, measured)
    return interpolate(start, end, best), {"alpha": best, "curve": curve}
