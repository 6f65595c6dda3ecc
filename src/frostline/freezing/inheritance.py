"""Inheritance between the phases of a freeze schedule."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frostline import schema

LAYER_DECAY = "layer_decay"
"""The key in a phase's `lr` that is not a group but a factor per layer."""


def resolve_inheritance(schedule: "schema.Freeze") -> "schema.Freeze":
    """Return the same schedule, with the values that each phase inherits from the phase before filled in."""
    phases: list[schema.Phase] = []
    for phase in schedule.phases:
        optional = (name for name, field in type(phase).model_fields.items() if not field.is_required())
        train = list(schedule.groups) if phase.train == "all" else phase.train
        inherited = {
            name: _passed_on(getattr(phases[-1], name), train)
            for name in optional
            if phases and getattr(phase, name) is None
        }
        phases.append(phase.model_copy(update=inherited))
    return schedule.model_copy(update={"phases": phases})


def _passed_on(value: Any, train: Sequence[str]) -> Any:
    """Return the inherited value; a mapping per group is reduced to the groups that the phase trains."""
    if not isinstance(value, Mapping):
        return value
    return {group: own for group, own in value.items() if group in (*train, LAYER_DECAY)}
