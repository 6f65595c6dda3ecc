"""A plan's parameters, sorted into the named groups that an optimizer takes: all, from the first step."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from frostline.core.freeze import FreezePlan


@dataclass(frozen=True)
class Slot:
    """What the parameters of one optimizer group have in common: their rate and whether they decay."""

    group: str
    depth: int
    decay: bool

    @property
    def name(self) -> str:
        """What charts and errors call it."""
        return f"{self.group}/{self.depth}{'' if self.decay else '/no_decay'}"


def param_groups(
    plan: FreezePlan,
    parameters: Iterable[tuple[str, nn.Parameter]],
    weight_decay: float,
    exempt: Collection[str] = (),
) -> tuple[list[Slot], list[dict[str, Any]]]:
    """Return the slots, and for each an optimizer group with `params`, `name` and `weight_decay`.

    Biases, norms and other vectors do not decay (He et al. 2019, section 3.1), nor does what is `exempt`. A
    frozen parameter has no gradient, so it may lie in its group from the start: neither decay nor momentum
    moves it.
    """
    group_of = plan.group_of()
    members: dict[Slot, list[nn.Parameter]] = {}
    for name, parameter in parameters:
        place = plan.layers.places[name]
        decay = parameter.ndim > 1 and not place.norm and not place.bias and name not in exempt
        members.setdefault(Slot(group_of[name], place.depth, decay), []).append(parameter)
    slots = list(members)
    return slots, [
        {"params": members[slot], "name": slot.name, "weight_decay": weight_decay if slot.decay else 0.0}
        for slot in slots
    ]
