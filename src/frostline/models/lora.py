"""Low-rank adapters of peft in a timm backbone: small matrices train, its own tensors stay frozen."""

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
"""In the names of peft's tensors, and of no others."""
BASE = ".base_layer."
"""In the names of a layer's own tensors, once it has an adapter."""


def adapt(network: nn.Module, run: schema.Run, seed: int) -> None:
    """Give the layers that `run.adapter` names an adapter each, in place; at first it changes no output.

    Linear and convolutional layers get one, but neither the head, which trains as itself, nor grouped
    convolutions, whose matrices are small already. Where the run has no adapter, nothing happens.

    Args:
        network: as the weights left it, its tensors by their ordinary names.
        run: its adapter and its backbone.
        seed: draws the first matrices.

    Raises:
        FrostlineError: peft is not installed, the backbone is not timm's, or no layer is meant.
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
    """Return a network's layers; with an adapter its parameters are the adapter's and the head's."""
    layers = layers_of(network)
    if isinstance(run.adapter, schema.NoAdapter):
        return layers
    own = {name for name in layers.parameters if layers.places[name].head or any(o in name for o in OWN)}
    return replace(layers, parameters=frozenset(own))


def plan_for(run: schema.Run, plan: FreezePlan) -> FreezePlan:
    """Return a plan; with an adapter running statistics stand still, like all that is the backbone's own."""
    if isinstance(run.adapter, schema.NoAdapter):
        return plan
    phases = (replace(p, bn="eval") if p.bn == "train" else p for p in plan.phases)
    return replace(plan, phases=tuple(phases))


def merged(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `state`, that of a network with adapters, as the ordinary network's: W + (α/r)·B·A for each W.

    Args:
        network: with adapters; it stays as it is.
        state: its tensors, at any time of the run.

    Returns:
        Tensors by their ordinary names, on the CPU.
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
    found = [
        name
        for name, module in network.named_modules()
        if f"{name}.weight" in meant
        and not layers.places[f"{name}.weight"].head
        and (isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1))
    ]
    if not found:
        raise FrostlineError(
            f"adapter.layers: {pattern!r} matches no linear or convolutional layer below the head; widen it"
        )
    return found


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
