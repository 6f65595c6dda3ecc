"""Plan a run, look at its images, and find its learning rate from Python; nothing is trained to the end."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from frostline.api import html
from frostline.api.calls import call
from frostline.api.options import Options, overrides_of
from frostline.api.options import Path as AnyPath
from frostline.console.errors import FrostlineError

if TYPE_CHECKING:
    from pandas import DataFrame

    from frostline.lr_finder.range_test import RangeTest
    from frostline.planning.plan import Plan as PlanOfRun
    from frostline.sheets.page import Sheet


@dataclass(frozen=True)
class Plan:
    """What a run would train, and when. A notebook shows its plot; `print` shows its tables."""

    _plan: "PlanOfRun" = field(repr=False)

    @property
    def data(self) -> dict[str, Any]:
        """The plan as plain data, as `frostline plan --format json` prints it."""
        return self._plan.as_data()

    @property
    def yaml(self) -> str:
        """The schedule as a file for conf/freeze."""
        from frostline.planning import text

        return text.as_yaml(self._plan)

    def svg(self) -> bytes:
        """Return the plot as an SVG file: learning rates, and the layers that train, by step."""
        from frostline.planning import plot

        return plot.draw(self.data, ".svg")

    def __str__(self) -> str:
        from frostline.planning import text

        return text.as_text(self._plan)

    def __repr__(self) -> str:
        return f"Plan({self._plan.freeze} on {self._plan.backbone}, {self._plan.epochs} epochs)"

    def _repr_html_(self) -> str:
        from frostline.planning import text

        caption = f"{self!r}: learning rates and layers that train"
        if measured := self._plan.duration:
            caption += f"; {text.duration_text(self._plan, measured)}"
        return str(html.svg_image(self.svg(), caption))


@dataclass(frozen=True)
class LearningRates:
    """A learning-rate range test. A notebook shows its plot."""

    lr: float
    """Where the loss falls fastest."""
    tenth: float
    """A tenth of the learning rate with the lowest loss."""
    _test: "RangeTest" = field(repr=False)
    _plot: bytes = field(repr=False)

    def to_pandas(self) -> "DataFrame":
        """Return a row per step: lr, loss, smoothed."""
        from pandas import DataFrame

        return DataFrame({"lr": self._test.rates, "loss": self._test.losses, "smoothed": self._test.smooth})

    def _repr_html_(self) -> str:
        return str(html.svg_image(self._plot, "loss by learning rate"))


def plan(
    dataset: AnyPath | None = None,
    *,
    stage: Literal["finetune", "pretrain"] = "finetune",
    images: int | None = None,
    classes: int = 10,
    time: bool = False,
    **options: Unpack[Options],
) -> Plan:
    """Return which layers a run would train when, the learning rates and the cost, as `frostline plan` does.

    Args:
        dataset: a folder of images, or an option of conf/dataset.
        stage: which run.
        images: the number of training images; the data set is not read.
        classes: with `images`, the number of classes.
        time: also measure a few steps of each phase, and estimate how long the run trains on this machine.
        options: as for `finetune`.

    Raises:
        FrostlineError: the schedule does not fit the network, or the data set is not available.
    """
    command = "plan --stage pretrain" if stage == "pretrain" else "plan"
    overrides = overrides_of(dataset, options, Options, command=command, reads_data=not images)
    with call():
        from frostline.config import compose, stage_configs
        from frostline.pipeline import standalone
        from frostline.pipeline.compose import study

        if time and images:
            raise FrostlineError("plan: time=True trains on the images of a data set; leave out images")
        composed, choices = compose.experiment(study.on_selection(overrides))
        composed = stage_configs.at_first_fold(composed, stage)
        data: Any = (images, classes)
        folder: Path | None = None
        if not images:  # before torch is imported
            data, folder = standalone.prepared(composed, "source" if stage == "pretrain" else "target")
        from frostline.planning import plan as planning

        made = planning.make(composed, choices, stage, data)
        if time and folder:
            made = planning.with_duration(made, composed, choices, stage, folder)
        return Plan(made)


def show(dataset: AnyPath | None = None, *, count: int = 24, **options: Unpack[Options]) -> "Sheet":
    """Return a sheet of labelled training images as the network sees them, as `frostline show` does.

    Args:
        dataset: a folder of images, or an option of conf/dataset.
        count: number of images.
        options: as for `finetune`.

    Raises:
        FrostlineError: the data set or an image is not available.
    """
    overrides = overrides_of(dataset, options, Options, command="show")
    with call():
        from frostline.config import compose, stage_configs
        from frostline.pipeline import standalone
        from frostline.sheets import training_images

        composed, choices = compose.experiment(overrides)
        composed = stage_configs.at_first_fold(composed)
        _, folder = standalone.prepared(composed, "target")
        return training_images.show(composed, choices, count, folder).sheet


def lr_find(
    dataset: AnyPath | None = None,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    **options: Unpack[Options],
) -> LearningRates:
    """Find a learning rate by a range test, as `frostline lr-find` does.

    Args:
        dataset: a folder of images, or an option of conf/dataset.
        low: the first learning rate.
        high: the last one, unless the loss diverges before.
        steps: number of learning rates.
        options: as for `finetune`.

    Raises:
        FrostlineError: an argument is not valid, or the loss falls at no learning rate.
    """
    overrides = overrides_of(dataset, options, Options, command="lr-find")
    with call():
        from frostline.lr_finder import standalone

        done = standalone.run(overrides, low, high, steps)
        suggestion = done.test.suggestion
        assert suggestion is not None
        return LearningRates(suggestion.steepest, suggestion.tenth, done.test, done.plot)
