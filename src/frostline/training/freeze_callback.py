"""Applies a freeze schedule to a network that Lightning trains; `freezing.plan` makes the decisions."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from itertools import starmap
from pathlib import Path
from typing import Any, Self

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from frostline import schema
from frostline.base.metrics import score
from frostline.console.errors import FrostlineError
from frostline.freezing.build import RunLength, build_plan
from frostline.freezing.curves import Curve
from frostline.freezing.layers import layers_of
from frostline.freezing.plan import FreezePlan, PhasePlan
from frostline.training import param_groups, trainable
from frostline.training.compiled import Graphs, is_compiled
from frostline.training.lightning_run import inputs_of_batches, network_of, run_length, single_optimizer

Inputs = Callable[[pl.Trainer], Iterable[Tensor]]
"""Yields the network inputs of one epoch of training batches, on the training device."""


class FreezeSchedule(pl.Callback):
    """Applies a freeze schedule to any LightningModule: freezes, unfreezes and sets learning rates.

    The module's `configure_optimizers` must return one optimizer of all parameters and no scheduler: the
    schedule's learning rates are factors of the optimizer's own. If a phase may end early or restores its
    best weights, validation must log the metric that it monitors, such as `val/accuracy`. Patience counts
    validations. A resumed run gives the same result as one that was not interrupted.

    Args:
        schedule: the name of a ready-made schedule, such as "gradual"; a YAML file; or its groups and phases.
        network: the attribute of the module that holds the network, such as "model"; empty: the child that
            has all of the module's parameters, else the module itself.
        lr_schedule: the learning-rate schedule of phases without a `schedule` of their own, with the same
            keys; None: their learning rate is constant.

    Raises:
        FrostlineError: the schedule does not exist or is invalid; when a fit starts: it does not fit the
            network, the optimizer or the run.
    """

    def __init__(
        self,
        schedule: str | Path | Mapping[str, Any] | schema.Freeze,
        network: str = "",
        lr_schedule: Mapping[str, Any] | None = None,
    ) -> None:
        from frostline.training.schedules import load, load_lr_schedule

        self._schedule: schema.Freeze | None = load(schedule)
        self.inputs: Inputs = inputs_of_batches
        self._default = load_lr_schedule(lr_schedule) if lr_schedule else Curve("constant")
        self._begin(network)

    @classmethod
    def of(cls, plan: FreezePlan, network: str, inputs: Inputs) -> Self:
        """Return the callback for an existing plan.

        Args:
            network: the attribute of the module that holds the network.
            inputs: yields the network inputs of one epoch.
        """
        self = cls.__new__(cls)
        self._schedule = None
        self._begin(network)
        self.plan, self.inputs = plan, inputs
        return self

    def _begin(self, network: str) -> None:
        self._attribute = network
        self.starts: tuple[int, ...] = ()
        """The first step of each phase so far."""
        self.history: list[float] = []
        """The metric that the current phase monitors, after each of its validations."""
        self.best: tuple[float, dict[str, Tensor]] | None = None
        """For `restore: best`: the current phase's best score and its weights."""
        self._applied: int | None = None
        """The phase that was applied last; None before the first."""
        self._constant_until_step = self._constant_until_batch = 0
        """Learning rates and momentum stay the same until this step of the run, and until this batch of the
        epoch."""
        self._set: tuple[float, float | None] | None = None
        """The curve factor and momentum that the optimizer has; None: to be set."""
        self.dropout: trainable.Dropout | None = None
        self._step_counters: dict[str, Any] = {}
        """Frozen optimizer group → its step counter when it froze; None: it had none yet."""
        self._graphs: Graphs | None = None
        """None: the network is not compiled."""

    def plan_for(self, network: nn.Module, epochs: int, steps_per_epoch: int) -> FreezePlan:
        """Return the schedule's plan for a network without training; `frostline.preview` gives it as text.

        Args:
            network: not changed.

        Raises:
            FrostlineError: the schedule does not fit the network or the run.
        """
        assert self._schedule is not None
        return build_plan(
            self._schedule, layers_of(network), self._default, RunLength(epochs, steps_per_epoch)
        )

    def monitored(self, phase: PhasePlan) -> str:
        """Return the metric that a phase monitors."""
        return phase.monitor

    @property
    def phase(self) -> int:
        """Index of the current phase, from 0; -1 before the first phase begins."""
        return len(self.starts) - 1

    def phase_at(self, step: int) -> PhasePlan:
        """Return the phase of `step`, the next step of the run."""
        return self.plan.phases[len(self._advanced(step)) - 1]

    # ── Lightning's hooks, in call order ────────────────────────────────────────────────────────────────────

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make `configure_optimizers` return an optimizer whose groups are the schedule's."""
        if stage != "fit":
            return
        if trainer.global_step == 0:
            self._begin(self._attribute)
        configure = type(pl_module).configure_optimizers

        def split(module: pl.LightningModule) -> Any:
            return self._take_over(trainer, module, configure(module))

        # On the instance: other instances of the class may train without a schedule.
        pl_module.configure_optimizers = split.__get__(pl_module)  # type: ignore[method-assign]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Apply the first phase; a resumed run applies its phase at its first batch."""
        for index, phase in enumerate(self.plan.phases):
            if (phase.early_stop or phase.restore) and not trainer.enable_validation:
                raise FrostlineError(
                    f"freeze.phases.{index} monitors {phase.monitor}, but there is no validation; give fit a"
                    " val_dataloader, and the module a validation_step"
                )
        # A resumed run enters its phase at its first batch: `bn: recalibrate` iterates the sampler, whose
        # epoch Lightning sets only after this hook.
        if not self.starts:
            self._enter(trainer, pl_module)
        else:
            self._stop_if_over(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the first batch check again whether a phase or a learning rate changes."""
        self._constant_until_batch = 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Prepare the next step."""
        if batch_idx < self._constant_until_batch:
            return
        self.before_step(trainer, pl_module)
        batches = trainer.accumulate_grad_batches
        constant = self._constant_until_step - trainer.global_step
        self._constant_until_batch = batch_idx - batch_idx % batches + constant * batches

    def before_step(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Enter the next phase if the current one is over, and set this step's learning rates."""
        step = trainer.global_step
        if step < self._constant_until_step:
            return
        self._enter(trainer, module)
        self._constant_until_step = self.plan.next_change(self.starts, step)
        now = self.plan.curve_factor(self.starts, step), self.plan.momentum(self.starts, step)
        if now == self._set:
            return
        inside, momentum = self._set = now
        for base, factor, group in zip(self._bases, self._factors, self._groups(trainer), strict=True):
            if factor is not None:
                group["lr"] = base["lr"] * (factor * inside)
                if momentum is not None:
                    group.update(_with_momentum(group, momentum))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let all phases share a compiled validation graph."""
        if self._graphs:
            self._graphs.begin_validation()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Store the metric that early stopping or `restore: best` monitors."""
        if self._graphs:
            self._graphs.end_validation()
        if trainer.sanity_checking or not self.starts:
            return
        phase = self.plan.phases[self.phase]
        if not (phase.early_stop or phase.restore):
            return
        metric = self.monitored(phase)
        if metric not in trainer.callback_metrics:
            raise FrostlineError(
                f"freeze.phases.{self.phase} monitors {metric}, which validation does not log;"
                f" call self.log({metric!r}, …) in validation_step"
            )
        value = float(trainer.callback_metrics[metric])
        if trainer.world_size > 1:
            # Each process may validate on its own images; all must leave the phase at the same step.
            mine = torch.tensor(value, device=trainer.strategy.root_device)
            value = float(trainer.strategy.reduce(mine, reduce_op="mean"))
        self.history.append(value)
        self._constant_until_step = self._constant_until_batch = 0
        if phase.restore and (self.best is None or score(metric, value) > self.best[0]):
            state = self._network(pl_module).state_dict()
            self.best = (score(metric, value), {k: v.detach().clone() for k, v in state.items()})
        self._stop_if_over(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the best epoch if the last phase asks for it."""
        if self.best is not None:
            self._network(pl_module).load_state_dict(self.best[1])

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Undo the changes to the module; `requires_grad` stays as the last phase set it."""
        if stage == "fit" and vars(pl_module).pop("configure_optimizers", None):
            trainable.release(self._network(pl_module))
            self._network(pl_module).train()
            if self.dropout:
                self.dropout.set(None, None)
            if self._graphs:
                self._graphs.close()
                self._graphs = None

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Undo the changes if a fit fails, too: Lightning does not call `teardown` then."""
        self.teardown(trainer, pl_module, "fit")

    # ── checkpoints ─────────────────────────────────────────────────────────────────────────────────────────

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {
            "schedule": self._content(),
            "starts": self.starts,
            "history": self.history,
            "best": self.best,
            "clocks": self._step_counters,
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse a checkpoint of a run without a schedule."""
        if self.state_key not in checkpoint["callbacks"]:
            raise FrostlineError(
                "the checkpoint was made without a freeze schedule, so a run with one can't resume from it;"
                " load its weights, and start without ckpt_path"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            FrostlineError: the checkpoint is of another schedule.
        """
        if different := _first_difference(state_dict["schedule"], self._content()):
            key, then, now = different
            raise FrostlineError(
                f"the checkpoint was made with another freeze schedule: {key} was {then!r}, now it is"
                f" {now!r}; resume with the former, or load the weights and start without ckpt_path"
            )
        self.starts = tuple(state_dict["starts"])
        self.history = list(state_dict["history"])
        self._constant_until_step = self._constant_until_batch = 0
        self.best = state_dict["best"]
        self._step_counters = dict(state_dict["clocks"])

    def _content(self) -> dict[str, Any]:
        """Return what must be equal for a run to resume, as plain data; empty if the caller checks it."""
        if self._schedule is None:
            return {}
        return {**self._schedule.model_dump(exclude_none=True), "rate": asdict(self._default)}

    # ── applying the plan ───────────────────────────────────────────────────────────────────────────────────

    def _network(self, module: pl.LightningModule) -> nn.Module:
        return network_of(module, self._attribute)

    def _groups(self, trainer: pl.Trainer) -> list[dict[str, Any]]:
        return trainer.optimizers[0].param_groups

    def _take_over(
        self, trainer: pl.Trainer, module: pl.LightningModule, configured: Any
    ) -> torch.optim.Optimizer:
        """Build the plan, and split the parameter groups of the module's optimizer accordingly."""
        optimizer = single_optimizer(configured)
        network = self._network(module)
        if self._schedule is not None:
            if not self._schedule.phases:
                raise FrostlineError(
                    "freeze.phases: empty, so nothing trains; use Trainer.validate instead of fit"
                )
            length = RunLength(*run_length(trainer))
            self.plan = build_plan(self._schedule, layers_of(network), self._default, length)
        self.dropout = trainable.Dropout(network)
        self.dropout.check(self.plan)
        param_groups.check_options(self.plan, optimizer.param_groups[0])
        self.slots, groups = param_groups.split(self.plan, network, optimizer.param_groups)
        # In place: an optimizer that wraps another, such as Lookahead, shares its list.
        optimizer.param_groups[:] = groups
        self._constant_until_step = self._constant_until_batch = 0
        self._bases = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        self._applied = None
        self._graphs = Graphs(network, len(self.plan.phases)) if is_compiled(module) else None
        return optimizer

    def _enter(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Move to the phase of the next step, and apply it to network and optimizer."""
        if not self.plan.phases:
            return
        starts = self._advanced(trainer.global_step)
        moved = starts != self.starts
        if moved:
            if self.best is not None:
                self._network(module).load_state_dict(self.best[1])
            self.starts, self.history, self.best = starts, [], None
        if moved or self._applied is None:
            self._apply(trainer, module, first=moved)

    def _advanced(self, step: int) -> tuple[int, ...]:
        """Return `starts` as of the beginning of `step`."""
        return self.plan.advanced(self.starts, step, bool(self.starts) and self._ends_early())

    def _ends_early(self) -> bool:
        rule = self.plan.phases[self.phase].early_stop
        return rule is not None and rule.reached(self.history)

    def _stop_if_over(self, trainer: pl.Trainer) -> None:
        """Stop the trainer if the last phase ended before the trainer's last epoch."""
        may_end = self.plan.phases[self.phase].early_stop is not None
        if may_end and self.plan.is_over(self.starts, trainer.global_step, self._ends_early()):
            trainer.should_stop = True

    def _apply(self, trainer: pl.Trainer, module: pl.LightningModule, *, first: bool) -> None:
        """Apply the current phase to network and optimizer; `first`: the phase has just started."""
        network, phase = self._network(module), self.plan.phases[self.phase]
        if first and phase.bn == "recalibrate":
            trainable.recalibrate(network, self.plan, self.phase, self.inputs(trainer))
        if self.dropout:
            self.dropout.set(phase.dropout, phase.drop_path)
        trainable.apply_phase(network, self.plan, self.phase)
        for slot, base, group in zip(self.slots, self._bases, self._groups(trainer), strict=True):
            if slot is not None:
                options = self.plan.options(self.phase, slot.group, has_weight_decay=slot.has_weight_decay)
                group.update({**base, "lr": group["lr"], **options})
                self._set_step_counter(group, trains=slot.group in phase.train)
        if isinstance(trainer.strategy, DDPStrategy):
            # DDP all-reduces only what required gradients when it wrapped the module (Lightning #20340).
            trainer.strategy.model = module
            trainer.strategy.configure_ddp()
        self._factors = [
            None if slot is None else self.plan.group_factor(self.phase, slot.group, slot.depth)
            for slot in self.slots
        ]
        self._set = None
        self._applied = self.phase

    def _set_step_counter(self, group: dict[str, Any], *, trains: bool) -> None:
        """Pause a group's step counter while it is frozen: LAMB and Adan would count its steps."""
        name = group["name"]
        if not trains:
            self._step_counters.setdefault(name, _copy(group.get("step")))
        elif name in self._step_counters:
            counted = self._step_counters.pop(name)
            group.pop("step", None)
            if counted is not None:
                group["step"] = counted


def _copy(step: Any) -> Any:
    return step.clone() if isinstance(step, Tensor) else step


def _first_difference(then: Any, now: Any, key: str = "freeze") -> tuple[str, Any, Any] | None:
    """Return the first key in which two schedules differ, with both values; None: they are equal."""
    if isinstance(then, list) and isinstance(now, list):
        then, now = dict(enumerate(then)), dict(enumerate(now))
    if isinstance(then, dict) and isinstance(now, dict):
        pairs = ((then.get(each), now.get(each), f"{key}.{each}") for each in then | now)
        return next(filter(None, starmap(_first_difference, pairs)), None)
    return None if then == now else (key, then, now)


def _with_momentum(group: Mapping[str, Any], momentum: float) -> dict[str, Any]:
    if "betas" in group:
        return {"betas": (momentum, *group["betas"][1:])}
    return {"momentum": momentum}
