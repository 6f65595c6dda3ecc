"""Features of labelled images, as probes take them."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class FeatureSet:
    """The features of N images, and their labels."""

    views: Sequence[Tensor]
    """(N, D) each, one per augmented view; without augmentation one."""
    labels: Tensor
    """(N,) int64, from 0 to K − 1; with several labels per image (N, K) float32, 0 and 1."""

    @property
    def features(self) -> Tensor:
        """(N, D), the first view."""
        return self.views[0]

    def __len__(self) -> int:
        return len(self.labels)
