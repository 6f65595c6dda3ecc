"""A freeze schedule with all that its phases inherit written out: what is planned, and dumped to edit."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frostline import schema

LAYER_DECAY = "layer_decay"
"""The key of a phase's `lr` that is no group: a factor per layer."""


def written_out(schedule: "schema.Freeze") -> "schema.Freeze":
    """Return the same schedule, in which each phase gives what it would have had from the phase before."""
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
    """What a phase that trains these groups inherits: of a setting per group, those of its own groups."""
    if not isinstance(value, Mapping):
        return value
    return {group: own for group, own in value.items() if group in (*train, LAYER_DECAY)}
