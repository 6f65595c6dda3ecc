"""The multilayer perceptron of the articles: fully connected layers on the flattened image."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn


class Exponential(nn.Module):
    """eˣ."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return eˣ, elementwise."""
        return x.exp()


class BipolarSigmoid(nn.Module):
    """(1 − e⁻ˣ) / (1 + e⁻ˣ) = tanh(x / 2)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return tanh(x / 2), elementwise: the same value, without overflow."""
        return torch.tanh(x / 2)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "exponential": Exponential,
    "sigmoid": nn.Sigmoid,
    "bipolar_sigmoid": BipolarSigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
}


class Mlp(nn.Module):
    """Linear layers with an activation between them; (N, C, H, W) images in, (N, classes) logits out."""

    def __init__(
        self, inputs: int, hidden: Sequence[int], classes: int, activation: str = "relu", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([inputs, *hidden]))
        self.activation = ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden[-1] if hidden else inputs, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, (N, classes) float32."""
        x = images.flatten(1)
        for layer in self.hidden:
            x = self.activation(layer(x))
            if self.dropout.p:
                x = self.dropout(x)
        logits: torch.Tensor = self.head(x)
        return logits

    def get_classifier(self) -> nn.Module:
        """Return the head, like timm models."""
        return self.head

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group each hidden layer as a stage and a block, like timm models."""
        return {"blocks": r"^hidden\.(\d+)"}
