"""Configs of an experiment and of each stage of the pipeline."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from frostline.schema.data import Augment, Dataset, Input
from frostline.schema.network import Backbone, Weights
from frostline.schema.sweep import Sweep
from frostline.schema.training import (
    Adapter,
    Averaging,
    Features,
    Freeze,
    Loss,
    Optimizer,
    Regularizer,
    Trainer,
)
from frostline.schema.types import Seed, Strict


def _balanced_once(config: "Pretrain | Experiment | Run") -> Any:
    """Reject class weights with balanced sampling: both correct for class imbalance."""
    weights = getattr(config.loss, "class_weights", None)
    if weights is not None and config.trainer.sampling == "balanced":
        found = weights if isinstance(weights, str) else weights.model_dump()
        raise ValueError(
            f"loss.class_weights={found} and trainer.sampling=balanced both correct for class imbalance; set "
            "loss.class_weights=null or trainer.sampling=shuffle"
        )
    return config


class Pretrain(Strict):
    """Pretraining on the source data."""

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
    seed: Seed

    _balanced = model_validator(mode="after")(_balanced_once)


class Experiment(Strict):
    """Everything that Hydra composes: a transfer from `source` to `dataset`."""

    study: Annotated[str, Field(min_length=1)]
    """The name of the study, which groups runs in MLflow."""
    source: Dataset
    """The data set of `pretrain`."""
    dataset: Dataset
    """The data set of `finetune`, the target."""
    backbone: Backbone
    input: Input
    pretrain: Pretrain
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
    seed: Seed
    """The seed of a single run: of its shots, initial weights and batches."""
    seeds: Annotated[list[Seed], Field(min_length=1)]
    """The seeds of a study: each arm is run once per seed."""
    sweep: Sweep
    """The config of -m; single runs ignore it."""
    gate: dict[str, float]
    """Metric of report.json, dotted (arms.full.test.accuracy.mean) → the minimum that passes."""
    out: str | None
    """Folder for the results of a single run; null: runs/<stage>/<name>."""

    _balanced = model_validator(mode="after")(_balanced_once)


class Run(Strict):
    """The config of training: a `pretrain`, or an arm's `finetune` for each seed."""

    study: str
    stage: Literal["pretrain", "finetune"]
    arm: str | None
    """The arm of the study; null outside one."""
    freeze_name: str
    """The name of the schedule in conf/freeze, for display."""
    dataset: Dataset
    backbone: Backbone
    input: Input
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
    seeds: Annotated[list[Seed], Field(min_length=1)]

    _balanced = model_validator(mode="after")(_balanced_once)


class Prepare(Strict):
    """The config of `prepare`."""

    dataset: Dataset


class Omitted(Strict):
    """The config of an omitted stage."""

    omitted: str
    """The reason."""


class Evaluate(Strict):
    """The config of evaluating an arm."""

    study: str
    arm: str
    dataset: Dataset
    seeds: Annotated[list[Seed], Field(min_length=1)]
    trainer: Trainer


class Report(Strict):
    """The config of `report`."""

    study: str
    arms: Annotated[list[str], Field(min_length=1)]
    """In the order of the report; the others are compared with `scratch`, the from-scratch baseline."""
    seeds: Annotated[list[Seed], Field(min_length=1)]
    monitor: Literal["val/accuracy", "val/loss"]
    gate: dict[str, float]
