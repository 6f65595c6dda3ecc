"""Runs a learning-rate range test: a few optimizer steps, each at a higher learning rate."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor, nn

from frostline.base.seeds import derive, seed_dropout
from frostline.console.errors import FrostlineError, resource_errors
from frostline.features.execution import device_of, execution_of
from frostline.features.reuse import FeatureExtractor
from frostline.features.split_point import NetworkSplit, NoSplit
from frostline.freezing.plan import FreezePlan
from frostline.lr_finder.suggestion import Settings, Suggestion, diverges, learning_rates, smoothed, suggest
from frostline.schema import Run
from frostline.training import machine, param_groups, trainable
from frostline.training.feature_callback import held_on
from frostline.training.inference import reuse_of
from frostline.training.inputs import TrainingInputs
from frostline.training.module import ReusedFeatures
from frostline.training.run import set_up
from frostline.training.services import Services


@dataclass(frozen=True)
class RangeTest:
    """The result of a range test."""

    rates: list[float]
    losses: list[float]
    """Loss of the batch at each learning rate, before the step."""
    smooth: list[float]
    suggestion: Suggestion | None
    """None: the loss falls at no learning rate."""
    layers: str
    """What each step trains on: ``features at fc:input``, or ``the whole network: …`` with the reason."""
    planned: int
    """Number of steps; fewer were taken if the loss diverged."""


@resource_errors("the range test")
def run_test(run: Run, inputs: TrainingInputs, services: Services, settings: Settings) -> RangeTest:
    """Take optimizer steps in a run's first phase, each at a higher learning rate (Smith 2017, section 3.3).

    Where the run reuses features, so do the steps: frozen layers run once.

    Raises:
        FrostlineError: schedule, weights and data do not fit together, or nothing trains.
    """
    settings.check()
    machine.configure(run.trainer.threads)
    steps = _Steps(run, inputs, services)
    services.say(f"lr-find: trains on {steps.layers}")
    rates = learning_rates(settings.low, settings.high, settings.steps)
    losses: list[float] = []
    smooth: list[float] = []
    stopped = ""
    with services.progress("learning-rate range test", settings.steps) as advance:
        for rate, loss in zip(rates, steps.losses(rates), strict=False):
            if not math.isfinite(loss):
                stopped = f"at {rate:.1e}: the loss is {loss}"
                break
            losses.append(loss)
            smooth = smoothed(losses, settings.steps)
            advance(1, f"lr {rate:.1e} loss {smooth[-1]:.3f}")
            if diverges(smooth):
                stopped = f"at {rate:.1e}: the loss diverged, {smooth[-1]:.3g} after {min(smooth):.3g}"
                break
    if not losses:
        raise FrostlineError(
            f"lr-find: the loss is not finite at the learning rate {rates[0]:g}; lower --low, or look at the"
            " images: frostline show"
        )
    taken = rates[: len(losses)]
    if stopped and len(taken) < len(rates):
        services.say(f"lr-find: stopped after {len(taken)} of {len(rates)} learning rates, {stopped}")
    return RangeTest(taken, losses, smooth, suggest(taken, smooth), steps.layers, settings.steps)


class _Steps:
    """The optimizer steps of a run's first phase."""

    layers: str

    def __init__(self, run: Run, inputs: TrainingInputs, services: Services) -> None:
        setup, spec = set_up(run, inputs, services), inputs.spec
        self._classifier, self._data = setup.classifier, setup.data
        self._plan, network = setup.classifier.plan, setup.classifier.network
        if not self._plan.phases:
            raise FrostlineError(
                f"freeze: nothing trains in {run.freeze_name}, so no learning rate matters; choose another"
                " schedule"
            )
        if size := self._plan.phases[0].batch_size:
            self._data.next_batch_size = run.trainer.model_copy(update={"batch_size": size}).images_per_step
            self._data.train_dataloader()  # applies the size
        self._run, self._network, self._device = run, network, device_of(run.trainer.device)
        self._enter_phase()
        self._optimizer, self._factors = self._optimizer_of(network, self._plan)
        self._reused = self._features(reuse_of(run, spec, services))
        self._classifier.execution = execution_of(network, run.trainer.precision, self._device, spec.shape)
        self._classifier.execution.arrange(network)

    def losses(self, rates: list[float]) -> Iterator[float]:
        """Yield the loss of each step's batch, then take the step."""
        batches = ((epoch, rows) for epoch in count() for rows in self._data.training_rows(epoch))
        for step, (rate, (epoch, rows)) in enumerate(zip(rates, batches, strict=False)):
            yield self._backward(step, epoch, rows)
            self._step(rate)

    def _enter_phase(self) -> None:
        """Freeze what the first phase does not train."""
        network, plan, phase = self._network, self._plan, self._plan.phases[0]
        network.to(self._device)
        dropout = trainable.Dropout(network)
        dropout.check(plan)
        if phase.bn == "recalibrate":
            trainable.recalibrate(network, plan, 0, self._data.epoch_images(0, 0, self._device))
        dropout.set(phase.dropout, phase.drop_path)
        trainable.apply_phase(network, plan, 0)

    def _optimizer_of(
        self, network: nn.Module, plan: FreezePlan
    ) -> tuple[torch.optim.Optimizer, list[float]]:
        """Return the run's optimizer, and the factor of the learning rate of each of its groups."""
        optimizer = self._classifier.configure_optimizers()
        param_groups.check_options(plan, optimizer.param_groups[0])
        slots, groups = param_groups.split(plan, network, optimizer.param_groups)
        optimizer.param_groups[:] = groups
        factors = []
        for slot, group in zip(slots, groups, strict=True):
            assert slot is not None
            group.update(plan.options(0, slot.group, decays=slot.decays))
            factors.append(plan.group_factor(0, slot.group, slot.depth))
        return optimizer, factors

    def _features(self, reuse: FeatureExtractor) -> ReusedFeatures | None:
        """Return the features of the frozen layers; None: the whole network runs at every step."""
        split = reuse.split_network(self._network, self._plan, 0, self._data.train)
        if isinstance(split, NoSplit):
            self.layers = f"the whole network: {split.reason}"
            return None
        assert isinstance(split, NetworkSplit)
        self.layers = f"features at {split.name}"
        train, views = self._data.train, reuse.view_numbers
        features = [held_on(reuse.features(split, train, view), self._device) for view in views]
        precision = reuse.precision_after_split(self._network, self._plan, 0)
        return ReusedFeatures(split, features, None, precision)

    def _backward(self, step: int, epoch: int, rows: Tensor) -> float:
        """Compute the gradients of a step, batch by batch if they are accumulated, and return its loss."""
        seed_dropout(derive(self._run.seed, "step", step), self._device)
        self._optimizer.zero_grad()
        if self._reused:
            inputs, labels = rows, self._data.train.labels.index_select(0, rows).to(self._device)
        else:
            inputs, labels = self._data.training_images(rows, step, self._device)
        total = 0.0
        for part, truth, weight in self._data.step_batches(rows, inputs, labels):
            logits = (
                self._reused.training(part, epoch, self._device)
                if self._reused
                else self._classifier.forward(part)
            )
            loss = self._classifier.criterion(logits.float(), truth, weight) * (len(part) / len(rows))
            loss.backward()
            total += loss.item()
        if self._classifier.penalty is not None:
            penalty = self._classifier.penalty()
            penalty.backward()
            total += penalty.item()
        return total

    def _step(self, rate: float) -> None:
        for group, factor in zip(self._optimizer.param_groups, self._factors, strict=True):
            group["lr"] = rate * factor
        if self._run.optimizer.clip_norm:
            nn.utils.clip_grad_norm_(self._network.parameters(), self._run.optimizer.clip_norm)
        self._optimizer.step()
