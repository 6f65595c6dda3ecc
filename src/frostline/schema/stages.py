"""Configs of an experiment and of each stage of the pipeline."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from frostline.base.metrics import monitors
from frostline.base.repetitions import Repetition, repetitions
from frostline.schema.data import (
    Augment,
    Channels,
    Dataset,
    HuggingFace,
    ImageFolder,
    Input,
    is_multi_label,
)
from frostline.schema.measurement import Measurement, Tta
from frostline.schema.network import Backbone, Weights, needs_pretraining
from frostline.schema.sweep import Sweep
from frostline.schema.training import (
    Adapter,
    Averaging,
    Features,
    Freeze,
    Loss,
    Monitor,
    Optimizer,
    Plateau,
    Reaches,
    Regularizer,
    Trainer,
)
from frostline.schema.types import PathText, Seed, Strict

Folds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class Hyperparameters(Strict):
    """Initial weights and all hyperparameters of one training."""

    weights: Weights
    freeze: Freeze
    optimizer: Optimizer
    loss: Loss
    adapter: Adapter
    regularizer: Regularizer
    averaging: Averaging
    augment: Augment
    features: Features
    trainer: Trainer

    @model_validator(mode="after")
    def _balanced_once(self) -> Self:
        """Reject class weights with balanced sampling: both correct for class imbalance."""
        weights = getattr(self.loss, "class_weights", None)
        if weights is not None and self.trainer.sampling == "balanced":
            value = weights if isinstance(weights, str) else weights.model_dump()
            raise ValueError(
                f"loss.class_weights={value} and trainer.sampling=balanced both correct for class imbalance;"
                " set loss.class_weights=null or trainer.sampling=shuffle"
            )
        return self


class Pretrain(Hyperparameters):
    """Pretraining on the source data."""

    seed: Seed
    """The seed of the pretraining."""

    @model_validator(mode="after")
    def _starts(self) -> Self:
        """Reject the weights of a pretraining that would have to run before this one."""
        if needs_pretraining(self.weights):
            raise ValueError(
                "weights=pretrain needs another pretraining; set pretrain.weights to none, imagenet or file"
            )
        return self


def check_selection(dataset: Dataset, config: Hyperparameters, keys: tuple[str, str]) -> None:
    """Reject what chooses an epoch or α on images, if `selection: last` provides none for that.

    Args:
        dataset: the data set to train on.
        config: how to train.
        keys: prefixes of the keys of `dataset` and `config`, for errors.

    Raises:
        ValueError: the schedule waits for a metric or restores the best epoch, or WiSE-FT chooses α.
    """
    if dataset.selection != "last":
        return
    place, prefix = keys
    found = None
    for number, phase in enumerate(config.freeze.phases):
        key = f"{prefix}freeze.phases.{number}"
        if isinstance(phase.until, Plateau | Reaches):
            metric = getattr(phase.until, "plateau", None) or getattr(phase.until, "reaches", None)
            found = f"{key}.until waits for {metric}", "give the phase a length, such as 30%"
        elif phase.restore == "best":
            found = f"{key}.restore=best needs that choice", "set restore: none"
        if found:
            break
    alphas = getattr(config.averaging, "alphas", [])
    if found is None and len(alphas) > 1:
        fix = f"set {prefix}averaging.alphas to one value"
        found = f"{prefix}averaging chooses among {len(alphas)} alphas", fix
    if found:
        raise ValueError(
            f"{place}.selection: found 'last', with which no images choose the epoch, but {found[0]};"
            f" {found[1]}, or set {place}.selection=within or {place}.selection=held_out"
        )


def check_task(dataset: Dataset, config: Hyperparameters, keys: tuple[str, str]) -> None:
    """Reject a loss, a metric or a sampling that does not fit the number of labels per image.

    Args:
        dataset: the data set to train on.
        config: how to train.
        keys: prefixes of the keys of `dataset` and `config`, for errors.
    """
    place, prefix = keys
    several, loss = is_multi_label(dataset), config.loss.kind
    task = f"{place}.task is {'multi_label' if several else 'single_label'}"
    if several != (loss == "bce"):
        fix = f"{prefix}loss={'bce' if several else 'cross_entropy'}"
        raise ValueError(
            f"{prefix}loss.kind={loss} is for {'one label' if several else 'several labels'} per image, and"
            f" {task}; set {fix}{'' if several else f', or {place}.task=multi_label'}"
        )
    measured = monitors(several_labels=several)
    metrics = {"trainer.monitor": config.trainer.monitor}
    for number, phase in enumerate(config.freeze.phases):
        for kind in ("plateau", "reaches"):
            if (metric := getattr(phase.until, kind, None)) is not None:
                metrics[f"freeze.phases.{number}.until.{kind}"] = metric
    for key, metric in metrics.items():
        if metric in get_args(Monitor) and metric not in measured:
            right = f"{', '.join(measured[:-1])} or {measured[-1]}"
            raise ValueError(
                f"{prefix}{key}={metric} is not measured after each epoch if {task}; set {right}"
            )
    if several and config.trainer.sampling == "balanced":
        raise ValueError(
            f"{prefix}trainer.sampling=balanced draws images by their one label, and {task}; set"
            f" {prefix}trainer.sampling=shuffle, and {prefix}loss.pos_weight=balanced for rare labels"
        )


def check_apart(out: str, dataset: Dataset, key: str) -> None:
    """Reject an output folder that is the data set's, contains it, or is among its images.

    Args:
        key: that of the data set, for errors.
    """
    folder = Path(os.path.realpath(out))
    for name in ("root", "file", "path"):
        typed = getattr(dataset, name, None)
        if typed is None:
            continue
        data = Path(os.path.realpath(Path(typed).expanduser()))
        inside = isinstance(dataset, ImageFolder | HuggingFace) and folder.is_relative_to(data)
        if inside or data.is_relative_to(folder):
            relation = "is" if data == folder else "is inside" if inside else "contains"
            raise ValueError(
                f"out: {out} {relation} {key}.{name}={typed}; name a folder apart from the data set"
            )


# Pydantic orders fields by base class, the last one first: written configs begin with names and data.


class _Transfer(Strict):
    study: Annotated[str, Field(min_length=1)]
    """The name of the study, which groups runs in MLflow."""
    source: Dataset
    """The data set of `pretrain`."""
    dataset: Dataset
    """The data set of `finetune`, the target."""
    backbone: Backbone
    input: Input
    pretrain: Pretrain


class Experiment(Hyperparameters, _Transfer):
    """Everything that Hydra composes: a transfer from `source` to `dataset`."""

    seed: Seed
    """The seed of a single run: of its shots, initial weights and batches."""
    seeds: Annotated[list[Seed], Field(min_length=1)]
    """The seeds of a study: each arm is run once per seed."""
    folds: Folds | None = None
    """The folds of a study: each arm is run once per fold and seed; null: all of `dataset.folds`."""
    evaluate: Measurement | None = None
    """How single runs, and the arms of a study, are measured after training; null: without test-time
    augmentation."""
    sweep: Sweep
    """The config of -m; single runs ignore it."""
    gate: dict[str, float]
    """Path of a metric in report.json, such as arms.full.test.accuracy.mean → lowest value that passes."""
    out: PathText | None
    """Folder for the results of a single run; null: runs/<stage>/<name>."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for check in (check_task, check_selection):
            check(self.dataset, self, ("dataset", ""))
            check(self.source, self.pretrain, ("source", "pretrain."))
        if self.out is not None:
            for key in ("dataset", "source"):
                check_apart(self.out, getattr(self, key), key)
        return self


class _Task(Strict):
    study: str
    stage: Literal["pretrain", "finetune"]
    arm: str | None
    """The arm of the study; null outside one."""
    freeze_name: str
    """The name of the schedule in conf/freeze, for display."""
    dataset: Dataset
    backbone: Backbone
    input: Input


class Run(Hyperparameters, _Task):
    """The config of one training run, a `pretrain` or a `finetune`."""

    seed: Seed
    evaluate: Measurement | None = None
    """How it is measured after the training; null: without test-time augmentation. The stage evaluate
    measures the arms of a study."""

    @property
    def tta(self) -> Tta:
        """The test-time augmentation that it is measured with."""
        return self.evaluate.tta if self.evaluate else None

    def with_tta(self, tta: Tta) -> Self:
        """Return the config with another test-time augmentation."""
        return self.model_copy(update={"evaluate": Measurement(tta=tta) if tta else None})

    @model_serializer(mode="wrap")
    def _without_measurement(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a null `evaluate`: configs without it keep their bytes."""
        data: dict[str, Any] = serialize(self)
        return {key: value for key, value in data.items() if value is not None or key != "evaluate"}

    @model_validator(mode="before")
    @classmethod
    def _one_seed(cls, data: Any) -> Any:
        """Read the config.yaml of earlier runs, which has `seeds: [0]`."""
        match data:
            case {"seeds": [seed], **rest} if "seed" not in rest:
                return {**rest, "seed": seed}
        return data

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_task(self.dataset, self, ("dataset", ""))
        check_selection(self.dataset, self, ("dataset", ""))
        return self


class _Repeated(Strict):
    """A config of several runs."""

    @model_serializer(mode="wrap")
    def _without_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out null keys of later versions, so that earlier configs keep their bytes."""
        data: dict[str, Any] = serialize(self)
        later = ("folds", "dataset_folds", "tta", "freeze")
        return {key: value for key, value in data.items() if value is not None or key not in later}


class Arm(_Repeated, Hyperparameters, _Task):
    """The config of a study's arm: one `finetune` per seed, or per fold and seed."""

    seeds: Annotated[list[Seed], Field(min_length=1)]
    folds: Folds | None = None
    """The folds of a cross-validation; null: none, or `dataset.fold` alone."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_task(self.dataset, self, ("dataset", ""))
        return self

    def runs(self) -> dict[Repetition, Run]:
        """Return the config of each run, fold by fold."""
        shared = {name: getattr(self, name) for name in Run.model_fields if name in Arm.model_fields}
        made = {}
        for repetition in repetitions(self.seeds, self.folds):
            if repetition.fold is not None:
                shared["dataset"] = self.dataset.model_copy(update={"fold": repetition.fold})
            made[repetition] = Run(**shared, seed=repetition.seed)
        return made


class Prepare(Strict):
    """The config of `prepare`."""

    dataset: Dataset
    channels: Channels | None = None
    """Channels of image files that are neither grey nor RGB; null: they are grey or RGB."""
    depth: Literal[16] | None = None
    """Bits per channel of image files that are read with more than 8; null: 8."""

    @classmethod
    def of(cls, dataset: Dataset, pixels: Input) -> Self:
        """Return the config for a data set as an input reads it, without its label budget."""
        return cls(
            dataset=dataset.without_budget(),
            channels=None if pixels.channels in (1, 3) else pixels.channels,
            depth=16 if pixels.depth == 16 else None,
        )


class Leakage(Strict):
    """The config of comparing the source with the target."""

    source: Prepare
    target: Prepare


class Omitted(Strict):
    """The config of an omitted stage."""

    omitted: str
    """The reason."""


class Evaluate(_Repeated):
    """The config of evaluating an arm."""

    study: str
    arm: str
    dataset: Dataset
    seeds: Annotated[list[Seed], Field(min_length=1)]
    trainer: Trainer
    folds: Folds | None = None
    """As the arm's."""
    tta: Tta = None
    """Test-time augmentation."""


class StudySetup(Strict):
    """What the arms of a study share, for the report."""

    source: str | None
    """Name of the data set that is pretrained on; null: nothing is pretrained."""
    target: str
    """Name of the data set that is fine-tuned on."""
    weights: str
    """The initial weights of the arms but the baseline: pretrain, imagenet, or a file."""
    backbone: str
    input_size: int | list[int] | None
    """Pixels, or height and width; null: as the network needs it."""
    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    weight_decay: float


class Report(_Repeated):
    """The config of `report`."""

    study: str
    arms: Annotated[list[str], Field(min_length=1)]
    """In the order of the report; the others are compared with `scratch`, the from-scratch baseline."""
    seeds: Annotated[list[Seed], Field(min_length=1)]
    monitor: Monitor
    gate: dict[str, float]
    folds: Folds | None = None
    """The folds that the arms are run on; null: none."""
    dataset_folds: int | None = None
    """The number of folds that the data set has."""
    freeze: str | None = None
    """The arm whose schedule params.yaml selects, for curves.csv; null: not known."""
    setup: StudySetup | None = None
    """null: not known."""
