"""Runs a learning-rate range test: a few optimizer steps, each at a higher learning rate."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from frostline.console.errors import FrostlineError, resource_errors
from frostline.features.execution import device_of
from frostline.features.split_point import NetworkSplit
from frostline.lr_finder.suggestion import Settings, Suggestion, diverges, learning_rates, smoothed, suggest
from frostline.planning.phase_steps import PhaseSteps
from frostline.schema import Run
from frostline.training import machine
from frostline.training.inference import reuse_of
from frostline.training.inputs import TrainingInputs
from frostline.training.run import set_up
from frostline.training.run_info import run_name
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
    trains_on: str
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
    if device_of(run.trainer.device).type == "cpu" and (reason := machine.why_slow(run.trainer.threads)):
        services.say(reason)
    setup = set_up(run, inputs, services)
    if not setup.classifier.plan.phases:
        raise FrostlineError(
            f"freeze: nothing trains in {run.freeze_name}, so no learning rate matters; choose another"
            " schedule"
        )
    reuse = reuse_of(run, inputs.spec, services)

    def features(split: NetworkSplit) -> list[Tensor]:
        return [reuse.features(split, setup.data.train, view) for view in reuse.view_numbers]

    steps = PhaseSteps(run, setup, reuse, 0, features)
    services.say(f"lr-find: trains on {steps.trains_on}")
    rates = learning_rates(settings.low, settings.high, settings.steps)
    losses: list[float] = []
    smooth: list[float] = []
    stopped = ""
    with services.progress(f"learning-rate range test of {run_name(run)}", settings.steps) as advance:
        for rate, loss in zip(rates, _losses(steps, rates), strict=False):
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
    return RangeTest(taken, losses, smooth, suggest(taken, smooth), steps.trains_on, settings.steps)


def _losses(steps: PhaseSteps, rates: list[float]) -> Iterator[float]:
    """Yield the loss of each step's batch, then take the step."""
    for step, (rate, (epoch, rows)) in enumerate(zip(rates, steps.batches(), strict=False)):
        yield steps.backward(step, epoch, rows)
        steps.update(rate)
