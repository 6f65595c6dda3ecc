"""The serving wrapper of a network: from pixels to probabilities."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from frostline.models.input_spec import InputSpec

TOLERANCE = 1e-4
"""The largest difference of a probability that counts as rounding."""
TRACED = 2
"""Images in the batch for tracing: a batch of one would be traced as a constant size."""
Predictor = Callable[[Tensor], Tensor]
"""(N, C, H, W) uint8 or uint16 → (N, K) float32 probabilities."""


class ServingModel(nn.Module):
    """Normalizes images, runs a network on them, and returns probabilities.

    Resizing is not included: Pillow's algorithm, which training used, can't be written as torch operations.

    Args:
        network: (N, C, H, W) float32 → (N, K) logits.
        several_labels: whether an image may have any number of labels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, spec: InputSpec, *, several_labels: bool = False) -> None:
        super().__init__()
        self.network, self.several_labels = network, several_labels
        self.dtype, self.kind, self.white = spec.dtype, f"uint{spec.depth}", spec.white
        for name, values in (("mean", spec.mean), ("std", spec.std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return class probabilities.

        Args:
            images: (N, C, H, W) uint8, or uint16 with `input.depth` 16, resized as in training.

        Returns:
            (N, K) float32; with one label per image each row sums to one.
        """
        torch._assert(images.dtype == self.dtype, f"images have to be {self.kind}, 0 to {self.white}")
        # The check above is no part of an exported program, which would silently accept images from 0 to 1.
        torch.ops.aten._assert_tensor_metadata.default(images, dtype=self.dtype)
        logits: Tensor = self.network((images / self.white - self.mean) / self.std).float()
        return logits.sigmoid() if self.several_labels else logits.softmax(1)


@torch.no_grad()
def largest_difference(model: ServingModel, written: Predictor, images: Tensor) -> float:
    """Return the largest difference of a probability, on a batch of all images and of one.

    Args:
        images: (N, C, H, W) uint8 or uint16, N ≥ 1.
    """
    parts = (images, images[:1])
    return max(float((model(part) - written(part)).abs().max()) for part in parts)
