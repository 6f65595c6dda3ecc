"""The config of each stage, derived from an experiment."""

from collections.abc import Mapping
from typing import Any

from frostline.console.errors import FrostlineError
from frostline.schema import Arm, Dataset, Evaluate, Experiment, Hyperparameters, Prepare, Run


def prepare_config(composed: Experiment, role: str) -> Prepare:
    """Return the config of `prepare` for the source or target; a label budget is not part of its config."""
    dataset = composed.source if role == "source" else composed.dataset
    return Prepare.of(dataset, composed.input)


def pretrain_config(composed: Experiment, choices: Mapping[str, str]) -> Run:
    """Return the config of an experiment's pretraining."""
    _check_fold(composed.source, "source")
    return Run(
        study=composed.study,
        stage="pretrain",
        arm=None,
        freeze_name=choices.get("freeze@pretrain.freeze", "full"),
        dataset=composed.source,
        backbone=composed.backbone,
        input=composed.input,
        seed=composed.pretrain.seed,
        **_hyperparameters(composed.pretrain),
    )


def finetune_config(composed: Experiment, choices: Mapping[str, str]) -> Run:
    """Return the config of an experiment's fine-tuning, as a single run."""
    _check_fold(composed.dataset, "dataset")
    return Run(**_finetuning(composed, choices, None), seed=composed.seed)


def arm_config(composed: Experiment, choices: Mapping[str, str], arm: str) -> Arm:
    """Return the config of an experiment's fine-tuning, as an arm of its study, on one fold."""
    _check_fold(composed.dataset, "dataset")
    return Arm(**_finetuning(composed, choices, arm), seeds=composed.seeds)


def evaluate_config(arm: Arm) -> Evaluate:
    """Return the config of evaluating an arm."""
    assert arm.arm is not None
    return Evaluate(study=arm.study, arm=arm.arm, dataset=arm.dataset, seeds=arm.seeds, trainer=arm.trainer)


def _check_fold(dataset: Dataset, key: str) -> None:
    """Refuse a run without a fold on a data set with folds."""
    if dataset.folds is not None and dataset.fold is None:
        every = ",".join(map(str, range(dataset.folds)))
        raise FrostlineError(
            f"{key}.fold: null, and {key}.folds={dataset.folds}; set {key}.fold=0, or run all folds with "
            f"-m {key}.fold={every}"
        )


def _finetuning(composed: Experiment, choices: Mapping[str, str], arm: str | None) -> dict[str, Any]:
    return {
        "study": composed.study,
        "stage": "finetune",
        "arm": arm,
        "freeze_name": choices.get("freeze", "full"),
        "dataset": composed.dataset,
        "backbone": composed.backbone,
        "input": composed.input,
        **_hyperparameters(composed),
    }


def _hyperparameters(config: Hyperparameters) -> dict[str, Any]:
    return {name: getattr(config, name) for name in Hyperparameters.model_fields}
