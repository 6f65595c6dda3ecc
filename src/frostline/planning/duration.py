"""How long a run trains on this machine, from a few real steps of each phase."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from frostline.console.errors import resource_errors
from frostline.features.execution import device_of
from frostline.features.reuse import FeatureExtractor
from frostline.features.split_point import NetworkSplit
from frostline.models.initial_weights import NO_WEIGHTS
from frostline.planning.outline import PhaseOutline
from frostline.planning.phase_steps import PhaseSteps
from frostline.schema import Run
from frostline.training import garbage, machine
from frostline.training.inference import reuse_of
from frostline.training.inputs import load_inputs
from frostline.training.run import Setup, set_up
from frostline.training.services import Services

WARM_UP, STEPS, SECONDS = 2, 5, 10.0
"""Steps of each phase that are not measured; those that are; the time after which fewer have to do."""


@dataclass(frozen=True)
class Duration:
    """An estimate: what reading images, starting Python and evaluating take is not in it."""

    phases: Sequence[float]
    """Seconds of each phase: its steps, its validations, and the features that it reuses."""
    device: str
    """``cuda`` or ``cpu``."""
    threads: int
    seeds: int
    """Number of seeds, or of folds times seeds, of an arm of the study."""

    @property
    def seconds(self) -> float:
        """Seconds of training of one seed."""
        return sum(self.phases)


@resource_errors("measuring training steps")
def measure(
    run: Run, folder: Path, outlines: Sequence[PhaseOutline], seeds: int, services: Services
) -> Duration:
    """Measure the median of a few training steps per phase, and of a forward pass; multiply by their numbers.

    The network has random weights, since their values do not change the time, and those of a pretraining may
    not exist yet.

    Args:
        folder: the folder of the prepared data.
        outlines: the phases of the run's plan.
        seeds: number of runs of the study's arm.

    Raises:
        FrostlineError: the schedule does not fit the network, or the data is not available.
    """
    garbage.enable()  # off during imports
    machine.configure(run.trainer.threads)
    device = device_of(run.trainer.device)
    inputs = load_inputs(run, folder, NO_WEIGHTS, services)
    setup = set_up(run, inputs, services)
    reuse = reuse_of(run, inputs.spec, services)
    seconds = []
    with services.progress("measuring training steps", len(outlines)) as advance:
        for outline in outlines:
            steps = PhaseSteps(run, setup, reuse, outline.index, lambda split: _stand_in(split, setup, reuse))
            seconds.append(_phase_seconds(steps, outline, reuse))
            advance(1)
    return Duration(seconds, device.type, run.trainer.threads, seeds)


def _phase_seconds(steps: PhaseSteps, outline: PhaseOutline, reuse: FeatureExtractor) -> float:
    measured = _step_seconds(steps)
    per_image = _forward_seconds(steps)
    validated = sum(len(images) for images in steps.data.validation.values())
    total = outline.steps * median(measured)
    if steps.reused is None:
        return total + outline.epochs * validated * per_image
    # Frozen layers run once; what is after them takes a negligible part of a validation.
    return total + (len(reuse.view_numbers) * len(steps.data.train) + validated) * per_image


def _step_seconds(steps: PhaseSteps) -> list[float]:
    """Return the seconds of some training steps; the loss of each is read, which waits for a GPU."""
    seconds: list[float] = []
    for step, (epoch, rows) in enumerate(islice(steps.batches(), WARM_UP + STEPS)):
        begun = time.perf_counter()
        steps.backward(step, epoch, rows)
        steps.update(rate=0.0)
        seconds.append(time.perf_counter() - begun)
        if len(seconds) > 1 and sum(seconds) > SECONDS:
            break
    return seconds[WARM_UP:] or seconds[1:]


def _forward_seconds(steps: PhaseSteps) -> float:
    """Return the seconds of a forward pass of the whole network per image, as in a validation."""
    rows = torch.arange(min(steps.data.eval_batch_size, len(steps.data.validation["val"])))
    images = steps.data.validation_images("val", rows, steps.device)
    network = steps.classifier.network
    was_training = network.training
    seconds = []
    with torch.no_grad():
        network.eval()
        for _ in range(3):
            begun = time.perf_counter()
            steps.classifier.forward(images).sum().item()
            seconds.append(time.perf_counter() - begun)
        network.train(was_training)
    return min(seconds) / len(rows)


def _stand_in(split: NetworkSplit, setup: Setup, reuse: FeatureExtractor) -> list[Tensor]:
    """Return features of zeros that take no memory, (N, …) per view: they take as long as real ones."""
    one = torch.zeros((1, *split.shape), dtype=split.dtype)
    return [one.expand(len(setup.data.train), *split.shape) for _ in reuse.view_numbers]
