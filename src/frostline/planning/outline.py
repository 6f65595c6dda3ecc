"""A freeze plan in numbers, phase by phase: parameters, steps, learning rates, cost."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import ceil

from frostline.features.split_point import NetworkSplit, NoSplit
from frostline.freezing.layers import Place
from frostline.freezing.plan import FreezePlan, PlateauRule, epochs_text
from frostline.planning.cost import Cost

Rates = tuple[float, float]
"""Lowest and highest learning rate of a group's layers, which differ with layer decay."""
BYTES = 4
"""Bytes of a float32."""
COURSE_POINTS = 48
"""Steps at which a plot samples the learning rates of a warm-up, and as many in the rest of the phase."""


@dataclass(frozen=True)
class GroupOutline:
    """A group of layers."""

    name: str
    parameters: int
    share: float
    """Fraction of the network's parameters."""


@dataclass(frozen=True)
class SectionOutline:
    """A section of the network: stem, stage or head."""

    name: str
    """Its pattern in schedules: ``stem``, ``stage:0``, …, ``head``."""
    groups: Mapping[str, int]
    """Group → number of its parameters in this section, without groups that have none."""


@dataclass(frozen=True)
class RateCurve:
    """The learning rates of a phase, sampled."""

    steps: tuple[int, ...]
    """Steps of the run, including the first and the last of the phase."""
    rates: Mapping[str, tuple[Rates, ...]]
    """Group that trains → its learning rates at these steps."""


@dataclass(frozen=True)
class FeaturesOutline:
    """The features that a phase reuses, if the run can verify the split on images."""

    at: str
    """Name of the split point, such as ``fc:input``."""
    shape: tuple[int, ...]
    """Shape of the features of one image."""
    bytes: int
    """Bytes of the features of one image, in float32."""
    views: int
    """Number of augmented views of each image; 1 without augmentation."""
    sections: tuple[str, ...]
    """Sections of the network that run only once."""


@dataclass(frozen=True)
class PhaseOutline:
    """A phase of a run in which no phase ends early."""

    index: int
    trains: tuple[str, ...]
    parameters: int
    """Number of parameters that train."""
    share: float
    """Fraction of the network's parameters."""
    first_step: int
    steps: int
    first_epoch: float
    """Epochs before the phase."""
    epochs: float
    ends: str
    """How the phase ends: ``on time``, ``early if val/loss stalls for 3 epochs, and restores its best
    epoch``, ``on time, since its patience of 3 epochs is too long to end it early``."""
    batch_norm: str
    """Running statistics: ``moves`` (updated), ``eval`` (fixed), ``recalibrate`` (estimated again when the
    phase begins, then fixed), or ``none``: no layer that trains has any."""
    batch_size: int
    """Images per step."""
    rates: Mapping[str, tuple[Rates, Rates, Rates]]
    """Group that trains → its learning rates at the first, middle and last step of the phase."""
    course: RateCurve
    cost: Cost | None
    """None: the network does not run on the meta device."""
    gradients: int
    """Bytes of the gradients, in float32; each of Adam's two averages takes the same again."""
    features: FeaturesOutline | None
    """None: no features are reused, all layers run at every step."""
    whole: str | None
    """Why no features are reused, as a clause; None: they are, or the reason is unknown."""


@dataclass(frozen=True)
class PhaseExecution:
    """How a phase runs; the defaults: it is unknown."""

    cost: Cost | None = None
    split: NetworkSplit | NoSplit | None = None
    """The split point whose features the phase reuses, or why it reuses none."""
    views: int = 1
    """Augmented views of each image, if features are reused."""


def groups(plan: FreezePlan, sizes: Mapping[str, int]) -> list[GroupOutline]:
    """Describe the groups of a plan.

    Args:
        sizes: parameter → number of elements.
    """
    total = sum(sizes.values())
    counts = {group: sum(sizes.get(name, 0) for name in names) for group, names in plan.groups.items()}
    return [GroupOutline(group, count, count / total) for group, count in counts.items()]


def sections(plan: FreezePlan, sizes: Mapping[str, int]) -> list[SectionOutline]:
    """Describe the sections of the network from input to head, and the groups in each."""
    group_of = plan.group_of()
    by_section: dict[str, dict[str, int]] = {}
    for name in sorted(sizes, key=lambda name: plan.layers.places[name].depth):
        counts = by_section.setdefault(_section(plan.layers.places[name]), {})
        counts[group_of[name]] = counts.get(group_of[name], 0) + sizes[name]
    return [SectionOutline(name, counts) for name, counts in by_section.items()]


def phases(
    plan: FreezePlan,
    sizes: Mapping[str, int],
    lr: float,
    batch_size: int,
    executions: Sequence[PhaseExecution],
) -> list[PhaseOutline]:
    """Describe the phases of a plan.

    Args:
        sizes: parameter → number of elements.
        lr: the base learning rate.
        batch_size: images per batch of phases without a batch size.
        executions: how each phase runs.
    """
    outlines: list[PhaseOutline] = []
    starts: tuple[int, ...] = ()
    for index, (phase, execution) in enumerate(zip(plan.phases, executions, strict=True)):
        starts = (*starts, plan.phase_end(starts) if starts else 0)
        first, last = starts[-1], plan.phase_end(starts) - 1
        trained = sum(sizes[name] for name in plan.trained(index))
        course, split = _course(plan, starts, lr), execution.split
        triples = _course(plan, starts, lr, (first, (first + last) // 2, last))
        outlines.append(
            PhaseOutline(
                index=index,
                trains=phase.train,
                parameters=trained,
                share=trained / sum(sizes.values()),
                first_step=first,
                steps=last - first + 1,
                first_epoch=outlines[-1].first_epoch + outlines[-1].epochs if outlines else 0.0,
                epochs=(last - first + 1) / phase.steps_per_epoch,
                ends=_ends(plan, index, last - first + 1),
                batch_norm=_batch_norm(plan, index),
                batch_size=phase.batch_size or batch_size,
                rates={group: (begin, middle, end) for group, (begin, middle, end) in triples.rates.items()},
                course=course,
                cost=execution.cost,
                gradients=BYTES * trained,
                features=_features(plan, split, execution.views) if isinstance(split, NetworkSplit) else None,
                whole=split.reason if isinstance(split, NoSplit) else None,
            )
        )
    return outlines


def _course(
    plan: FreezePlan, starts: tuple[int, ...], lr: float, steps: tuple[int, ...] | None = None
) -> RateCurve:
    """Return the learning rates of the last phase of `starts` at some steps; None: enough for a plot."""
    steps = steps or _sampled(plan, starts)
    rates = {}
    for group in plan.phases[len(starts) - 1].train:
        names = plan.layers.parameters.intersection(plan.groups[group])
        depths = {plan.layers.places[name].depth for name in names}
        at = ([lr * plan.lr_factor(starts, step, group, depth) for depth in depths] for step in steps)
        rates[group] = tuple((min(per_layer), max(per_layer)) for per_layer in at)
    return RateCurve(steps, rates)


def _sampled(plan: FreezePlan, starts: tuple[int, ...]) -> tuple[int, ...]:
    first, last = starts[-1], plan.phase_end(starts) - 1
    # The curve has a corner at the end of the warm-up, which evenly spread steps would miss.
    corner = first + round(plan.phases[len(starts) - 1].curve.warmup * (last + 1 - first))
    spans = ((first, max(first, corner - 1)), (min(corner, last), last))
    return tuple(sorted({step for begin, end in spans for step in _spread(begin, end)}))


def _spread(begin: int, end: int) -> Iterator[int]:
    for i in range(COURSE_POINTS):
        yield begin + round(i * (end - begin) / (COURSE_POINTS - 1))


def _features(plan: FreezePlan, split: NetworkSplit, views: int) -> FeaturesOutline:
    places = sorted(plan.layers.places.items(), key=lambda item: item[1].depth)
    rest = {_section(place) for name, place in places if name not in split.dependencies}
    in_order = dict.fromkeys(_section(place) for _, place in places)
    once = takewhile(lambda section: section not in rest, in_order)
    return FeaturesOutline(split.name, split.shape, split.bytes, views, tuple(once))


def _section(place: Place) -> str:
    if place.head:
        return "head"
    return "stem" if place.stage is None else f"stage:{place.stage}"


def _ends(plan: FreezePlan, index: int, steps: int) -> str:
    phase = plan.phases[index]
    when = f"early if {phase.early_stop}" if phase.early_stop else "on time"
    if isinstance(phase.early_stop, PlateauRule) and phase.early_stop.patience >= _validations(
        plan, index, steps
    ):
        # The first validation of the phase is the reference for the next ones.
        patience = epochs_text(phase.early_stop.patience)
        when = f"on time, since its patience of {patience} is too long to end it early"
    return f"{when}, and restores its best epoch" if phase.restore else when


def _validations(plan: FreezePlan, index: int, steps: int) -> int:
    """Return how many epochs can end within a phase of `steps` steps, before it ends, whenever it begins."""
    phase, before = plan.phases[index], plan.phases[:index]
    if index == len(plan.phases) - 1 and any(earlier.early_stop for earlier in before):
        # If earlier phases end early, the last one has more steps than planned.
        steps = phase.length or steps
    # It begins with an epoch if all earlier phases take whole epochs; otherwise one more may end in it.
    whole = all((earlier.length or 0) % earlier.steps_per_epoch == 0 for earlier in before)
    return ceil(steps / phase.steps_per_epoch) - whole


def _batch_norm(plan: FreezePlan, index: int) -> str:
    names = {name for group in plan.phases[index].train for name in plan.groups[group]}
    if not names - plan.layers.parameters:
        return "none"
    return "moves" if plan.phases[index].bn == "train" else plan.phases[index].bn
