"""The optimizers of batched linear heads, with a learning rate per head."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Optimizer:
    """The hyperparameters of torch.optim.SGD, Adam or AdamW, with the same meaning."""

    kind: Literal["sgd", "adam", "adamw"]
    momentum: float = 0.0
    """For sgd."""
    nesterov: bool = False
    """For sgd."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


class Sgd:
    """torch.optim.SGD without dampening."""

    def __init__(self, config: Optimizer, parameters: Tensor) -> None:
        self.config = config
        self.velocity = torch.zeros_like(parameters)

    def __call__(self, parameters: Tensor, gradient: Tensor, rate: Tensor, momentum: float | None) -> None:
        """Take a step with the learning rates `rate`, (H, 1) float64; overwrites the gradient."""
        momentum = self.config.momentum if momentum is None else momentum
        move = self.velocity.mul_(momentum).add_(gradient)
        if self.config.nesterov:
            move = gradient.add_(move, alpha=momentum)
        parameters.sub_(move * rate.to(move))


class Adam:
    """torch.optim.Adam and AdamW, without weight decay."""

    def __init__(self, config: Optimizer, parameters: Tensor) -> None:
        self.config = config
        self.mean = torch.zeros_like(parameters)
        self.square = torch.zeros_like(parameters)
        self.steps = 0

    def __call__(self, parameters: Tensor, gradient: Tensor, rate: Tensor, momentum: float | None) -> None:
        """Take a step with the learning rates `rate`, (H, 1) float64; overwrites the gradient."""
        beta1, beta2 = self.config.betas
        beta1 = beta1 if momentum is None else momentum
        self.steps += 1
        self.mean.lerp_(gradient, 1 - beta1)
        self.square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        # m/(1 − β₁ᵗ) over √(v/(1 − β₂ᵗ)) + ε, with the bias corrections moved into ε and the learning rate.
        root = math.sqrt(1 - beta2**self.steps)
        move = torch.sqrt(self.square, out=gradient).add_(self.config.eps * root)
        torch.div(self.mean, move, out=move)
        parameters.sub_(move.mul_((rate * (root / (1 - beta1**self.steps))).to(move)))
