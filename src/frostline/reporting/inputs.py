"""The inputs of the report: validated output files of other stages for each arm and seed."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from frostline.base import omitted, repetitions
from frostline.base.formats import read_csv, read_json
from frostline.base.metrics import MAP, WITHOUT_TTA, headline
from frostline.base.repetitions import Repetition
from frostline.base.run_folder import METRICS, PREDICTIONS, TRAINING
from frostline.console.errors import FrostlineError
from frostline.reporting.repeats import Repeats

Seconds = Annotated[FiniteFloat, Field(ge=0)]
Curve = list[float]


class _StageOutput(BaseModel):
    """An output file of a stage; keys that the report does not need are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class PhaseStart(_StageOutput):
    """The start of a phase of the freeze schedule."""

    train: list[str] | str
    """The groups that train from here, or `all`."""
    first_step: Annotated[int, Field(ge=0)]


class HeadInfo(_StageOutput):
    """The initial head of a run; see `models.head_init.HeadInit`."""

    start: str
    notice: str


class PerClass(_StageOutput):
    """Images of each class."""

    images: int
    """Number of images on which the best epoch is selected."""
    labelled: int


class Selection(_StageOutput):
    """What chose the epochs; see `data.loading.label_budget.LabelBudget.record`."""

    rule: str
    """The value of dataset.selection: within, held_out or last."""
    chooses: Literal["val", "selection", "last"]
    images: int
    """Number of images that chose the epoch."""
    labelled: int | None
    """The label budget; None: all training images."""
    per_class: PerClass | None
    """None: the classes differ."""

    @property
    def sentence(self) -> str:
        """The rule in one sentence."""
        if self.chooses == "last":
            return "No epoch is selected: each run's last one is measured."
        if self.chooses == "selection":
            if self.per_class:
                part = f"{self.per_class.images} of the {self.per_class.labelled} labelled images per class"
            else:
                part = f"{self.images:,} of the {self.labelled:,} labelled images"
            return f"The best epoch is selected on {part}."
        beyond = ""
        if self.labelled is not None:
            total = self.images + self.labelled
            beyond = f", beyond the label budget of {self.labelled:,} images: {total:,} labels in all"
        return f"The best epoch is selected on the {self.images:,} images of the validation split{beyond}."


class Training(_StageOutput):
    """training.json: the record of a training."""

    best_epoch: Annotated[int, Field(ge=0)]
    """The epoch whose weights were saved."""
    epochs: Annotated[int, Field(ge=0)]
    steps: Annotated[int, Field(ge=0)]
    phases: list[PhaseStart]
    training_images: Annotated[int, Field(ge=1)] | None = None
    """None: the run predates this record."""
    head: HeadInfo | None = None
    """None: the run predates this record."""
    selection: Selection | None = None
    """None: the run predates this record; its validation split chose the epoch."""


class Clock(_StageOutput):
    """Measured times of a training."""

    train_seconds: Seconds
    epoch_seconds: list[Seconds]
    """Seconds since the start of training at the end of epoch 1, 2, …"""


class _Repeated(_StageOutput):
    @model_validator(mode="before")
    @classmethod
    def _by_repetition(cls, data: Any) -> Any:
        """Collect what a file has per seed, or per fold and seed."""
        if not isinstance(data, dict) or not {"seeds", "folds"} & data.keys():
            return data
        return {"runs": repetitions.from_json(data)}


class _Timing(_Repeated):
    runs: dict[Repetition, Clock]


class Scores(_StageOutput):
    """Metrics of the saved weights on each split."""

    test: dict[str, FiniteFloat | None] = Field(default_factory=dict)
    """Empty if the data set has no test split."""
    val: dict[str, FiniteFloat | None]
    test_sets: dict[str, dict[str, FiniteFloat | None]] = Field(default_factory=dict)
    """By name: the metrics on the further test sets."""
    without_tta: dict[str, FiniteFloat | None] = Field(default_factory=dict)
    """Metrics of the held-out split without test-time augmentation; empty if that is not used."""

    @model_validator(mode="before")
    @classmethod
    def _collect(cls, data: Any) -> Any:
        """Collect what evaluate calls ``test/<name>`` and ``test_without_tta``."""
        if not isinstance(data, dict):
            return data
        tests = {key.partition("/")[2]: part for key, part in data.items() if key.startswith("test/")}
        plain: Any = next((part for key, part in data.items() if key.endswith(WITHOUT_TTA)), {})
        return {**data, "test_sets": tests, "without_tta": plain}


class _Leakage(_StageOutput):
    warnings: list[str]


class _DataSet(_StageOutput):
    name: str
    warnings: list[str]


class _Evaluation(_Repeated):
    runs: dict[Repetition, Scores]


@dataclass(frozen=True)
class PretrainingRun:
    """The pretraining's record and metrics."""

    training: Training
    scores: Scores
    labels: list[str]
    """As in `SeedRun`."""

    @property
    def held_out(self) -> str:
        """The split that results are reported on: test, or val without a test split."""
        return "test" if self.scores.test else "val"


@dataclass(frozen=True)
class SeedRun:
    """One run: an arm with one seed, on one fold. Curves start at epoch 0, the network before training."""

    metric: str
    """What the curves show: accuracy, or mAP with several labels per image."""
    train_curve: Curve
    """Without epoch 0: entry i is epoch i + 1."""
    val_curve: Curve
    training: Training
    clock: Clock
    scores: Scores
    labels: list[str]
    """Labels in the order of predictions.csv: of the test split, or of val if there is none. An image's
    several labels are separated by ``;``."""
    predictions: list[str]


@dataclass(frozen=True)
class Arm:
    """One arm of a study."""

    name: str
    runs: dict[Repetition, SeedRun]
    """By fold and seed, ascending."""

    @property
    def headline(self) -> str:
        """The metric of its results: accuracy, or mAP with several labels per image."""
        return next(iter(self.runs.values())).metric

    @property
    def held_out(self) -> str:
        """The split that results are reported on: test, or val without a test split."""
        return "test" if all(run.scores.test for run in self.runs.values()) else "val"

    def val_curves(self) -> dict[Repetition, Curve]:
        """Validation accuracy or mAP after 0, 1, 2, … epochs, by repetition."""
        return {seed: run.val_curve for seed, run in self.runs.items()}

    def metric(self, split: str, name: str) -> dict[Repetition, float]:
        """A metric on a split, by repetition, for those that have it."""
        values = {seed: getattr(run.scores, split).get(name) for seed, run in self.runs.items()}
        return {seed: value for seed, value in values.items() if value is not None}


def read_omitted(artifacts: Path, names: Sequence[str]) -> dict[str, str]:
    """Return {arm: reason} of the omitted arms among `names`; see `base.omitted`."""
    reasons = {name: omitted.reason_in(artifacts / "evaluate" / name) for name in names}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def read_data_warnings(artifacts: Path) -> list[str]:
    """Return a note per warning of the stages leakage and prepare@target, if they have outputs."""
    leakage = _read_if_there(_Leakage, "leakage", artifacts / "leakage" / "leakage.json")
    target = _read_if_there(_DataSet, "prepare@target", artifacts / "data" / "target" / "dataset.json")
    sheet = "(artifacts/leakage/near-duplicates.png shows them)"
    notes = [f"{warning} {sheet}." for warning in leakage.warnings] if leakage else []
    if target:
        notes += [f"{target.name}: {warning.rstrip('.')}." for warning in target.warnings]
    return notes


def read_pretraining(artifacts: Path) -> PretrainingRun | None:
    """Return the pretraining, if it has outputs: without a source, the stage has none."""
    folder = artifacts / "pretrain"
    scores = _read_if_there(Scores, "pretrain", folder / METRICS)
    training = _read_if_there(Training, "pretrain", folder / TRAINING)
    if scores is None or training is None:
        return None
    metric = headline(scores.val)
    with _checked_output("pretrain", folder / METRICS):
        if scores.val.get(metric) is None:
            raise ValueError(f"it has no {metric} on val")
    labels, _ = _read_predictions("pretrain", folder / PREDICTIONS, metric)
    return PretrainingRun(training, scores, labels)


def read_arms(artifacts: Path, names: Sequence[str], repeats: Repeats) -> list[Arm]:
    """Read the outputs of stages in `artifacts` (finetune/, timing/, evaluate/) for the arms `names`.

    Repetitions that an arm's evaluation does not list are skipped for that arm.

    Raises:
        FrostlineError: a file is missing or damaged; the sentence names it and the stage to run again.
    """
    return [_read_arm(artifacts, name, repeats) for name in names]


def _read_arm(artifacts: Path, name: str, repeats: Repeats) -> Arm:
    scores_path = artifacts / "evaluate" / name / "metrics.json"
    with _checked_output(f"evaluate@{name}", scores_path):
        scores = _parsed(_Evaluation, scores_path).runs
        present = sorted(scores.keys() & set(repeats.all))
        if not present:
            raise ValueError(f"it has none of the {repeats.noun}s {repeats.listed(repeats.all)}")
        for repetition in present:
            measured = scores[repetition]
            parts = [measured.val, *([measured.test] if measured.test else [])]
            metric = headline(parts[0])
            if any(part.get(metric) is None for part in parts):
                raise ValueError(f"{repetition} has no {metric} on test or val")
    clock_path = artifacts / "timing" / f"{name}.json"
    with _checked_output(f"finetune@{name}", clock_path):
        clocks = _parsed(_Timing, clock_path).runs
        if untimed := set(present) - clocks.keys():
            raise ValueError(f"it has no {min(untimed)}")
    runs = {key: _read_run(artifacts, name, key, clocks[key], scores[key]) for key in present}
    with _checked_output(f"finetune@{name}", clock_path):
        for repetition, run in runs.items():
            if len(run.clock.epoch_seconds) < len(run.train_curve):
                times = len(run.clock.epoch_seconds)
                raise ValueError(f"{repetition} has {times} times for {len(run.train_curve)} epochs")
    return Arm(name, runs)


def _read_run(artifacts: Path, arm: str, repetition: Repetition, clock: Clock, scores: Scores) -> SeedRun:
    left = artifacts / "finetune" / arm / repetition.folder
    with _checked_output(f"finetune@{arm}", left / "history.csv"):
        rows = read_csv(left / "history.csv")
        if [row["epoch"] for row in rows] != [str(epoch) for epoch in range(len(rows))] or not rows:
            raise ValueError("its epochs are not 0, 1, 2, …")
        metric = headline(rows[0])
        val = [_share(row, f"val/{metric}") for row in rows]
        train = [_share(row, f"train/{metric}") for row in rows[1:]]
    with _checked_output(f"finetune@{arm}", left / "training.json"):
        training = _parsed(Training, left / "training.json")
    predicted = artifacts / "evaluate" / arm / repetition.folder / "predictions.csv"
    labels, predictions = _read_predictions(f"evaluate@{arm}", predicted, metric)
    return SeedRun(metric, train, val, training, clock, scores, labels, predictions)


def _read_predictions(stage: str, path: Path, metric: str) -> tuple[list[str], list[str]]:
    """Return the images' labels and predictions; with mAP, an image may have none."""
    with _checked_output(stage, path):
        images = read_csv(path)
        if not images:
            raise ValueError("it has no rows")
        if metric == MAP:
            return [row["labels"] for row in images], [row["predictions"] for row in images]
        return [_text(row, "label") for row in images], [_text(row, "prediction") for row in images]


def _share(row: dict[str, str], column: str) -> float:
    value = float(_text(row, column))
    if not 0 <= value <= 1:
        raise ValueError(f"epoch {row['epoch']} has {column} {value:g}, which is no {headline([column])}")
    return value


def _text(row: dict[str, str], column: str) -> str:
    if not (value := row[column]):
        raise ValueError(f"a cell of column {column} is empty")
    return value


_Model = TypeVar("_Model", bound=_StageOutput)


def _parsed(model: type[_Model], path: Path) -> _Model:
    return model.model_validate(read_json(path))


def _read_if_there(model: type[_Model], stage: str, path: Path) -> _Model | None:
    """Return the content of `path`, an output of `stage`; None: there is no such file."""
    if not path.is_file():
        return None
    with _checked_output(stage, path):
        return _parsed(model, path)


@contextmanager
def _checked_output(stage: str, path: Path) -> Iterator[None]:
    """Convert errors of reading `path`, an output of `stage`, into one sentence."""
    try:
        yield
    except (OSError, ValueError, KeyError, csv.Error) as error:
        found = "is missing" if not path.exists() else f"is damaged ({_reason(error, path)})"
        raise FrostlineError(f"{path} {found}: run its stage again, with `dvc repro {stage}`") from None


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, ValidationError):
        first: Any = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg'][0].lower()}{first['msg'][1:]}"
    if isinstance(error, KeyError):
        return f"it has no column {error.args[0]}"
    if isinstance(error, OSError):
        return str(error.strerror)
    return str(error).removeprefix(f"{path} ").partition(": run the stage")[0]
