"""A freeze schedule and a network's layers become a plan: what trains at a step, and how fast.

Everything here is a pure function of (plan, step, starts). `starts` records the step at which each phase
entered so far began; it is the only thing that a run adds, since a plateau can end a phase before its budget
does. A resumed run that has `starts` and the step is where it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from frostline.core.layers import Layers
from frostline.core.rates import Curve
from frostline.errors import FrostlineError, allowed

if TYPE_CHECKING:
    from frostline import schema

LAYER_DECAY = "layer_decay"
MONITORS = ("val/loss", "val/accuracy")


@dataclass(frozen=True)
class PlateauRule:
    """Ends a phase when `metric` has not improved by more than `min_delta` for `patience` epochs."""

    metric: str
    patience: int
    min_delta: float

    def reached(self, values: Sequence[float]) -> bool:
        """Say whether the phase should end, given the metric after each of its epochs so far."""
        best, since = float("-inf"), 0
        for value in values:
            if score(self.metric, value) > best + self.min_delta:
                best, since = score(self.metric, value), 0
            else:
                since += 1
        return since >= self.patience


@dataclass(frozen=True)
class PhasePlan:
    """A phase with all that it inherits written out."""

    train: tuple[str, ...]
    """Groups that train, in the schedule's order."""
    length: int | None
    """Steps at most; None: to the run's end."""
    plateau: PlateauRule | None
    lr: Mapping[str, float]
    """Factor of the base rate for each group that trains."""
    layer_decay: float
    """Factor per layer from the head down; 1: none."""
    bn: str
    """train: running statistics of the groups that train move; eval: none moves."""
    restore: bool
    """Whether the phase ends with the weights of its best epoch."""
    curve: Curve

    @property
    def monitor(self) -> str:
        """The metric that chooses the phase's best epoch: its plateau's, else val/loss."""
        return self.plateau.metric if self.plateau else "val/loss"


def score(metric: str, value: float) -> float:
    """Return `value` so that the larger is the better: losses are turned round."""
    return -value if metric.endswith("loss") else value


@dataclass(frozen=True)
class FreezePlan:
    """What happens at every step of a run."""

    layers: Layers
    groups: Mapping[str, tuple[str, ...]]
    """Group → its tensors (parameters and running statistics), in the model's order."""
    phases: tuple[PhasePlan, ...]
    steps_per_epoch: int
    total_steps: int

    def end_of(self, starts: Sequence[int]) -> int:
        """Return the step at which the current phase's budget ends (exclusive)."""
        phase = self.phases[len(starts) - 1]
        if phase.length is None:
            return self.total_steps
        return min(starts[-1] + phase.length, self.total_steps)

    def advanced(self, starts: Sequence[int], step: int, plateaued: bool = False) -> tuple[int, ...]:
        """Return `starts` as they are when `step` begins: one longer where the current phase has ended.

        Args:
            starts: the phases entered so far; empty before the first step.
            step: the step about to be taken, 0 at the run's start.
            plateaued: the current phase's plateau has been reached.
        """
        if not starts:
            return (step,)
        ended = step >= self.end_of(starts) or plateaued
        return (*starts, step) if ended and len(starts) < len(self.phases) else tuple(starts)

    def factor(self, starts: Sequence[int], step: int, group: str, depth: int) -> float:
        """Return the factor of the base rate for tensors of `group` at layer `depth`; 0 while frozen."""
        phase = self.phases[len(starts) - 1]
        if group not in phase.train:
            return 0.0
        inside = phase.curve.factor(step - starts[-1], self.end_of(starts) - starts[-1])
        return phase.lr[group] * phase.layer_decay ** (self.layers.depth - depth) * inside

    def group_of(self) -> dict[str, str]:
        """Return tensor name → the group that it is in."""
        return {name: group for group, names in self.groups.items() for name in names}

    def trained(self, phase: int) -> frozenset[str]:
        """Return the parameters that train in `phase`."""
        names = (name for group in self.phases[phase].train for name in self.groups[group])
        return self.layers.parameters.intersection(names)

    def moving_statistics(self, phase: int) -> frozenset[str]:
        """Return the running statistics that move in `phase`: those of its groups, unless `bn` is eval."""
        if self.phases[phase].bn == "eval":
            return frozenset()
        names = frozenset(name for group in self.phases[phase].train for name in self.groups[group])
        return names - self.layers.parameters


def grouped(patterns: Mapping[str, str | Sequence[str]], layers: Layers) -> dict[str, tuple[str, ...]]:
    """Sort every tensor of `layers` into the first group whose pattern matches it.

    Raises:
        FrostlineError: a pattern is unknown or matches nothing, a group is empty, a parameter is in no group.
    """
    groups: dict[str, tuple[str, ...]] = {}
    free = dict.fromkeys(layers.places)
    for group, given in patterns.items():
        if group in ("all", LAYER_DECAY) and not (group == "all" and len(patterns) == 1):
            raise FrostlineError(f"freeze.groups.{group}: the name is taken; choose another")
        matched: set[str] = set()
        for pattern in [given] if isinstance(given, str) else given:
            try:
                names = layers.match(pattern)
            except FrostlineError as error:
                raise FrostlineError(f"freeze.groups.{group}: {error}") from None
            if not names & layers.parameters:
                raise FrostlineError(
                    f"freeze.groups.{group}: {pattern!r} matches no parameter of this network"
                )
            matched |= names
        groups[group] = tuple(name for name in free if name in matched)
        if not layers.parameters.intersection(groups[group]):
            raise FrostlineError(
                f"freeze.groups.{group}: empty, since the groups before it take all that {given!r} matches;"
                " remove it, or put it first"
            )
        for name in groups[group]:
            del free[name]
    left = [name for name in free if name in layers.parameters]
    if left:
        raise FrostlineError(
            f"freeze.groups: {len(left)} parameters are in no group, {left[0]} the first; end with rest: '*'"
        )
    return groups


def plan(
    schedule: "schema.Freeze", layers: Layers, default: Curve, epochs: int, steps_per_epoch: int
) -> FreezePlan:
    """Make the plan of a run.

    Args:
        schedule: the groups and phases.
        layers: the network's.
        default: the rate's curve where a phase names none (optimizer.schedule).
        epochs: the run's length.
        steps_per_epoch: optimizer steps an epoch.

    Raises:
        FrostlineError: the schedule does not fit the network or the run; the sentence names the key.
    """
    groups = grouped(schedule.groups, layers)
    total = epochs * steps_per_epoch
    phases: list[PhasePlan] = []
    for index, phase in enumerate(schedule.phases):
        key = f"freeze.phases.{index}"
        before = phases[-1] if phases else None
        train = tuple(groups) if phase.train == "all" else tuple(phase.train)
        for group in train:
            if group not in groups:
                raise FrostlineError(f"{key}.train: no group {group!r}; {allowed(group, groups)}")
        if not train:
            raise FrostlineError(f"{key}.train: empty; name a group, or remove the phase")
        last = index == len(schedule.phases) - 1
        if last != (phase.until == "end"):
            which = (
                "the last phase must run to the end; write until: end"
                if last
                else "only the last phase has no end"
            )
            raise FrostlineError(f"{key}.until: {which}")
        factors, decay = _rates(key, phase.lr, train, groups, before)
        phases.append(
            PhasePlan(
                train=train,
                length=_length(phase.until, total, steps_per_epoch),
                plateau=_plateau(key, phase.until),
                lr=factors,
                layer_decay=decay,
                bn=phase.bn or (before.bn if before else "train"),
                restore=phase.restore == "best" if phase.restore else bool(before and before.restore),
                curve=curve(phase.schedule) if phase.schedule else (before.curve if before else default),
            )
        )
    budget = sum(phase.length for phase in phases if phase.length is not None)
    if phases and budget >= total:
        raise FrostlineError(
            f"freeze.phases: the phases before the last take {budget} steps, but the run has {total}"
            f" (trainer.epochs={epochs}, {steps_per_epoch} steps each); shorten them or raise trainer.epochs"
        )
    return FreezePlan(layers, groups, tuple(phases), steps_per_epoch, total)


def curve(rate: "schema.Rate") -> Curve:
    """Return the curve that a config describes."""
    return Curve(rate.kind, rate.warmup, rate.final, 1.0 if rate.power is None else rate.power)


def _rates(
    key: str,
    given: Mapping[str, float] | None,
    train: Sequence[str],
    groups: Mapping[str, tuple[str, ...]],
    before: PhasePlan | None,
) -> tuple[dict[str, float], float]:
    """The factor of each group that trains, and the layer decay; inherited where the phase gives none."""
    if given is None:
        inherited = before.lr if before else {}
        return {group: inherited.get(group, 1.0) for group in train}, before.layer_decay if before else 1.0
    for group in given:
        if group not in groups and group != LAYER_DECAY:
            raise FrostlineError(f"{key}.lr: no group {group!r}; {allowed(group, [*groups, LAYER_DECAY])}")
        if group not in train and group != LAYER_DECAY:
            raise FrostlineError(f"{key}.lr.{group}: the group does not train in this phase; remove the rate")
    return {group: given.get(group, 1.0) for group in train}, given.get(LAYER_DECAY, 1.0)


def _length(until: object, total: int, steps_per_epoch: int) -> int | None:
    """Steps that a phase may take; at least one."""
    if until == "end":
        return None
    if isinstance(until, str):
        return max(1, round(float(until.removesuffix("%")) / 100 * total))
    if (steps := getattr(until, "steps", None)) is not None:
        return int(steps)
    if (epochs := getattr(until, "epochs", None)) is not None:
        return max(1, round(epochs * steps_per_epoch))
    return _length(getattr(until, "max"), total, steps_per_epoch)  # noqa: B009


def _plateau(key: str, until: object) -> PlateauRule | None:
    metric = getattr(until, "plateau", None)
    if metric is None:
        return None
    if metric not in MONITORS:
        raise FrostlineError(f"{key}.until.plateau: no metric {metric!r}; {allowed(metric, MONITORS)}")
    return PlateauRule(metric, getattr(until, "patience"), getattr(until, "min_delta") or 0.0)  # noqa: B009
