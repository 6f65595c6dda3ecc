"""Builds a freeze plan, which says what trains at each step, from a schedule and a network's layers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from frostline.base.metrics import monitors
from frostline.console.errors import FrostlineError, allowed
from frostline.freezing.curves import Curve, build_curve
from frostline.freezing.inheritance import LAYER_DECAY, resolve_inheritance
from frostline.freezing.layers import Layers

if TYPE_CHECKING:
    from frostline import schema
from frostline.freezing.plan import FreezePlan, PhasePlan, PlateauRule, ReachRule

MONITORS = tuple(
    dict.fromkeys(name for several in (False, True) for name in monitors(several_labels=several))
)


def assign_groups(patterns: Mapping[str, str | Sequence[str]], layers: Layers) -> dict[str, tuple[str, ...]]:
    """Return the tensors of each group: a tensor belongs to the first group with a pattern that matches it.

    Args:
        patterns: group → pattern or patterns, in order.
        layers: the layers of the network.

    Raises:
        FrostlineError: a pattern is unknown or matches nothing, a group is empty, a parameter has no group.
    """
    groups: dict[str, tuple[str, ...]] = {}
    free = dict.fromkeys(layers.places)
    for group, own in patterns.items():
        if not group.strip() or not group.isprintable():  # plots, tables and MLflow show the name
            raise FrostlineError(
                f"freeze.groups: found {group!r} as a group's name; must be one line of printable characters"
            )
        if group in ("all", LAYER_DECAY) and not (group == "all" and len(patterns) == 1):
            raise FrostlineError(f"freeze.groups.{group}: the name is reserved; choose another")
        matched: set[str] = set()
        for pattern in [own] if isinstance(own, str) else own:
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
                f"freeze.groups.{group}: empty, since the groups before it take all that {own!r} matches;"
                " remove it, or put it first"
            )
        for name in groups[group]:
            del free[name]
    unassigned = [name for name in free if name in layers.parameters]
    if unassigned:
        raise FrostlineError(
            f"freeze.groups: {len(unassigned)} parameters are in no group, such as {unassigned[0]};"
            " add a last group, rest: '*'"
        )
    return groups


@dataclass(frozen=True)
class RunLength:
    """The length of a run."""

    epochs: int
    steps_per_epoch: int
    """Optimizer steps."""
    steps_at: Callable[[int], int] | None = None
    """Batch size → steps per epoch; None: the batch size can't change."""


def build_plan(schedule: "schema.Freeze", layers: Layers, default: Curve, length: RunLength) -> FreezePlan:
    """Build the plan of a run.

    Args:
        layers: the layers of the network.
        default: the learning-rate curve of phases that set none (optimizer.schedule).

    Raises:
        FrostlineError: the schedule does not fit the network or the run; the message names the key.
    """
    groups = assign_groups(schedule.groups, layers)
    schedule = resolve_inheritance(schedule)
    whole = any(phase.batch_size is not None for phase in schedule.phases)
    phases: list[PhasePlan] = []
    for index, phase in enumerate(schedule.phases):
        key = f"freeze.phases.{index}"
        train = tuple(groups) if phase.train == "all" else tuple(dict.fromkeys(phase.train))
        _check_train(key, train, groups)
        _check_end(key, phase.until, last=index == len(schedule.phases) - 1)
        lr, options = phase.lr or {}, phase.optimizer or {}
        _check_groups(
            f"{key}.lr", [group for group in lr if group != LAYER_DECAY], train, groups, LAYER_DECAY
        )
        _check_options(f"{key}.optimizer", options, train, groups)
        steps = _steps_per_epoch(key, phase.batch_size, length)
        phases.append(
            PhasePlan(
                train=train,
                length=_length(key, phase.until, length.epochs, steps, whole=whole),
                early_stop=_early(key, phase.until),
                lr={group: lr.get(group, 1.0) for group in train},
                layer_decay=lr.get(LAYER_DECAY, 1.0),
                options=options,
                weight_decay=phase.weight_decay,
                bn=phase.bn or "train",
                dropout=phase.dropout,
                drop_path=phase.drop_path,
                restore=phase.restore == "best",
                curve=build_curve(phase.schedule) if phase.schedule else default,
                batch_size=phase.batch_size,
                steps_per_epoch=steps,
            )
        )
    budget = sum(Fraction(phase.length or 0, phase.steps_per_epoch) for phase in phases[:-1])
    if phases and budget >= length.epochs:
        raise FrostlineError(
            f"freeze.phases: the phases before the last take {float(budget):.4g} epochs, but the run has"
            f" {length.epochs} (trainer.epochs), {length.steps_per_epoch} steps each; shorten them or raise"
            " trainer.epochs"
        )
    return FreezePlan(layers, groups, tuple(phases), length.epochs, length.steps_per_epoch)


def _check_train(key: str, train: Sequence[str], groups: Mapping[str, tuple[str, ...]]) -> None:
    for group in train:
        if group not in groups:
            raise FrostlineError(f"{key}.train: no group {group!r}; {allowed(group, groups)}")
    if not train:
        raise FrostlineError(f"{key}.train: empty; name a group, or remove the phase")


def _check_options(
    key: str,
    options: Mapping[str, Mapping[str, Any]],
    train: Sequence[str],
    groups: Mapping[str, tuple[str, ...]],
) -> None:
    _check_groups(key, options, train, groups)
    for group, settings in options.items():
        for name in settings.keys() & {"lr", "params", "name"}:
            fix = "set it in the phase's lr" if name == "lr" else "remove it"
            raise FrostlineError(f"{key}.{group}.{name}: not an option of an optimizer group; {fix}")


def _check_groups(
    key: str, names: Iterable[str], train: Sequence[str], groups: Mapping[str, tuple[str, ...]], *more: str
) -> None:
    for group in names:
        if group not in groups:
            raise FrostlineError(f"{key}: no group {group!r}; {allowed(group, [*groups, *more])}")
        if group not in train:
            raise FrostlineError(f"{key}.{group}: the group does not train in this phase; remove it")


def _check_end(key: str, until: object, *, last: bool) -> None:
    if not last and until == "end":
        raise FrostlineError(f"{key}.until: only the last phase may have `end`; give a length, such as 30%")
    if last and until != "end" and not hasattr(until, "max"):
        raise FrostlineError(
            f"{key}.until: the last phase has no fixed length; set until: end, or a rule that may end the run"
            " early, such as until: {plateau: val/loss, patience: 3, max: 100%}"
        )


def _steps_per_epoch(key: str, batch_size: int | None, length: RunLength) -> int:
    """Return the steps per epoch with the phase's batch size, by default the run's."""
    if batch_size is None:
        return length.steps_per_epoch
    if length.steps_at is None:
        raise FrostlineError(f"{key}.batch_size: the DataLoader's batch size can't be changed; remove it")
    return length.steps_at(batch_size)


def _length(key: str, until: Any, epochs: int, steps_per_epoch: int, *, whole: bool) -> int | None:
    """Return the most steps that a phase takes, at least one; None: to the end of the run.

    Args:
        key: the phase's key, for errors.
        until: the phase's `until`.
        epochs: length of the run.
        steps_per_epoch: with the phase's batch size.
        whole: whether phases take whole epochs, since one of them changes the batch size.
    """
    if until == "end":
        return None
    until = getattr(until, "max", until)
    if isinstance(until, str):
        length = float(until.removesuffix("%")) / 100 * epochs
        if length == 0:
            raise FrostlineError(f"{key}.until: found {until}; give more than 0%, or remove the phase")
        return max(1, round(length)) * steps_per_epoch if whole else max(1, round(length * steps_per_epoch))
    steps = getattr(until, "steps", None)
    length = until.epochs if steps is None else steps / steps_per_epoch
    if whole and length != int(length):
        raise FrostlineError(
            f"{key}.until: found {length:.4g} epochs; if a phase sets batch_size, phases take whole epochs"
        )
    return int(steps) if steps is not None else max(1, round(length * steps_per_epoch))


def _early(key: str, until: Any) -> PlateauRule | ReachRule | None:
    """Return the rule that ends a phase early, if it has one."""
    kind = next((kind for kind in ("plateau", "reaches") if hasattr(until, kind)), None)
    if kind is None:
        return None
    metric = getattr(until, kind)
    if metric not in MONITORS:
        raise FrostlineError(f"{key}.until.{kind}: no metric {metric!r}; {allowed(metric, MONITORS)}")
    if kind == "plateau":
        return PlateauRule(metric, until.patience, until.min_delta or 0.0)
    if metric != "val/loss" and until.value > 1:
        raise FrostlineError(f"{key}.until.value: found {until.value:g}; {metric} is at most 1")
    return ReachRule(metric, until.value)
