"""What an experiment is, and what each stage of the pipeline needs of it."""

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
    """Class weights and balanced sampling each even the classes out: both would correct them twice."""
    weights = getattr(config.loss, "class_weights", None)
    if weights is not None and config.trainer.sampling == "balanced":
        found = weights if isinstance(weights, str) else weights.model_dump()
        raise ValueError(
            f"loss.class_weights={found} and trainer.sampling=balanced both even the classes out; set "
            "loss.class_weights=null or trainer.sampling=shuffle"
        )
    return config


class Pretrain(Strict):
    """How the network is trained on the source data."""

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
    """Runs of one study lie together in MLflow."""
    source: Dataset
    """What `pretrain` learns from."""
    dataset: Dataset
    """What `finetune` learns from: the target."""
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
    """Of a single run: draws the shots, the weights and the batches."""
    seeds: Annotated[list[Seed], Field(min_length=1)]
    """Of a study's arms: each arm is run once a seed."""
    sweep: Sweep
    """Of -m; a single run has no use for it."""
    gate: dict[str, float]
    """Metric of report.json, dotted (arms.full.test.accuracy.mean) → the least value that passes."""
    out: str | None
    """Folder for the results of a single run; null: runs/<stage>/<name>."""

    _balanced = model_validator(mode="after")(_balanced_once)


class Run(Strict):
    """What one stage trains: a `pretrain`, or an arm's `finetune` once for each seed."""

    study: str
    stage: Literal["pretrain", "finetune"]
    arm: str | None
    """The arm of the study; null outside one."""
    freeze_name: str
    """The name of the schedule in conf/freeze, for people to read."""
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
    """What `prepare` reads."""

    dataset: Dataset


class Omitted(Strict):
    """What stands for a stage that a study does without."""

    omitted: str
    """Why."""


class Evaluate(Strict):
    """What `evaluate` needs to know of a study's arm."""

    study: str
    arm: str
    dataset: Dataset
    seeds: Annotated[list[Seed], Field(min_length=1)]
    trainer: Trainer


class Report(Strict):
    """What `report` compares."""

    study: str
    arms: Annotated[list[str], Field(min_length=1)]
    """In the order in which the report shows them; `scratch` is the twin that the others are held against."""
    seeds: Annotated[list[Seed], Field(min_length=1)]
    monitor: Literal["val/accuracy", "val/loss"]
    gate: dict[str, float]
