"""The config of each stage, derived from an experiment."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, get_args

from frostline.console.errors import FrostlineError
from frostline.console.progress import say_once
from frostline.schema import Arm, Dataset, Evaluate, Experiment, Hyperparameters, Prepare, Run


def prepare_config(composed: Experiment, role: str) -> Prepare:
    """Return the config of `prepare` for the source or target, without its label budget."""
    dataset = composed.source if role == "source" else composed.dataset
    return Prepare.of(dataset, composed.input)


@contextmanager
def keys_of(role: str) -> Iterator[None]:
    """Name the keys of the source as users type them in the errors of the block: `source.root`.

    A stage's config has one data set, whose keys are below `dataset` in errors.
    """
    try:
        yield
    except FrostlineError as error:
        if role == "source":
            error.args = (_dataset_key().sub("source", str(error)), *error.args[1:])
        raise


@cache
def _dataset_key() -> re.Pattern[str]:
    """Return a pattern for `dataset` where a key or a choice of it follows, rather than a file's ending."""
    union, _ = get_args(Dataset)
    keys = {key for kind in get_args(union) for key in kind.model_fields}
    return re.compile(rf"(?<![\w./@-])dataset(?=\.(?:{'|'.join(sorted(keys))})\b|=|:)")


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
    measured = composed.evaluate if composed.evaluate and composed.evaluate.tta else None
    return Run(**_finetuning(composed, choices, None), seed=composed.seed, evaluate=measured)


def arm_config(composed: Experiment, choices: Mapping[str, str], arm: str) -> Arm:
    """Return the config of an experiment's fine-tuning, as an arm of its study, on all folds or one."""
    return Arm(**_finetuning(composed, choices, arm), seeds=composed.seeds, folds=study_folds(composed))


def evaluate_config(arm: Arm, composed: Experiment) -> Evaluate:
    """Return the config of evaluating an arm of an experiment."""
    assert arm.arm is not None
    return Evaluate(
        study=arm.study,
        arm=arm.arm,
        dataset=arm.dataset,
        seeds=arm.seeds,
        trainer=arm.trainer,
        folds=arm.folds,
        tta=composed.evaluate.tta if composed.evaluate else None,
    )


def study_folds(composed: Experiment) -> list[int] | None:
    """Return the folds that a study's arms are run on; None: the data set has none, or `dataset.fold` is one.

    Raises:
        FrostlineError: `folds` names folds that the data set does not have.
    """
    count, chosen = composed.dataset.folds, composed.folds
    if chosen is None:
        return None if count is None or composed.dataset.fold is not None else list(range(count))
    if count is None:
        raise FrostlineError(f"folds: found {chosen}, but dataset.folds is null; set it, or folds=null")
    if composed.dataset.fold is not None:
        raise FrostlineError(
            f"folds: found {chosen}, but dataset.fold={composed.dataset.fold} is one fold; set one of the "
            "two to null"
        )
    if max(chosen) >= count or len(set(chosen)) < len(chosen):
        raise FrostlineError(
            f"folds: found {chosen}; dataset.folds={count} allows each of 0 to {count - 1} once"
        )
    return sorted(chosen)


def at_first_fold(composed: Experiment, stage: str = "finetune") -> Experiment:
    """Return an experiment for a command that shows or measures one run: at fold 0, unless a fold is chosen.

    Args:
        stage: pretrain or finetune.
    """
    key = "source" if stage == "pretrain" else "dataset"
    dataset: Dataset = getattr(composed, key)
    if dataset.folds is None or dataset.fold is not None:
        return composed
    say_once(f"frostline: {key}.fold=0 is used, of {dataset.folds} folds")
    return composed.model_copy(update={key: dataset.model_copy(update={"fold": 0})})


def _check_fold(dataset: Dataset, key: str) -> None:
    """Refuse a run without a fold on a data set with folds."""
    if dataset.folds is not None and dataset.fold is None:
        every = ",".join(map(str, range(dataset.folds)))
        command = "pretrain" if key == "source" else "finetune"
        raise FrostlineError(
            f"{key}.fold: null, and {key}.folds={dataset.folds}; set {key}.fold=0, or run all folds with "
            f"frostline {command} -m {key}.fold={every}"
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
