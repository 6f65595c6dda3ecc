"""Splits all parameters of an optimizer into named groups, as a freeze plan needs them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from frostline.console.errors import FrostlineError, allowed
from frostline.freezing.layers import Layers
from frostline.freezing.plan import FreezePlan


@dataclass(frozen=True)
class Slot:
    """What the parameters of one optimizer group share: group of the schedule, depth, weight decay."""

    group: str
    """The schedule's group; the first one of those that all phases treat alike."""
    depth: int | None
    """The layer; None if no phase has layer-wise learning-rate decay."""
    has_weight_decay: bool

    @property
    def name(self) -> str:
        """The name in charts and errors."""
        layer = "" if self.depth is None else f"/{self.depth}"
        return f"{self.group}{layer}{'' if self.has_weight_decay else '/no_decay'}"


def decaying(layers: Layers, network: nn.Module) -> frozenset[str]:
    """Return the parameters that weight decay applies to: not biases, norms and other vectors.

    He et al. 2019, section 3.1; timm does the same. `network.no_weight_decay()`, which timm's models have,
    exempts further ones, such as position embeddings and class tokens.
    """
    exempt: Collection[str] = getattr(network, "no_weight_decay", frozenset)()
    return frozenset(
        name
        for name, parameter in network.named_parameters()
        if parameter.ndim > 1
        and not layers.places[name].norm
        and not layers.places[name].bias
        and name not in exempt
    )


def by_decay(layers: Layers, network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the network's parameters as two optimizer groups, with and without weight decay."""
    decay = decaying(layers, network)
    members: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in network.named_parameters():
        members[name in decay].append(parameter)
    return [
        {"params": params, "weight_decay": weight_decay if has_weight_decay else 0.0}
        for has_weight_decay, params in members.items()
        if params
    ]


def split(
    plan: FreezePlan, network: nn.Module, groups: Sequence[Mapping[str, Any]]
) -> tuple[list[Slot | None], list[dict[str, Any]]]:
    """Split an optimizer's groups so that each is in one group of the plan, with layer decay in one layer.

    There are as few as possible, since an optimizer loops over them: parameters that all phases and all
    options of the optimizer treat alike form one group, named after the first. Frozen parameters are included
    from the start: without a gradient, neither decay nor momentum changes them.

    Args:
        groups: an optimizer's `param_groups`.

    Returns:
        The slot of each new group, None for parameters outside the network, which the schedule ignores; and
        the groups, with the options of their original groups.

    Raises:
        FrostlineError: the optimizer lacks some of the network's parameters.
    """
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    group_of, decay = plan.group_of(), decaying(plan.layers, network)
    layered = any(phase.layer_decay != 1 for phase in plan.phases)
    settings = [{key: value for key, value in group.items() if key != "params"} for group in groups]
    firsts: dict[Any, Slot] = {}
    members: dict[tuple[int, Slot | None], list[nn.Parameter]] = {}
    for group, options in zip(groups, settings, strict=True):
        number = settings.index(options)
        for parameter in group["params"]:
            name = names.pop(id(parameter), None)
            slot = None
            if name is not None:
                depth = plan.layers.places[name].depth if layered else None
                slot = Slot(group_of[name], depth, name in decay)
                slot = firsts.setdefault((number, _course(plan, slot)), slot)
            members.setdefault((number, slot), []).append(parameter)
    if names:
        raise FrostlineError(
            f"the optimizer lacks {len(names)} of the network's parameters, such as"
            f" {next(iter(names.values()))}; give it all of them: frozen ones have no gradient, so it does"
            " not change them"
        )
    seen: dict[str, int] = {}
    new_groups: list[dict[str, Any]] = []
    for (number, slot), parameters in members.items():
        name = slot.name if slot else str(groups[number].get("name", "other"))
        seen[name] = seen.get(name, 0) + 1
        unique = name if seen[name] == 1 else f"{name}/{seen[name]}"
        new_groups.append({**groups[number], "params": parameters, "name": unique})
    return [slot for _, slot in members], new_groups


def _course(plan: FreezePlan, slot: Slot) -> str:
    """Return all that the plan sets for a slot: slots that differ in it need groups of their own."""
    return repr(
        [
            (
                slot.group in phase.train,
                plan.group_factor(index, slot.group, slot.depth),
                sorted(plan.options(index, slot.group, has_weight_decay=slot.has_weight_decay).items()),
            )
            for index, phase in enumerate(plan.phases)
        ]
    )


def check_options(plan: FreezePlan, group: Mapping[str, Any]) -> None:
    """Refuse a plan that sets options which the optimizer does not have."""
    names = group.keys() - {"params", "lr", "initial_lr", "name"}
    for index, phase in enumerate(plan.phases):
        key = f"freeze.phases.{index}"
        for of, options in phase.options.items():
            for name, value in options.items():
                if name not in names:
                    raise FrostlineError(
                        f"{key}.optimizer.{of}: the optimizer has no {name!r}; {allowed(name, names)}"
                    )
                if not _alike(value, group[name]):
                    raise FrostlineError(
                        f"{key}.optimizer.{of}.{name}: found {value!r}; give something like {group[name]!r}"
                    )
        if phase.weight_decay is not None and "weight_decay" not in names:
            raise FrostlineError(f"{key}.weight_decay: the optimizer has none; remove it")
        if phase.curve.momenta and not names & {"betas", "momentum"}:
            raise FrostlineError(f"{key}.schedule.momentum: the optimizer has none; remove it")


def _alike(value: object, default: object) -> bool:
    """Return whether `value` has the type of `default`: a number, or as many numbers."""
    if isinstance(default, (tuple, list)) and isinstance(value, (tuple, list)):
        return len(value) == len(default)
    if isinstance(default, bool) or default is None:
        return isinstance(value, bool) or default is None
    return isinstance(value, (int, float)) and not isinstance(value, bool)
