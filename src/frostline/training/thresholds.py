"""Thresholds of the predictions of several labels per image, chosen on the selection images."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from frostline.base.multi_label_metrics import best_thresholds, fixed_thresholds
from frostline.schema import Run
from frostline.training.inference import logits_of, network_with

if TYPE_CHECKING:
    from frostline.training.data_module import ImageData


def thresholds(
    kind: Literal["one", "per_class"] | float, state: Mapping[str, Tensor], data: "ImageData", run: Run
) -> list[float]:
    """Return the probability from which each label is predicted; see `best_thresholds`.

    Args:
        kind: `loss.threshold`.
        state: the trained weights, with an adapter merged.
        data: its selection images choose the thresholds; without any, they are 0.5.
    """
    if not isinstance(kind, str) or data.selection_split == "last":
        return fixed_thresholds(kind, data.classes)
    images = data.validation[data.selection_split]
    network = network_with(state, run.backbone, data.spec, data.classes)
    logits = logits_of(network, images.pixels, data.spec, run.trainer)
    return best_thresholds(logits, images.labels, kind)
