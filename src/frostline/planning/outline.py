"""What a freeze plan comes to, phase by phase, in numbers that people ask for before they train."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import ceil

from frostline.features.split_point import Split, Whole
from frostline.freezing.layers import Place
from frostline.freezing.plan import FreezePlan, PlateauRule, epochs_text
from frostline.planning.cost import Cost

Rates = tuple[float, float]
"""The lowest and the highest learning rate of a group's layers: they differ under layer decay."""
BYTES = 4
"""Of a float32."""
COURSE_POINTS = 48
"""Steps at which a picture samples the rates of a phase's warm-up, and as many after it."""


@dataclass(frozen=True)
class GroupOutline:
    """A group of layers."""

    name: str
    parameters: int
    share: float
    """Of the network's parameters."""


@dataclass(frozen=True)
class SectionOutline:
    """A stretch of the network between input and output."""

    name: str
    """As a schedule's patterns call it: ``stem``, ``stage:0``, …, ``head``."""
    groups: Mapping[str, int]
    """Group → its parameters in this section; groups that have none are left out."""


@dataclass(frozen=True)
class Course:
    """How a phase's rates move, sampled."""

    steps: tuple[int, ...]
    """Of the run; the phase's first and last among them."""
    rates: Mapping[str, tuple[Rates, ...]]
    """Group that trains → its rates at these steps."""


@dataclass(frozen=True)
class FeaturesOutline:
    """What a phase's frozen layers make of the images once, if the run proves it on images."""

    at: str
    """The layer whose input or output they are: ``fc:input``."""
    shape: tuple[int, ...]
    """Of an image's."""
    bytes: int
    """Of an image's, in float32."""
    views: int
    """Of each image: augmentation draws so many, once; 1 without."""
    sections: tuple[str, ...]
    """Of the network, that run once as a whole."""


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
    first_epoch: float
    """Epochs that have passed when it begins."""
    epochs: float
    ends: str
    """After "ends": ``on time``, ``early if val/loss stalls for 3 epochs, and goes back to its best``, ``on
    time, since its patience of 3 epochs ends no sooner``, validation being once an epoch."""
    batch_norm: str
    """``moves``, ``eval`` (the running statistics stand still), ``recalibrate`` (estimated anew as the phase
    begins, then still), or ``none``: no layer that trains has any."""
    batch_size: int
    """Images a step."""
    rates: Mapping[str, tuple[Rates, Rates, Rates]]
    """Group that trains → its rates at the phase's first, middle and last step."""
    course: Course
    cost: Cost | None
    """None: this network can't be counted."""
    gradients: int
    """Bytes of the gradients, in float32; Adam's two averages take as much again, each."""
    features: FeaturesOutline | None
    """None: all layers run at every step."""
    whole: str | None
    """Why they do, as a clause; None: they don't, or it is not known."""


def groups(plan: FreezePlan, sizes: Mapping[str, int]) -> list[GroupOutline]:
    """Describe the plan's groups.

    Args:
        plan: a run's.
        sizes: parameter → number of elements.
    """
    total = sum(sizes.values())
    counts = {group: sum(sizes.get(name, 0) for name in names) for group, names in plan.groups.items()}
    return [GroupOutline(group, count, count / total) for group, count in counts.items()]


def sections(plan: FreezePlan, sizes: Mapping[str, int]) -> list[SectionOutline]:
    """Describe the network from its input to its head, and which group has what of it."""
    group_of = plan.group_of()
    found: dict[str, dict[str, int]] = {}
    for name in sorted(sizes, key=lambda name: plan.layers.places[name].depth):
        counts = found.setdefault(_section(plan.layers.places[name]), {})
        counts[group_of[name]] = counts.get(group_of[name], 0) + sizes[name]
    return [SectionOutline(name, counts) for name, counts in found.items()]


def phases(
    plan: FreezePlan,
    sizes: Mapping[str, int],
    lr: float,
    batch_size: int,
    costs: Sequence[Cost | None],
    cuts: Sequence[Split | Whole | None],
    views: int = 1,
) -> list[PhaseOutline]:
    """Describe the plan's phases.

    Args:
        plan: a run's.
        sizes: parameter → number of elements.
        lr: the rate that the plan's factors multiply.
        batch_size: images a step where a phase sets none.
        costs: of each phase.
        cuts: of each phase, where the network is cut; None: not known.
        views: of each image, where augmentation draws a fixed number.
    """
    found: list[PhaseOutline] = []
    starts: tuple[int, ...] = ()
    for index, (phase, cost, cut) in enumerate(zip(plan.phases, costs, cuts, strict=True)):
        starts = (*starts, plan.end_of(starts) if starts else 0)
        first, last = starts[-1], plan.end_of(starts) - 1
        trained = sum(sizes[name] for name in plan.trained(index))
        course = _course(plan, starts, lr)
        triples = _course(plan, starts, lr, (first, (first + last) // 2, last))
        found.append(
            PhaseOutline(
                index=index,
                trains=phase.train,
                parameters=trained,
                share=trained / sum(sizes.values()),
                first_step=first,
                steps=last - first + 1,
                first_epoch=found[-1].first_epoch + found[-1].epochs if found else 0.0,
                epochs=(last - first + 1) / phase.steps_per_epoch,
                ends=_ends(plan, index, last - first + 1),
                batch_norm=_batch_norm(plan, index),
                batch_size=phase.batch_size or batch_size,
                rates={group: (begin, middle, end) for group, (begin, middle, end) in triples.rates.items()},
                course=course,
                cost=cost,
                gradients=BYTES * trained,
                features=_features(plan, cut, views) if isinstance(cut, Split) else None,
                whole=cut.reason if isinstance(cut, Whole) else None,
            )
        )
    return found


def _course(
    plan: FreezePlan, starts: tuple[int, ...], lr: float, steps: tuple[int, ...] | None = None
) -> Course:
    """The rates of the phase that `starts` ends with, at some steps; not given: enough to draw them."""
    steps = steps or _sampled(plan, starts)
    rates = {}
    for group in plan.phases[len(starts) - 1].train:
        names = plan.layers.parameters.intersection(plan.groups[group])
        depths = {plan.layers.places[name].depth for name in names}
        at = ([lr * plan.factor(starts, step, group, depth) for depth in depths] for step in steps)
        rates[group] = tuple((min(each), max(each)) for each in at)
    return Course(steps, rates)


def _sampled(plan: FreezePlan, starts: tuple[int, ...]) -> tuple[int, ...]:
    first, last = starts[-1], plan.end_of(starts) - 1
    # Where the warm-up ends the curve has a corner, which evenly spread steps would cut off.
    corner = first + round(plan.phases[len(starts) - 1].curve.warmup * (last + 1 - first))
    spans = ((first, max(first, corner - 1)), (min(corner, last), last))
    return tuple(sorted({step for begin, end in spans for step in _spread(begin, end)}))


def _spread(begin: int, end: int) -> Iterator[int]:
    for i in range(COURSE_POINTS):
        yield begin + round(i * (end - begin) / (COURSE_POINTS - 1))


def _features(plan: FreezePlan, cut: Split, views: int) -> FeaturesOutline:
    places = sorted(plan.layers.places.items(), key=lambda item: item[1].depth)
    rest = {_section(place) for name, place in places if name not in cut.prefix}
    in_order = dict.fromkeys(_section(place) for _, place in places)
    once = takewhile(lambda section: section not in rest, in_order)
    return FeaturesOutline(cut.name, cut.shape, cut.bytes, views, tuple(once))


def _section(place: Place) -> str:
    if place.head:
        return "head"
    return "stem" if place.stage is None else f"stage:{place.stage}"


def _ends(plan: FreezePlan, index: int, steps: int) -> str:
    phase = plan.phases[index]
    when = f"early if {phase.early}" if phase.early else "on time"
    if isinstance(phase.early, PlateauRule) and phase.early.patience >= _validations(plan, index, steps):
        # The phase's first validation sets what the next ones have to improve.
        when = f"on time, since its patience of {epochs_text(phase.early.patience)} ends no sooner"
    return f"{when}, and goes back to its best" if phase.restore else when


def _validations(plan: FreezePlan, index: int, steps: int) -> int:
    """How many epochs may end within a phase of so many steps, before it does, whenever it begins."""
    phase, before = plan.phases[index], plan.phases[:index]
    if index == len(plan.phases) - 1 and any(each.early for each in before):
        # Phases before it that end early leave it more than what is planned.
        steps = phase.length or steps
    # It begins with an epoch if those before it take whole ones; else one more may end in it.
    whole = all((each.length or 0) % each.steps_per_epoch == 0 for each in before)
    return ceil(steps / phase.steps_per_epoch) - whole


def _batch_norm(plan: FreezePlan, index: int) -> str:
    names = {name for group in plan.phases[index].train for name in plan.groups[group]}
    if not names - plan.layers.parameters:
        return "none"
    return "moves" if plan.phases[index].bn == "train" else plan.phases[index].bn
