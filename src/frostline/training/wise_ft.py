"""WiSE-FT: interpolates between a run's initial and final weights (Wortsman et al. 2022b)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from frostline import schema
from frostline.base.metrics import EPOCH_METRICS, deciding_metrics, headline, score, task_metrics
from frostline.training.averaging import Score, best_alpha, interpolate
from frostline.training.inference import logits_of

if TYPE_CHECKING:
    from frostline.training.data_module import ImageData

Weights = Mapping[str, Tensor]


def sweep_alphas(
    network: torch.nn.Module, ends: tuple[Weights, Weights], data: "ImageData", run: schema.Run
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Validate (1 − α)·start + α·end for each α, and choose the best as `trainer.monitor` chooses the epoch.

    Ties go to the lower loss, then to the larger α.

    Args:
        network: is loaded with the interpolated weights.
        ends: the run's initial weights and those of its best epoch, on the CPU.

    Returns:
        The weights of the best α; and for training.json: alpha, and the curve, a row per α.
    """
    assert isinstance(run.averaging, schema.WiseFt)
    start, end = ends
    deciding = deciding_metrics(run.trainer.monitor, data.selection_split)
    curve: list[dict[str, float]] = []

    def measured(alpha: float) -> Score:
        network.load_state_dict(interpolate(start, end, alpha))
        row = {"alpha": alpha}
        for split, images in data.validation.items():
            logits = logits_of(network, images.pixels, data.spec, run.trainer)
            metrics = task_metrics(logits, images.labels)
            names = *EPOCH_METRICS[headline(metrics)], "loss"
            row |= {f"{split}/{name}": metrics[name] for name in names}
        curve.append(row)
        return tuple(score(name, row[name]) for name in deciding)

    best = best_alpha(run.averaging.alphas, measured)
    return interpolate(start, end, best), {"alpha": best, "curve": curve}
