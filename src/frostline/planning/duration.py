"""How long a run trains on this machine, from the times of a few training steps of each phase."""

import time
from collections.abc import Callable, Sequence
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
from frostline.models.initial_weights import InitialWeights
from frostline.planning.outline import PhaseOutline
from frostline.planning.phase_steps import PhaseSteps
from frostline.schema import Run
from frostline.training import garbage, machine
from frostline.training.inference import reuse_of
from frostline.training.inputs import load_inputs
from frostline.training.run import Setup, set_up
from frostline.training.services import Services

WARM_UP, STEPS, SECONDS = 2, 5, 10.0
"""Per phase: steps before those that are measured, measured steps, and the seconds after which there are
fewer."""


@dataclass(frozen=True)
class Duration:
    """An estimate, as if no features were cached.

    It excludes reading images, starting Python, estimating BatchNorm statistics anew (`bn: recalibrate`) and
    measuring the test split.
    """

    phases: Sequence[float]
    """Seconds of each phase: its steps, its validations, and the features that it reuses."""
    device: str
    """``cuda`` or ``cpu``."""
    threads: int
    runs: int = 1
    """Number of runs of a study's arm: seeds, or folds times seeds."""

    @property
    def seconds(self) -> float:
        """Seconds of training of one seed."""
        return sum(self.phases)


@resource_errors("measuring training steps")
def measure(
    run: Run, known: InitialWeights, folder: Path, outlines: Sequence[PhaseOutline], services: Services
) -> Duration:
    """Measure a few training steps of each phase, and forward passes; multiply by how many the run takes.

    The network has random weights, since their values do not change the time, and those of a pretraining may
    not exist yet.

    Args:
        known: the initial weights, without tensors.
        folder: the folder of the prepared data.
        outlines: the phases of the run's plan.

    Raises:
        FrostlineError: the schedule does not fit the network, or the data is not available.
    """
    garbage.enable()  # off during imports
    machine.configure(run.trainer.threads)
    device = device_of(run.trainer.device)
    inputs = load_inputs(run, folder, known, services)
    setup = set_up(run, inputs, services)
    reuse = reuse_of(run, inputs.spec, services)
    seconds = []
    with services.progress("measuring training steps", len(outlines)) as advance:
        for outline in outlines:
            steps = PhaseSteps(run, setup, reuse, outline.index, lambda split: _stand_in(split, setup, reuse))
            seconds.append(_phase_seconds(steps, outline, reuse))
            advance(1)
    return Duration(seconds, device.type, run.trainer.threads)


def _phase_seconds(steps: PhaseSteps, outline: PhaseOutline, reuse: FeatureExtractor) -> float:
    data, reused, device = steps.data, steps.reused, steps.device
    validated = sum(len(images) for images in data.validation.values())
    training = outline.steps * median(_step_seconds(steps))
    steps.classifier.network.eval()  # the next phase sets the modes of its layers
    rows = torch.arange(min(data.eval_batch_size, len(data.train), len(data.validation["val"])))
    images = data.validation_images("val", rows, device)
    whole = _forward_seconds(lambda: steps.classifier.forward(images)) / len(rows)
    if reused is None:
        return training + outline.epochs * validated * whole
    # Frozen layers run once per image and view, the layers after them in every validation.
    rest = _forward_seconds(lambda: reused.training(rows, 0, device)) / len(rows)
    once = len(reuse.view_numbers) * len(data.train) + validated
    return training + outline.epochs * validated * rest + once * whole


def _step_seconds(steps: PhaseSteps) -> list[float]:
    """Return the seconds of some training steps; reading a step's loss waits until a GPU has computed it."""
    seconds: list[float] = []
    for step, (epoch, rows) in enumerate(islice(steps.batches(), WARM_UP + STEPS)):
        begun = time.perf_counter()
        steps.backward(step, epoch, rows)
        steps.update(rate=0.0)
        seconds.append(time.perf_counter() - begun)
        if len(seconds) > 1 and sum(seconds) > SECONDS:
            break
    return seconds[WARM_UP:] or seconds[1:]


@torch.no_grad()
def _forward_seconds(forward: Callable[[], Tensor]) -> float:
    """Return the seconds of the fastest of three forward passes."""
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        forward().sum().item()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def _stand_in(split: NetworkSplit, setup: Setup, reuse: FeatureExtractor) -> list[Tensor]:
    """Return zeros in place of the features, (N, …) per view; on a CPU, they take the memory of one image.

    Steps take as long on them as on real features.
    """
    one = torch.zeros((1, *split.shape), dtype=split.dtype)
    return [one.expand(len(setup.data.train), *split.shape) for _ in reuse.view_numbers]
