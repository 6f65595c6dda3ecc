"""A freeze schedule and a network's layers become a plan: what trains at a step, and how fast.

Everything here is a pure function of (plan, step, starts). `starts` records the step at which each phase
entered so far began; it is the only thing that a run adds, since a plateau can end a phase before its budget
does. A resumed run that has `starts` and the step is where it was.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Any

from frostline.base.metrics import score
from frostline.console.errors import FrostlineError, allowed
from frostline.freezing.curves import Curve
from frostline.freezing.inheritance import LAYER_DECAY, written_out
from frostline.freezing.layers import Layers

if TYPE_CHECKING:
    from frostline import schema

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

    def __str__(self) -> str:
        return f"{self.metric} stalls for {epochs_text(self.patience)}"


@dataclass(frozen=True)
class ReachRule:
    """Ends a phase when `metric` is as good as `value`."""

    metric: str
    value: float

    def reached(self, values: Sequence[float]) -> bool:
        """Say whether the phase should end, given the metric after each of its epochs so far."""
        return any(score(self.metric, value) >= score(self.metric, self.value) for value in values)

    def __str__(self) -> str:
        return f"{self.metric} reaches {self.value:g}"


@dataclass(frozen=True)
class PhasePlan:
    """A phase with all that it inherits written out."""

    train: tuple[str, ...]
    """Groups that train, in the schedule's order."""
    length: int | None
    """Steps at most; None: to the run's end."""
    early: PlateauRule | ReachRule | None
    """What may end it before its length does; in the last phase, what may end the run."""
    lr: Mapping[str, float]
    """Factor of the base rate for each group that trains."""
    layer_decay: float
    """Factor per layer from the head down; 1: none."""
    options: Mapping[str, Mapping[str, Any]]
    """Group that trains → settings of the optimizer that differ from its own."""
    weight_decay: float | None
    """Of every tensor that decays; None: the optimizer's own."""
    bn: str
    """train: running statistics of the groups that train move; eval: none moves; recalibrate: they are
    estimated anew as the phase begins, then none moves."""
    dropout: float | None
    """Before the head; None: the network's own."""
    drop_path: float | None
    """Largest rate of stochastic depth; None: the network's own."""
    restore: bool
    """Whether the phase ends with the weights of its best epoch."""
    curve: Curve
    batch_size: int | None
    """Images a step; None: the run's own."""
    steps_per_epoch: int

    @property
    def monitor(self) -> str:
        """The metric that chooses the phase's best epoch: the one that may end it, else val/loss."""
        return self.early.metric if self.early else "val/loss"


@dataclass(frozen=True)
class FreezePlan:
    """What happens at every step of a run."""

    layers: Layers
    groups: Mapping[str, tuple[str, ...]]
    """Group → its tensors (parameters and running statistics), in the model's order."""
    phases: tuple[PhasePlan, ...]
    epochs: int
    steps_per_epoch: int
    """At the run's own batch size."""

    @cached_property
    def total_steps(self) -> int:
        """The run's length if every phase takes its whole budget."""
        starts: tuple[int, ...] = ()
        for _ in self.phases:
            starts = (*starts, self.end_of(starts) if starts else 0)
        return self.end_of(starts) if starts else self.epochs * self.steps_per_epoch

    def end_of(self, starts: Sequence[int]) -> int:
        """Return the step at which the current phase's budget ends (exclusive)."""
        key = tuple(starts)
        if key not in self._ends:
            self._ends[key] = self._end_of(key)
        return self._ends[key]

    @cached_property
    def _ends(self) -> dict[tuple[int, ...], int]:
        """Starts → end; it is asked for at every step."""
        return {}

    def _end_of(self, starts: tuple[int, ...]) -> int:
        phase, last = self.phases[len(starts) - 1], len(starts) == len(self.phases)
        if phase.length is not None and not last:
            return starts[-1] + phase.length
        each = phase.steps_per_epoch
        gone = sum(
            Fraction(end - begin, before.steps_per_epoch)
            for before, begin, end in zip(self.phases, starts, starts[1:], strict=False)
        )
        epochs = Fraction(self.epochs)
        if phase.length is not None:
            # A run ends with an epoch, after its validation.
            epochs = min(epochs, Fraction(ceil(gone + Fraction(phase.length, each))))
        return starts[-1] + round((epochs - gone) * each)

    def advanced(self, starts: Sequence[int], step: int, ended_early: bool = False) -> tuple[int, ...]:
        """Return `starts` as they are when `step` begins: one longer where the current phase has ended.

        Args:
            starts: the phases entered so far; empty before the first step.
            step: the step about to be taken, 0 at the run's start.
            ended_early: what may end the current phase early has come.
        """
        if not starts:
            return (step,)
        ended = step >= self.end_of(starts) or ended_early
        return (*starts, step) if ended and len(starts) < len(self.phases) else tuple(starts)

    def is_over(self, starts: Sequence[int], step: int, ended_early: bool) -> bool:
        """Say whether the run is over before `step`; arguments as of `advanced`."""
        return len(starts) == len(self.phases) and (step >= self.end_of(starts) or ended_early)

    def factor(self, starts: Sequence[int], step: int, group: str, depth: int) -> float:
        """Return the factor of the base rate for tensors of `group` at layer `depth`; 0 while frozen."""
        scale = self.scale(len(starts) - 1, group, depth)
        return scale * self.inside(starts, step) if scale else 0.0

    def scale(self, phase: int, group: str, depth: int | None) -> float:
        """Return that factor without the curve of `phase`; 0 while frozen. None: depths are alike."""
        plan = self.phases[phase]
        if group not in plan.train:
            return 0.0
        if depth is None:
            return plan.lr[group]
        return plan.lr[group] * plan.layer_decay ** (self.layers.depth - depth)

    def inside(self, starts: Sequence[int], step: int) -> float:
        """Return the current phase's curve at `step`."""
        length = self.end_of(starts) - starts[-1]
        return self.phases[len(starts) - 1].curve.factor(step - starts[-1], length)

    def steady_until(self, starts: Sequence[int], step: int) -> int:
        """Return the step before which all stays as at `step`, unless something ends the phase early."""
        end = self.end_of(starts)
        steady = self.phases[len(starts) - 1].curve.steady(step - starts[-1], end - starts[-1])
        return end if steady else step + 1

    def momentum(self, starts: Sequence[int], step: int) -> float | None:
        """Return the momentum at `step` where the phase moves it, else None."""
        curve = self.phases[len(starts) - 1].curve
        return curve.momentum(step - starts[-1], self.end_of(starts) - starts[-1])

    def options(self, phase: int, group: str, *, decays: bool) -> dict[str, Any]:
        """Return the optimizer's settings for tensors of `group` in `phase`, other than its own."""
        plan = self.phases[phase]
        given = dict(plan.options.get(group, {}))
        if plan.weight_decay is not None:
            given.setdefault("weight_decay", plan.weight_decay)
        if not decays:
            given.pop("weight_decay", None)
        return given

    def group_of(self) -> dict[str, str]:
        """Return tensor name → the group that it is in."""
        return {name: group for group, names in self.groups.items() for name in names}

    def trained(self, phase: int) -> frozenset[str]:
        """Return the parameters that train in `phase`."""
        names = (name for group in self.phases[phase].train for name in self.groups[group])
        return self.layers.parameters.intersection(names)

    def moving_statistics(self, phase: int) -> frozenset[str]:
        """Return the running statistics that move in `phase`: those of its groups, if `bn` is train."""
        return self.statistics(phase) if self.phases[phase].bn == "train" else frozenset()

    def statistics(self, phase: int) -> frozenset[str]:
        """Return the running statistics of the groups that train in `phase`."""
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
        if not group.strip() or not group.isprintable():  # plots, tables and MLflow show it
            raise FrostlineError(
                f"freeze.groups: found {group!r} as a group's name; must be one line of printable characters"
            )
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
    schedule: "schema.Freeze",
    layers: Layers,
    default: Curve,
    epochs: int,
    steps_per_epoch: int,
    steps_at: Callable[[int], int] | None = None,
) -> FreezePlan:
    """Make the plan of a run.

    Args:
        schedule: the groups and phases.
        layers: the network's.
        default: the rate's curve where a phase names none (optimizer.schedule).
        epochs: the run's length.
        steps_per_epoch: optimizer steps an epoch.
        steps_at: batch size → steps an epoch; None: the batch size can't change.

    Raises:
        FrostlineError: the schedule does not fit the network or the run; the sentence names the key.
    """
    groups = grouped(schedule.groups, layers)
    schedule = written_out(schedule)
    whole = any(phase.batch_size is not None for phase in schedule.phases)
    phases: list[PhasePlan] = []
    for index, phase in enumerate(schedule.phases):
        key = f"freeze.phases.{index}"
        train = tuple(groups) if phase.train == "all" else tuple(dict.fromkeys(phase.train))
        for group in train:
            if group not in groups:
                raise FrostlineError(f"{key}.train: no group {group!r}; {allowed(group, groups)}")
        if not train:
            raise FrostlineError(f"{key}.train: empty; name a group, or remove the phase")
        _check_end(key, phase.until, last=index == len(schedule.phases) - 1)
        lr, options = phase.lr or {}, phase.optimizer or {}
        factors = [group for group in lr if group != LAYER_DECAY]
        _check_groups(f"{key}.lr", factors, train, groups, LAYER_DECAY)
        _check_options(f"{key}.optimizer", options, train, groups)
        steps = _steps_per_epoch(key, phase.batch_size, steps_per_epoch, steps_at)
        phases.append(
            PhasePlan(
                train=train,
                length=_length(key, phase.until, epochs, steps, whole=whole),
                early=_early(key, phase.until),
                lr={group: lr.get(group, 1.0) for group in train},
                layer_decay=lr.get(LAYER_DECAY, 1.0),
                options=options,
                weight_decay=phase.weight_decay,
                bn=phase.bn or "train",
                dropout=phase.dropout,
                drop_path=phase.drop_path,
                restore=phase.restore == "best",
                curve=curve(phase.schedule) if phase.schedule else default,
                batch_size=phase.batch_size,
                steps_per_epoch=steps,
            )
        )
    budget = sum(Fraction(phase.length or 0, phase.steps_per_epoch) for phase in phases[:-1])
    if phases and budget >= epochs:
        raise FrostlineError(
            f"freeze.phases: the phases before the last take {float(budget):.4g} epochs, but the run has"
            f" {epochs} (trainer.epochs), {steps_per_epoch} steps each; shorten them or raise trainer.epochs"
        )
    return FreezePlan(layers, groups, tuple(phases), epochs, steps_per_epoch)


def curve(rate: "schema.Rate") -> Curve:
    """Return the curve that a config describes.

    Raises:
        FrostlineError: `momentum` is given to a curve that does not cycle, or `power` to one that is none.
    """
    momenta = tuple(rate.momentum) if rate.momentum else None
    if momenta and rate.kind != "one_cycle":
        raise FrostlineError(f"schedule.momentum: only one_cycle moves it, not {rate.kind}; remove it")
    if rate.power is not None and rate.kind != "polynomial":
        raise FrostlineError(f"schedule.power: only polynomial has one, not {rate.kind}; remove it")
    power = 1.0 if rate.power is None else rate.power
    return Curve(rate.kind, rate.warmup, rate.final, power, rate.start, momenta)  # type: ignore[arg-type]


def _check_options(
    key: str,
    given: Mapping[str, Mapping[str, Any]],
    train: Sequence[str],
    groups: Mapping[str, tuple[str, ...]],
) -> None:
    _check_groups(key, given, train, groups)
    for group, settings in given.items():
        for name in settings.keys() & {"lr", "params", "name"}:
            raise FrostlineError(f"{key}.{group}.{name}: set rates by lr, not here")


def _check_groups(
    key: str, given: Iterable[str], train: Sequence[str], groups: Mapping[str, tuple[str, ...]], *more: str
) -> None:
    for group in given:
        if group not in groups:
            raise FrostlineError(f"{key}: no group {group!r}; {allowed(group, [*groups, *more])}")
        if group not in train:
            raise FrostlineError(f"{key}.{group}: the group does not train in this phase; remove it")


def _check_end(key: str, until: object, *, last: bool) -> None:
    if not last and until == "end":
        raise FrostlineError(f"{key}.until: only the last phase has no end")
    if last and until != "end" and not hasattr(until, "max"):
        raise FrostlineError(
            f"{key}.until: the last phase must run to the end; write until: end, or, to stop early,"
            " until: {plateau: val/loss, patience: 3, max: 100%}"
        )


def _steps_per_epoch(
    key: str, batch_size: int | None, steps_per_epoch: int, steps_at: Callable[[int], int] | None
) -> int:
    """The steps of an epoch at the phase's batch size; None: at the run's own."""
    if batch_size is None:
        return steps_per_epoch
    if steps_at is None:
        raise FrostlineError(f"{key}.batch_size: these batches are made elsewhere; remove it")
    return steps_at(batch_size)


def _length(key: str, until: Any, epochs: int, steps_per_epoch: int, *, whole: bool) -> int | None:
    """Steps that a phase may take, at least one; whole epochs where the batch size changes."""
    if until == "end":
        return None
    until = getattr(until, "max", until)
    if isinstance(until, str):
        length = float(until.removesuffix("%")) / 100 * epochs
        if length == 0:
            raise FrostlineError(f"{key}.until: {until} of a run is no phase; give it more, or remove it")
        return max(1, round(length)) * steps_per_epoch if whole else max(1, round(length * steps_per_epoch))
    steps = getattr(until, "steps", None)
    length = until.epochs if steps is None else steps / steps_per_epoch
    if whole and length != int(length):
        raise FrostlineError(
            f"{key}.until: {length:.4g} epochs; where a batch_size changes, phases take whole epochs"
        )
    return int(steps) if steps is not None else max(1, round(length * steps_per_epoch))


def _early(key: str, until: Any) -> PlateauRule | ReachRule | None:
    """What may end the phase before its length does."""
    kind = next((kind for kind in ("plateau", "reaches") if hasattr(until, kind)), None)
    if kind is None:
        return None
    metric = getattr(until, kind)
    if metric not in MONITORS:
        raise FrostlineError(f"{key}.until.{kind}: no metric {metric!r}; {allowed(metric, MONITORS)}")
    if kind == "plateau":
        return PlateauRule(metric, until.patience, until.min_delta or 0.0)
    if metric == "val/accuracy" and until.value > 1:
        raise FrostlineError(f"{key}.until.value: found {until.value:g}; an accuracy is at most 1")
    return ReachRule(metric, until.value)


def epochs_text(count: int) -> str:
    """Return ``an epoch``, ``2 epochs``, …."""
    return "an epoch" if count == 1 else f"{count} epochs"
