"""Low-rank adapters (peft) in a timm backbone: small matrices train, the backbone stays frozen."""

import copy
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

OWN = (".lora_", ".hada_")
"""Parts of names that only peft's tensors have."""
BASE = ".base_layer."
"""Part of the names of a layer's own tensors when it has an adapter."""


def adapt(network: nn.Module, run: schema.Run, seed: int) -> None:
    """Add an adapter to each layer that `run.adapter` selects, in place; the output does not change at first.

    Linear and convolutional layers get one, but neither the head, which trains as it is, nor grouped
    convolutions, whose matrices are small already. Without an adapter in the config, nothing happens.

    Args:
        network: with its initial weights and ordinary tensor names.
        run: the config with adapter and backbone.
        seed: of the adapters' initial matrices.

    Raises:
        FrostlineError: peft is not installed, the backbone is not timm's, or no layer is selected.
    """
    config = run.adapter
    if isinstance(config, schema.NoAdapter):
        return
    if not isinstance(run.backbone, schema.Timm):
        raise FrostlineError(
            f"adapter: {config.kind} is for timm's backbones, not {run.backbone.kind}; set adapter=none"
        )
    try:
        from peft import inject_adapter_in_model
    except ModuleNotFoundError:
        raise FrostlineError(
            f"adapter: {config.kind} needs the package peft; install frostline[lora], or set adapter=none"
        ) from None
    targets = _targets(network, config.layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "adapter"))
        inject_adapter_in_model(_peft_config(config, targets), network)


def layers_for(run: schema.Run, network: nn.Module) -> Layers:
    """Return a network's layers; with an adapter, only parameters of the adapter and the head count."""
    layers = layers_of(network)
    if isinstance(run.adapter, schema.NoAdapter):
        return layers
    own = {name for name in layers.parameters if layers.places[name].head or any(o in name for o in OWN)}
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
        state: a state dict of this network.

    Returns:
        The state dict of the network without adapters, on the CPU.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    network = copy.deepcopy(network).cpu()
    network.load_state_dict(state)
    for module in network.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    return {
        name.replace(BASE, "."): tensor.detach().contiguous()
        for name, tensor in network.state_dict().items()
        if not any(own in name for own in OWN)
    }


def _targets(network: nn.Module, pattern: str) -> list[str]:
    layers = layers_of(network)
    try:
        meant = layers.match(pattern)
    except FrostlineError as error:
        raise FrostlineError(f"adapter.layers: {error}") from None
    targets = [
        name
        for name, module in network.named_modules()
        if f"{name}.weight" in meant
        and not layers.places[f"{name}.weight"].head
        and (isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1))
    ]
    if not targets:
        raise FrostlineError(
            f"adapter.layers: {pattern!r} matches no linear or convolutional layer below the head; widen it"
        )
    return targets


def _peft_config(config: schema.Lora | schema.Dora | schema.Loha, targets: list[str]) -> Any:
    from peft import LoHaConfig, LoraConfig

    if isinstance(config, schema.Loha):
        return LoHaConfig(r=config.rank, alpha=config.alpha, target_modules=targets)
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_dora=isinstance(config, schema.Dora),
        target_modules=targets,
    )
