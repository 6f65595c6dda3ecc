"""The plan of a run: what trains at every step, and at which learning rate.

A plan has no state: everything here is a pure function of its arguments. One of them, `starts`, lists the
first step of each phase that has begun. It can't be computed in advance, since early stopping can end a phase
before its maximum length. `training.freeze_callback` stores it, and what else a run needs to resume.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import ceil
from typing import Any

from torch import nn

from frostline.base.metrics import score
from frostline.freezing.curves import Curve
from frostline.freezing.layers import Layers


@dataclass(frozen=True)
class PlateauRule:
    """Ends a phase when `metric` has not improved by more than `min_delta` for `patience` validations."""

    metric: str
    patience: int
    min_delta: float

    def reached(self, values: Sequence[float]) -> bool:
        """Return whether the phase should end, given the metric of each of its validations so far."""
        best, since = float("-inf"), 0
        for value in values:
            if score(self.metric, value) > best + self.min_delta:
                best, since = score(self.metric, value), 0
            else:
                since += 1
        return since >= self.patience

    def __str__(self) -> str:
        """Return the rule as `frostline plan` prints it, assuming one validation per epoch."""
        return f"{self.metric} stalls for {epochs_text(self.patience)}"


@dataclass(frozen=True)
class ReachRule:
    """Ends a phase when `metric` is at least as good as `value`."""

    metric: str
    value: float

    def reached(self, values: Sequence[float]) -> bool:
        """Return whether the phase should end, given the metric of each of its validations so far."""
        return any(score(self.metric, value) >= score(self.metric, self.value) for value in values)

    def __str__(self) -> str:
        return f"{self.metric} reaches {self.value:g}"


@dataclass(frozen=True)
class PhasePlan:
    """A phase with all inherited values filled in."""

    train: tuple[str, ...]
    """Groups that train, in the schedule's order."""
    length: int | None
    """Maximum number of steps; None: to the end of the run. `phase_end` extends the last phase to the end of
    an epoch."""
    early_stop: PlateauRule | ReachRule | None
    """The rule that ends the phase early; in the last phase, it ends the run."""
    lr: Mapping[str, float]
    """Group that trains → factor of the base learning rate."""
    layer_decay: float
    """Factor of the learning rate per layer below the head (`layers.Place.depth`); 1: no layer decay."""
    options: Mapping[str, Mapping[str, Any]]
    """Group that trains → optimizer options that override the optimizer's own."""
    weight_decay: float | None
    """Weight decay of the tensors that have any (`param_groups.decaying`); None: the optimizer's own."""
    bn: str
    """train: running statistics of the groups that train are updated; eval: none are; recalibrate: those of
    the groups that train are estimated again when the phase begins, then not updated."""
    dropout: float | None
    """Dropout rate before the head; None: the network's own."""
    drop_path: float | None
    """Largest stochastic depth rate; None: the network's own."""
    restore: bool
    """Whether the weights of the phase's best epoch are restored at its end."""
    curve: Curve
    """The learning-rate schedule (key `schedule`)."""
    batch_size: int | None
    """Images per batch; None: the run's own."""
    steps_per_epoch: int
    """With the phase's batch size."""

    @property
    def monitor(self) -> str:
        """The metric that selects the phase's best epoch: that of the early stopping rule, else val/loss."""
        return self.early_stop.metric if self.early_stop else "val/loss"


@dataclass(frozen=True)
class FreezePlan:
    """What trains at every step of a run, and at which learning rate."""

    layers: Layers
    groups: Mapping[str, tuple[str, ...]]
    """Group → its tensors (parameters and running statistics), in model order."""
    phases: tuple[PhasePlan, ...]
    epochs: int
    steps_per_epoch: int
    """With the run's own batch size."""

    def phase_end(self, starts: Sequence[int]) -> int:
        """Return the first step after the current phase, assuming that it does not end early.

        Args:
            starts: first step of each phase that has begun; the last of these phases is the current one.
        """
        key = tuple(starts)
        if key not in self._ends:
            self._ends[key] = self._phase_end(key)
        return self._ends[key]

    @cached_property
    def _ends(self) -> dict[tuple[int, ...], int]:
        """What `phase_end` has computed so far, starts → end; cached, since it is needed at every step."""
        return {}

    def _phase_end(self, starts: tuple[int, ...]) -> int:
        current, last = self.phases[len(starts) - 1], len(starts) == len(self.phases)
        if current.length is not None and not last:
            return starts[-1] + current.length
        per_epoch = current.steps_per_epoch
        epochs_before = sum(  # in epochs, since phases may have different batch sizes
            Fraction(end - begin, before.steps_per_epoch)
            for before, begin, end in zip(self.phases, starts, starts[1:], strict=False)
        )
        epochs = Fraction(self.epochs)
        if current.length is not None:
            # A run ends after a whole epoch, with its validation.
            epochs = min(epochs, Fraction(ceil(epochs_before + Fraction(current.length, per_epoch))))
        return starts[-1] + round((epochs - epochs_before) * per_epoch)

    def advanced(self, starts: Sequence[int], step: int, ended_early: bool = False) -> tuple[int, ...]:
        """Return `starts` with `step` added if a phase begins there.

        Args:
            starts: first step of each phase entered so far; empty before the first step.
            step: the step that begins, from 0.
            ended_early: whether the early stopping rule of the current phase has triggered.
        """
        if not starts:
            return (step,)
        ended = step >= self.phase_end(starts) or ended_early
        return (*starts, step) if ended and len(starts) < len(self.phases) else tuple(starts)

    def is_over(self, starts: Sequence[int], step: int, ended_early: bool) -> bool:
        """Return whether the run ends before `step`; arguments as in `advanced`."""
        return len(starts) == len(self.phases) and (step >= self.phase_end(starts) or ended_early)

    def lr_factor(self, starts: Sequence[int], step: int, group: str, depth: int) -> float:
        """Return the learning-rate factor of the tensors of `group` at `depth`; 0 while frozen.

        Args:
            depth: `layers.Place.depth`: 0 in the stem, largest in the head.
        """
        constant = self.group_factor(len(starts) - 1, group, depth)
        return constant * self.curve_factor(starts, step) if constant else 0.0

    def group_factor(self, phase: int, group: str, depth: int | None) -> float:
        """Return the part of `lr_factor` that is constant in `phase`: the group's factor times layer decay.

        Args:
            depth: `layers.Place.depth`; None: without layer decay.
        """
        current = self.phases[phase]
        if group not in current.train:
            return 0.0
        if depth is None:
            return current.lr[group]
        return current.lr[group] * current.layer_decay ** (self.layers.head_depth - depth)

    def curve_factor(self, starts: Sequence[int], step: int) -> float:
        """Return the factor of the current phase's learning-rate schedule at `step`."""
        length = self.phase_end(starts) - starts[-1]
        return self.phases[len(starts) - 1].curve.factor(step - starts[-1], length)

    def next_change(self, starts: Sequence[int], step: int) -> int:
        """Return the first step after `step` at which learning rates or momentum may change.

        This assumes that no phase ends early.
        """
        end = self.phase_end(starts)
        steady = self.phases[len(starts) - 1].curve.is_constant(step - starts[-1], end - starts[-1])
        return end if steady else step + 1

    def momentum(self, starts: Sequence[int], step: int) -> float | None:
        """Return the momentum at `step` if the phase changes it, else None."""
        curve = self.phases[len(starts) - 1].curve
        return curve.momentum(step - starts[-1], self.phase_end(starts) - starts[-1])

    def options(self, phase: int, group: str, *, has_weight_decay: bool) -> dict[str, Any]:
        """Return the optimizer options that override the optimizer's own for `group` in `phase`.

        Args:
            has_weight_decay: whether weight decay applies to the tensors (`param_groups.decaying`). That of
                others, such as norms and biases, is never overridden: it is 0, or what a user's own optimizer
                gives them.
        """
        current = self.phases[phase]
        options = dict(current.options.get(group, {}))
        if current.weight_decay is not None:
            options.setdefault("weight_decay", current.weight_decay)
        if not has_weight_decay:
            options.pop("weight_decay", None)
        return options

    def group_of(self) -> dict[str, str]:
        """Return tensor name → its group."""
        return {name: group for group, names in self.groups.items() for name in names}

    def trained(self, phase: int) -> frozenset[str]:
        """Return the parameters that train in `phase`."""
        names = (name for group in self.phases[phase].train for name in self.groups[group])
        return self.layers.parameters.intersection(names)

    def trained_size(self, phase: int, network: nn.Module) -> int:
        """Return the number of elements of the parameters that train in `phase`."""
        trained = self.trained(phase)
        return sum(tensor.numel() for name, tensor in network.named_parameters() if name in trained)

    def updated_statistics(self, phase: int) -> frozenset[str]:
        """Return the running statistics that `phase` updates: those of its groups if `bn` is train."""
        return self.statistics_of_trained_groups(phase) if self.phases[phase].bn == "train" else frozenset()

    def statistics_of_trained_groups(self, phase: int) -> frozenset[str]:
        """Return the running statistics of the groups that train in `phase`."""
        names = frozenset(name for group in self.phases[phase].train for name in self.groups[group])
        return names - self.layers.parameters

    def changed_before(self, phase: int) -> frozenset[str]:
        """Return the parameters and running statistics that phases before `phase` may have changed."""
        changed = (
            self.trained(number) | self.statistics_of_trained_groups(number) for number in range(phase)
        )
        return frozenset().union(*changed)


def epochs_text(count: int) -> str:
    """Return ``an epoch``, ``2 epochs``, …."""
    return "an epoch" if count == 1 else f"{count} epochs"
