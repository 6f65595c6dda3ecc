"""Applies a phase of a freeze plan to a network: trained parameters, running statistics, dropout."""

from collections.abc import Iterable, Set
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from frostline.console.errors import FrostlineError
from frostline.features.tensors import all_names
from frostline.freezing.plan import FreezePlan

HEAD_DROPOUT = ("head_drop", "head.drop", "drop", "dropout", "classifier.drop")
"""Names of the dropout module before the head, in timm's networks and frostline's."""


def apply_phase(network: nn.Module, plan: FreezePlan, phase: int) -> None:
    """Freeze and unfreeze `network` for `phase`: frozen layers get no gradient and run in eval mode.

    Their running statistics are not updated and their dropout is off, so that their output for an image is
    the same at every step.
    """
    trained = plan.trained(phase)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in trained)
        if name not in trained:
            parameter.grad = None
    release(network)
    network.train()
    moving = trained | plan.updated_statistics(phase)
    still = _with_statistics(network, plan.layers.places.keys() - plan.updated_statistics(phase))
    frozen = all_names(network, plan.layers.places.keys() - moving)
    for module in [*still, *_whose_tensors_are(network, frozen)]:
        module.train = MethodType(_stay, module)  # type: ignore[method-assign]
        module.eval()


def release(network: nn.Module) -> None:
    """Undo `apply_phase` on the modes: `train` puts all layers into training mode again."""
    for module in network.modules():
        vars(module).pop("train", None)


def _stay(self: nn.Module, mode: bool = True) -> nn.Module:
    """Replace `train` in frozen layers: they stay in eval mode, whoever calls it."""
    return type(self).train(self, False)


def recalibrate(network: nn.Module, plan: FreezePlan, phase: int, batches: Iterable[Tensor]) -> None:
    """Recompute the running statistics of the groups that `phase` trains: unweighted means over `batches`.

    As torch.optim.swa_utils.update_bn does. Other layers are in eval mode, and afterwards the whole network.

    Args:
        batches: network inputs, (N, C, H, W) each.
    """
    modules = _with_statistics(network, plan.statistics_of_trained_groups(phase))
    release(network)
    network.eval()
    momenta: dict[Any, float | None] = {}
    module: Any
    for module in modules:
        if hasattr(module, "reset_running_stats") and hasattr(module, "momentum"):
            momenta[module] = module.momentum
            module.reset_running_stats()
            module.momentum = None  # a cumulative mean
        module.train()
    with torch.no_grad():
        for images in batches:
            network(images)
    for module, momentum in momenta.items():
        module.momentum = momentum
    network.eval()


class Dropout:
    """A network's dropout and stochastic depth, which a phase may set and a later one resets."""

    def __init__(self, network: nn.Module) -> None:
        modules: dict[str, Any] = dict(network.named_modules())
        # In timm the head's dropout is a module, or an attribute of the network or its head.
        self._heads = {
            module: module.p
            for name, module in modules.items()
            if isinstance(module, _DropoutNd) and name in HEAD_DROPOUT
        }
        self._rates = {
            module: module.drop_rate
            for name, module in modules.items()
            if name in ("", "head") and isinstance(getattr(module, "drop_rate", None), float)
        }
        self._paths = {
            module: module.drop_prob
            for module in modules.values()
            if type(module).__name__ == "DropPath" and isinstance(module.drop_prob, float)
        }

    def check(self, plan: FreezePlan) -> None:
        """Refuse a plan that sets dropout or stochastic depth which the network does not have."""
        for index, phase in enumerate(plan.phases):
            if phase.dropout is not None and not self._heads and not self._rates:
                raise FrostlineError(
                    f"freeze.phases.{index}.dropout: this network has none before its head; remove it"
                )
            if phase.drop_path is not None and not any(self._paths.values()):
                raise FrostlineError(
                    f"freeze.phases.{index}.drop_path: the network is built without stochastic depth;"
                    " set backbone.drop_path_rate above 0, or remove it"
                )

    def set(self, dropout: float | None, drop_path: float | None) -> None:
        """Set the head's dropout and the largest rate of stochastic depth; None: the network's own."""
        for module, p in self._heads.items():
            module.p = p if dropout is None else dropout
        for module, rate in self._rates.items():
            module.drop_rate = rate if dropout is None else dropout
        # Rates increase with depth (Huang et al. 2016, eq. 4), so all are scaled together.
        largest = max(self._paths.values(), default=0.0)
        for module, rate in self._paths.items():
            module.drop_prob = rate if drop_path is None else rate / largest * drop_path


def freeze_all(network: nn.Module) -> None:
    """Freeze everything, for a plan without phases."""
    network.requires_grad_(False)
    network.eval()


def _whose_tensors_are(network: nn.Module, names: Set[str]) -> list[nn.Module]:
    """Return the layers whose parameters are all in `names`; the innermost last."""
    layers = []
    for prefix, module in network.named_modules():
        held = [f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters()]
        if held and names >= set(held):
            layers.append(module)
    return layers


def _with_statistics(network: nn.Module, names: Iterable[str]) -> list[nn.Module]:
    """Return the layers that own any of these running statistics."""
    wanted = set(names)
    return [
        module
        for prefix, module in network.named_modules()
        if any(
            (f"{prefix}.{name}" if prefix else name) in wanted
            for name, _ in module.named_buffers(recurse=False)
        )
    ]
