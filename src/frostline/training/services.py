"""What a stage gets beside its inputs: progress bars, messages, a tracker and a scratch folder."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.console.progress import Progress, Say, no_output, no_progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from frostline.freezing.plan import FreezePlan
    from frostline.models.input_spec import InputSpec
    from frostline.schema import Run
    from frostline.training.data_module import ImageData


Watch = Callable[[Mapping[str, float | int | None]], None]
"""Called with each epoch's row; raises `Pruned` to end the run."""


def unwatched(row: Mapping[str, float | int | None]) -> None:
    """Do nothing."""


RUN_KEY = "run.key"
"""Tag: the hash of everything that a run's result depends on."""
TRIAL_NUMBER = "trial.number"
"""Tag: a trial's number in its study."""
TRIAL_AGAIN = "trial.again"
"""Tag: the number of the trial whose process died and whose hyperparameters this run repeats."""
TRIAL_STATE = "trial.state"
"""Tag: whether a trial is running, complete, pruned or failed."""
TASK = "task"
"""Tag of a run with several labels per image: multi_label."""
SWEEP_KEYS, SWEEP_OBJECTIVE = "sweep.keys", "sweep.objective"
"""Tags of a trial that describe its sweep: the hyperparameters that vary, with commas, and the objective."""


@dataclass(frozen=True)
class Misclassified:
    """A misclassified image."""

    id: str
    label: str
    prediction: str
    confidence: float
    """The probability of the prediction, 0…1."""
    picture: "NDArray[np.uint8]"
    """The image, (H, W) grey or (H, W, 3) RGB."""


@dataclass(frozen=True)
class Evaluation:
    """Results that were measured after a run had ended."""

    weights_sha256: str
    """The hash of the weights that were evaluated."""
    tags: Mapping[str, str]
    """Those that distinguish the run from others with these weights, such as seeds that train nothing."""
    values: Mapping[str, float]
    folder: Path
    """The folder of the result files."""
    mistakes: Sequence[Misclassified] = ()
    """The images to draw."""
    subfolder: str = ""
    """Where the result files go among the run's artifacts; empty: beside its own."""


class TrackedRun:
    """A run that is being recorded; the methods of this class do nothing."""

    def log_plan(
        self, run: "Run", plan: "FreezePlan", network: "nn.Module", spec: "InputSpec", images: int
    ) -> None:
        """Record the freeze plan with its learning rates and cost, and plot it; `network` is not changed."""

    def log_images(self, data: "ImageData", classes: Sequence[str]) -> None:
        """Record a sheet of training images as the network sees them; `data` is not changed."""

    def log_epoch(self, row: Mapping[str, float | int | None]) -> None:
        """Record a row of the history."""

    def log_metrics(self, values: Mapping[str, float]) -> None:
        """Record final values."""

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Record tags, which runs can be filtered by."""

    def log_outputs(self, folder: Path) -> None:
        """Record the run's output files, and plot its curves."""

    def log_initial_weights(self, sha256: str) -> None:
        """Link the run whose weights, given by their hash, this one starts from."""


class Tracker:
    """Opens recorded runs; this class records nothing."""

    def run(self, about: "RunInfo") -> AbstractContextManager[TrackedRun]:
        """Record a run; it is marked as failed if the block raises."""
        return nullcontext(TrackedRun())

    def annotate(self, evaluation: Evaluation) -> None:
        """Add metrics, files and a plot of mistakes to the run that made the weights."""


def repetition_name(seed: int, fold: int | None = None) -> str:
    """Return what a repetition adds to the name of its setting: ``·s0``, or ``·f2·s0`` with folds."""
    return f"·s{seed}" if fold is None else f"·f{fold}·s{seed}"


def setting_of(run_name: str) -> str:
    """Return a run's name without what `repetition_name` added: the name that its repetitions share.

    >>> setting_of("full·mlp·table·f2·s0"), setting_of("full·mlp·digits·s1")
    ('full·mlp·table', 'full·mlp·digits')
    """
    return re.sub(r"(·f\d+)?·s\d+$", "", run_name)


@dataclass(frozen=True)
class RunInfo:
    """What is known about a run when it starts."""

    setting: str
    """The name without fold and seed, such as ``gradual·resnet18·digits``."""
    stage: str
    study: str
    config: Mapping[str, Any]
    """The resolved config; becomes the run's parameters."""
    dataset: Mapping[str, str]
    """name, kind, fingerprint."""
    context: str
    """Use of the data set: training or evaluation."""
    tags: Mapping[str, str]
    """arm, backbone, dataset, freeze, seed."""
    seed: int | None = None
    """None: it is not one of several seeds."""
    fold: int | None = None
    """The fold that is the test split; None: no folds."""
    late: bool = False
    """Whether the run ended in another process; it is recorded unless a run with its `RUN_KEY` is."""

    @property
    def name(self) -> str:
        """The run's name, such as ``gradual·resnet18·digits·s0``."""
        return self.setting if self.seed is None else self.setting + repetition_name(self.seed, self.fold)


@dataclass(frozen=True)
class LabelledTracker(Tracker):
    """A tracker that adds a sweep's label to the names of runs, and tags."""

    tracker: Tracker
    label: str
    tags: Mapping[str, str] = field(default_factory=dict)

    def run(self, about: RunInfo) -> AbstractContextManager[TrackedRun]:
        """Record a run under its longer name, which begins with the label."""
        setting = f"{self.label}·{about.setting}" if self.label else about.setting
        return self.tracker.run(replace(about, setting=setting, tags={**about.tags, **self.tags}))

    def annotate(self, evaluation: Evaluation) -> None:
        """Pass the call on."""
        self.tracker.annotate(evaluation)


@dataclass(frozen=True)
class Services:
    """The services of a stage; the defaults show and record nothing."""

    scratch: Path
    progress: Progress = no_progress
    say: Say = no_output
    tracker: Tracker = field(default_factory=Tracker)
    watch: Watch = unwatched
    label: str = ""
    """In a sweep: the values that distinguish this trial, for titles."""
