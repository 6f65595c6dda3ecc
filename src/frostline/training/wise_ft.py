"""WiSE-FT: interpolates between a run's initial and final weights (Wortsman et al. 2022b)."""

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
    """Validate (1 − α)·start + α·end for each α, and choose the best by `trainer.monitor`.

    Ties go to the lower loss, then to the larger α.

    Args:
        network: is loaded with the interpolated weights.
        start: the run's initial weights, on the CPU.
        end: the weights of its best epoch, on the CPU.
        val: images (N, C, H, W) uint8 and labels (N,).
        trainer: monitor, batch size, device and precision.

    Returns:
        The weights of the best α; and for training.json: alpha, and the curve, a row per α.
    """
    pixels, labels = val
    curve: list[dict[str, float]] = []

    def measured(alpha: float) -> Score:
        network.load_state_dict(interpolate(start, end, alpha))
        metrics = classification_metrics(logits_of(network, pixels, spec, trainer), labels)
        row = {"alpha": alpha, "val/accuracy": metrics["accuracy"], "val/loss": metrics["loss"]}
        curve.append(row)
        return tuple(score(name, row[name]) for name in (trainer.monitor, "val/loss"))

    best = best_alpha(config.alphas, measured)
    return interpolate(start, end, best), {"alpha": best, "curve": curve}
