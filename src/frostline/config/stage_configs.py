"""The config of each stage, derived from an experiment."""

from collections.abc import Mapping, Sequence

from frostline.config.overrides import PRETRAIN_GROUPS
from frostline.schema import Evaluate, Experiment, Prepare, Run


def prepare_config(composed: Experiment, role: str) -> Prepare:
    """Return the config of `prepare` for the source or target; a label budget is not part of its config."""
    dataset = composed.source if role == "source" else composed.dataset
    return Prepare(dataset=dataset.model_copy(update={"shots": None, "fraction": None}))


def pretrain_config(composed: Experiment, choices: Mapping[str, str]) -> Run:
    """Return the config of an experiment's pretraining."""
    return Run(
        study=composed.study,
        stage="pretrain",
        arm=None,
        freeze_name=choices.get("freeze@pretrain.freeze", "full"),
        dataset=composed.source,
        backbone=composed.backbone,
        input=composed.input,
        seeds=[composed.pretrain.seed],
        **{name: getattr(composed.pretrain, name) for name in PRETRAIN_GROUPS},
    )


def finetune_config(
    composed: Experiment,
    choices: Mapping[str, str],
    arm: str | None = None,
    seeds: Sequence[int] | None = None,
) -> Run:
    """Return the config of an experiment's fine-tuning: a run, or with `arm` and `seeds` an arm."""
    return Run(
        study=composed.study,
        stage="finetune",
        arm=arm,
        freeze_name=choices.get("freeze", "full"),
        dataset=composed.dataset,
        backbone=composed.backbone,
        input=composed.input,
        seeds=list(seeds) if seeds is not None else [composed.seed],
        **{name: getattr(composed, name) for name in PRETRAIN_GROUPS},
    )


def evaluate_config(run: Run) -> Evaluate:
    """Return the config of evaluating an arm."""
    assert run.arm is not None
    return Evaluate(study=run.study, arm=run.arm, dataset=run.dataset, seeds=run.seeds, trainer=run.trainer)
