"""Low-rank adapters (Hu et al. 2022) in a timm backbone: small matrices train, the backbone stays frozen."""

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from frostline import schema
from frostline.base.seeds import derive
from frostline.console.errors import FrostlineError
from frostline.freezing.layers import Layers, layers_of
from frostline.freezing.plan import FreezePlan

OWN = ".lora_"
"""Part of names that only the tensors of adapters have."""
BASE = ".base_layer."
"""Part of the names of a layer's own tensors when it has an adapter."""


class LowRank(nn.Module):
    """A layer with an adapter: ``base(x) + (α/r)·B·A·x`` (Hu et al. 2022, eq. 3).

    A convolution's A has the kernel, stride and padding of the layer, and B is 1×1.
    """

    lora_a: nn.Linear | nn.Conv2d
    lora_b: nn.Linear | nn.Conv2d

    def __init__(self, base: nn.Linear | nn.Conv2d, config: schema.Lora) -> None:
        super().__init__()
        self.base_layer, self.scale = base, config.alpha / config.rank
        self.dropout = nn.Dropout(config.dropout)
        if isinstance(base, nn.Conv2d):
            shape: Any = {
                name: getattr(base, name) for name in ("kernel_size", "stride", "padding", "dilation")
            }
            self.lora_a = type(base)(base.in_channels, config.rank, **shape, bias=False)
            self.lora_b = nn.Conv2d(config.rank, base.out_channels, 1, bias=False)
        else:
            self.lora_a = nn.Linear(base.in_features, config.rank, bias=False)
            self.lora_b = nn.Linear(config.rank, base.out_features, bias=False)
        nn.init.kaiming_uniform_(self.lora_a.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output and that of its adapter, added."""
        result: Tensor = self.base_layer(x) + self.lora_b(self.lora_a(self.dropout(x))) * self.scale
        return result

    @property
    def weight(self) -> Tensor:
        """The layer's weight with the adapter added; some networks use it without calling the layer."""
        change = self.lora_b.weight.flatten(1) @ self.lora_a.weight.flatten(1)
        return self.base_layer.weight + change.view_as(self.base_layer.weight) * self.scale

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias."""
        return self.base_layer.bias


def adapt(network: nn.Module, run: schema.Run) -> None:
    """Add an adapter to each layer that `run.adapter` selects, in place; the output does not change at first.

    Linear and convolutional layers get one, but neither the head, which trains as it is, nor grouped
    convolutions, whose matrices are small already. Without an adapter in the config, nothing happens.

    Args:
        network: with its initial weights and ordinary tensor names.
        run: its seed draws the adapters' initial matrices.

    Raises:
        FrostlineError: the backbone is not timm's, or no layer is selected.
    """
    config = run.adapter
    if isinstance(config, schema.NoAdapter):
        return
    if not isinstance(run.backbone, schema.Timm):
        raise FrostlineError(
            f"adapter: {config.kind} is for timm's backbones, not {run.backbone.kind}; set adapter=none"
        )
    targets = _targets(network, config.layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(run.seed, "adapter"))
        for name, layer in targets:
            network.set_submodule(name, LowRank(layer, config))


def layers_for(run: schema.Run, network: nn.Module) -> Layers:
    """Return a network's layers; with an adapter, only parameters of the adapter and the head count."""
    layers = layers_of(network)
    if isinstance(run.adapter, schema.NoAdapter):
        return layers
    own = {name for name in layers.parameters if layers.places[name].head or OWN in name}
    return replace(layers, parameters=frozenset(own))


def plan_for(run: schema.Run, plan: FreezePlan) -> FreezePlan:
    """Return the plan; with an adapter, running statistics are frozen like all of the backbone."""
    if isinstance(run.adapter, schema.NoAdapter):
        return plan
    phases = (replace(p, bn="eval") if p.bn == "train" else p for p in plan.phases)
    return replace(plan, phases=tuple(phases))


def merged(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Merge adapters into a state dict: W + (α/r)·B·A for each W.

    Args:
        network: the network with adapters; it is not changed.

    Returns:
        The state dict of the network without adapters, on the CPU.
    """
    network = copy.deepcopy(network).cpu()
    network.load_state_dict(state)
    for module in network.modules():
        if isinstance(module, LowRank):
            module.base_layer.weight.data.copy_(module.weight)
    return {
        name.replace(BASE, "."): tensor.detach().contiguous()
        for name, tensor in network.state_dict().items()
        if OWN not in name
    }


def _targets(network: nn.Module, pattern: str) -> list[tuple[str, Any]]:
    from timm.layers import Conv2dSame

    # Not their subclasses, which may use their weights in another way.
    kinds = (nn.Linear, nn.Conv2d, Conv2dSame)
    layers = layers_of(network)
    try:
        meant = layers.match(pattern)
    except FrostlineError as error:
        raise FrostlineError(f"adapter.layers: {error}") from None
    targets = [
        (name, module)
        for name, module in network.named_modules()
        if f"{name}.weight" in meant
        and not layers.places[f"{name}.weight"].head
        and type(module) in kinds
        and getattr(module, "groups", 1) == 1
    ]
    if not targets:
        raise FrostlineError(
            f"adapter.layers: {pattern!r} matches no linear or convolutional layer below the head; widen it"
        )
    return targets
