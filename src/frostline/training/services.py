"""What a stage is given beside its inputs: somewhere to show progress, record runs, and keep scratch."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from frostline.console.progress import Progress, Say, no_output, no_progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from frostline.freezing.plan import FreezePlan
    from frostline.models.input_spec import InputSpec
    from frostline.schema import Run


Watch = Callable[[Mapping[str, float | int | None]], None]
"""Told of each epoch's row; raises `Pruned` to end the run."""


def unwatched(row: Mapping[str, float | int | None]) -> None:
    """Let a run go on: nobody watches."""


RUN_KEY = "run.key"
"""The tag with the hash of all that a run's result depends on."""
TRIAL_NUMBER = "trial.number"
"""The tag with a trial's number in its study."""
TRIAL_AGAIN = "trial.again"
"""The tag with the number of the trial whose process died, where a run repeats its settings."""
TRIAL_STATE = "trial.state"
"""The tag that says of a sweep's trial whether it is running, complete, pruned or failed."""


@dataclass(frozen=True)
class Mistake:
    """An image that was taken for what it is not."""

    id: str
    label: str
    prediction: str
    confidence: float
    """In the prediction, 0…1."""
    picture: "NDArray[np.uint8]"
    """(H, W) grey or (H, W, 3) RGB."""


class Recorded(Protocol):
    """A run that is being recorded."""

    def planned(
        self, run: "Run", plan: "FreezePlan", network: "nn.Module", spec: "InputSpec", images: int
    ) -> None:
        """Record what will train when, at which rates and cost, and draw it; `network` stays as it is."""

    def epoch(self, row: Mapping[str, float | int | None]) -> None:
        """Record a row of the history."""

    def metrics(self, values: Mapping[str, float]) -> None:
        """Record final values."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Record short texts to filter by."""

    def finished(self, folder: Path) -> None:
        """Record the files that the run leaves, and draw its curves."""

    def started_from(self, sha256: str) -> None:
        """Name the run whose weights, known by their hash, this one starts from."""


class Tracker(Protocol):
    """Opens recorded runs."""

    def run(self, about: "RunInfo") -> AbstractContextManager[Recorded]:
        """Record a run; it is marked failed if the block raises."""

    def annotate(
        self,
        weights_sha256: str,
        tags: Mapping[str, str],
        values: Mapping[str, float],
        folder: Path,
        mistakes: Sequence[Mistake] = (),
    ) -> None:
        """Add values, the files of `folder` and a picture of `mistakes` to the run that made the weights.

        `tags` tell it from other runs that made the same, as seeds that train nothing do.
        """


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run before it begins."""

    setting: str
    """What the runs of one setting have in common of their names, such as ``resnet18·gradual·digits``."""
    stage: str
    study: str
    config: Mapping[str, Any]
    """Resolved; becomes the run's parameters."""
    dataset: Mapping[str, str]
    """name, kind, fingerprint."""
    context: str
    """What the data set is used for: training or evaluation."""
    tags: Mapping[str, str]
    """arm, backbone, dataset, freeze, seed: to filter by."""
    seed: int | None = None
    """None: it is not one of several that differ in their seeds alone."""
    late: bool = False
    """It has ended already, in another process: it is recorded if no run with its `RUN_KEY` is."""

    @property
    def name(self) -> str:
        """What people call the run: ``resnet18·gradual·digits·s0``."""
        return self.setting if self.seed is None else f"{self.setting}·s{self.seed}"


class _Unrecorded:
    def planned(
        self, run: "Run", plan: "FreezePlan", network: "nn.Module", spec: "InputSpec", images: int
    ) -> None:
        pass

    def epoch(self, row: Mapping[str, float | int | None]) -> None:
        pass

    def metrics(self, values: Mapping[str, float]) -> None:
        pass

    def tags(self, values: Mapping[str, str]) -> None:
        pass

    def finished(self, folder: Path) -> None:
        pass

    def started_from(self, sha256: str) -> None:
        pass


class NoTracker:
    """Records nothing."""

    def run(self, about: RunInfo) -> AbstractContextManager[Recorded]:
        """Return a run that forgets all it is told."""
        return nullcontext(_Unrecorded())

    def annotate(
        self,
        weights_sha256: str,
        tags: Mapping[str, str],
        values: Mapping[str, float],
        folder: Path,
        mistakes: Sequence[Mistake] = (),
    ) -> None:
        """Forget."""


@dataclass(frozen=True)
class Labelled:
    """A tracker that adds to runs what sets them apart in a sweep: to their names, and as tags."""

    tracker: Tracker
    label: str
    tags: Mapping[str, str] = field(default_factory=dict)

    def run(self, about: RunInfo) -> AbstractContextManager[Recorded]:
        """Record a run under its longer name."""
        setting = f"{about.setting}·{self.label}" if self.label else about.setting
        return self.tracker.run(replace(about, setting=setting, tags={**about.tags, **self.tags}))

    def annotate(
        self,
        weights_sha256: str,
        tags: Mapping[str, str],
        values: Mapping[str, float],
        folder: Path,
        mistakes: Sequence[Mistake] = (),
    ) -> None:
        """Pass it on."""
        self.tracker.annotate(weights_sha256, tags, values, folder, mistakes)


@dataclass(frozen=True)
class Services:
    """What a stage is given; the default shows and records nothing."""

    scratch: Path
    progress: Progress = no_progress
    say: Say = no_output
    tracker: Tracker = field(default_factory=NoTracker)
    watch: Watch = unwatched
