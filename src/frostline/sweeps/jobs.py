"""Run a sweep's jobs, and what became of them."""

from collections.abc import Sequence
from typing import Any

from frostline.base.metrics import headline
from frostline.comparison.ranking import ordered
from frostline.config import compose
from frostline.config.compose import FailedJob
from frostline.console import signals
from frostline.console.errors import FrostlineError, TrainingFailed
from frostline.pipeline.standalone import Done, Job


def run(stage: str, overrides: Sequence[str], *, force: bool = False, fresh: bool = False) -> list[Any]:
    """Run every combination of the overrides' lists, or the trials of the chosen sampler.

    Args:
        stage: pretrain or finetune.
        force: overwrite runs with other configs.
        fresh: start over instead of resuming the sweep.

    Returns:
        A `standalone.Done`, `compose.FailedJob` or `standalone.Stopped` for each trial, in the sweep's order.

    Raises:
        FrostlineError: a combination is invalid; before anything runs.
    """
    from frostline.probing import batched_finetune

    batched = {"run_batched": batched_finetune.finetune} if stage == "finetune" else {}
    with signals.interruptible():  # A launcher has workers to end.
        return compose.multirun(overrides, Job(stage, force, reuse=not fresh), **batched, fresh=fresh)


def settings_of(jobs: Sequence[Any]) -> list[list[Done]]:
    """Return the finished runs of each setting, which differ in their seeds only, the best setting first."""
    groups: dict[str, list[Done]] = {}
    for run in jobs:
        if isinstance(run, Done):
            groups.setdefault(run.setting or run.name, []).append(run)
    if not groups:
        return []
    return ordered(objective_of(next(iter(groups.values()))[0]), groups.values(), objective_value)


def best_first(jobs: Sequence[Any]) -> list[Done]:
    """Return the finished runs, those of the best setting first."""
    return [run for runs in settings_of(jobs) for run in runs]


def objective_of(run: Done) -> str:
    """Return what the sweep of a run optimizes, such as ``val/accuracy``."""
    return run.objective or f"val/{headline(run.metrics['val'])}"


def objective_value(run: Done) -> float:
    """Return a run's value of the sweep's objective."""
    split, _, name = objective_of(run).partition("/")
    return run.metrics[split][name]


def check(jobs: Sequence[Any]) -> None:
    """Raise an error if runs failed.

    Raises:
        FrostlineError: some runs failed; TrainingFailed if the training of one did.
    """
    failed = [job for job in jobs if isinstance(job, FailedJob)]
    if failed:
        sentences = "\n".join(f"{failure.label}: {failure.error}" for failure in failed)
        broke_down = any(isinstance(failure.error, TrainingFailed) for failure in failed)
        kind = TrainingFailed if broke_down else FrostlineError
        raise kind(f"{len(failed)} of {len(jobs)} runs failed\n{sentences}")
