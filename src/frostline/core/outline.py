"""What a freeze plan comes to, phase by phase, in numbers that people ask for before they train."""

from collections.abc import Mapping
from dataclasses import dataclass

from frostline.core.freeze import FreezePlan, PhasePlan

Rates = tuple[float, float]
"""The lowest and the highest learning rate of a group's layers: they differ under layer decay."""


@dataclass(frozen=True)
class GroupOutline:
    """A group of layers."""

    name: str
    parameters: int
    share: float
    """Of the network's parameters."""


@dataclass(frozen=True)
class PhaseOutline:
    """A phase, if every phase takes its whole budget."""

    index: int
    trains: tuple[str, ...]
    parameters: int
    """That train."""
    share: float
    """Of the network's parameters."""
    first_step: int
    steps: int
    epochs: float
    ends: str
    """After "ends": ``on time``, ``early if val/loss stalls for 3 epochs, and goes back to its best``."""
    batch_norm: str
    """``moves``, ``eval`` (the running statistics stand still), or ``none``: no layer that trains has any."""
    rates: Mapping[str, tuple[Rates, Rates, Rates]]
    """Group that trains → its rates at the phase's first, middle and last step."""


def groups(plan: FreezePlan, sizes: Mapping[str, int]) -> list[GroupOutline]:
    """Describe the plan's groups.

    Args:
        plan: a run's.
        sizes: parameter → number of elements.
    """
    total = sum(sizes.values())
    counts = {group: sum(sizes.get(name, 0) for name in names) for group, names in plan.groups.items()}
    return [GroupOutline(group, count, count / total) for group, count in counts.items()]


def phases(plan: FreezePlan, sizes: Mapping[str, int], lr: float) -> list[PhaseOutline]:
    """Describe the plan's phases.

    Args:
        plan: a run's.
        sizes: parameter → number of elements.
        lr: the rate that the plan's factors multiply.
    """
    found: list[PhaseOutline] = []
    starts: tuple[int, ...] = ()
    for index, phase in enumerate(plan.phases):
        starts = (*starts, plan.end_of(starts) if starts else 0)
        first, last = starts[-1], plan.end_of(starts) - 1
        trained = sum(sizes[name] for name in plan.trained(index))
        at = (first, (first + last) // 2, last)
        found.append(
            PhaseOutline(
                index=index,
                trains=phase.train,
                parameters=trained,
                share=trained / sum(sizes.values()),
                first_step=first,
                steps=last - first + 1,
                epochs=(last - first + 1) / plan.steps_per_epoch,
                ends=_ends(phase),
                batch_norm=_batch_norm(plan, index),
                rates={
                    group: tuple(_rates(plan, starts, step, group, lr) for step in at)  # type: ignore[misc]
                    for group in phase.train
                },
            )
        )
    return found


def _rates(plan: FreezePlan, starts: tuple[int, ...], step: int, group: str, lr: float) -> Rates:
    depths = {plan.layers.places[name].depth for name in plan.groups[group] if name in plan.layers.parameters}
    rates = [lr * plan.factor(starts, step, group, depth) for depth in depths]
    return min(rates), max(rates)


def _ends(phase: PhasePlan) -> str:
    when = "on time"
    if phase.plateau:
        epochs = "an epoch" if phase.plateau.patience == 1 else f"{phase.plateau.patience} epochs"
        when = f"early if {phase.plateau.metric} stalls for {epochs}"
    return f"{when}, and goes back to its best" if phase.restore else when


def _batch_norm(plan: FreezePlan, index: int) -> str:
    if plan.moving_statistics(index):
        return "moves"
    names = {name for group in plan.phases[index].train for name in plan.groups[group]}
    return "eval" if names - plan.layers.parameters else "none"
