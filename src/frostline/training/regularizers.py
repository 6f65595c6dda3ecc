"""Penalties that keep a network near its initial weights."""

from collections.abc import Collection

import torch
from torch import Tensor, nn


class StartPenalty(nn.Module):
    """L2 distance to the start (Li et al. 2018): eq. 2, or with `beta` eq. 3, L2-SP.

    ``α/2·‖w_S − w_S⁰‖² + β/2·‖w_S̄‖²``: S are the pretrained tensors, S̄ the `new` ones. Frozen tensors add
    nothing.

    The start is the network's state when the penalty is created. A resumed run creates the same network
    before it loads its checkpoint, so the start is not part of the checkpoint.

    Args:
        network: at its start.
        beta: pull of the new tensors towards zero.
        new: names of the parameters without pretrained values; empty: eq. 2.
    """

    def __init__(self, network: nn.Module, alpha: float, beta: float, new: Collection[str]) -> None:
        super().__init__()
        self._pairs: list[tuple[nn.Parameter, str, float]] = []
        for index, (name, parameter) in enumerate(network.named_parameters()):
            anchor = torch.zeros_like(parameter) if name in new else parameter.detach().clone()
            # A buffer moves between devices with the network; not persistent: not in checkpoints.
            self.register_buffer(f"start_{index}", anchor, persistent=False)
            self._pairs.append((parameter, f"start_{index}", beta if name in new else alpha))

    def forward(self) -> Tensor:
        """Return the penalty of the current weights, a scalar."""
        terms = [
            weight / 2 * (parameter - self.get_buffer(start)).square().sum()
            for parameter, start, weight in self._pairs
            if parameter.requires_grad and weight
        ]
        return torch.stack(terms).sum() if terms else torch.zeros(())
