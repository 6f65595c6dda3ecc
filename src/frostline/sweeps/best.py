"""The best trial of a sweep as an experiment of its own: conf/experiment/<study>-best.yaml."""

from collections.abc import Sequence
from pathlib import Path

from frostline.base import project
from frostline.base.files import write_text
from frostline.base.formats import yaml_text
from frostline.config.compose import SweepJob
from frostline.schema import Sweep
from frostline.sweeps.study import direction
from frostline.sweeps.trial import BATCHED, Trial

SWEEP_GROUPS = ("experiment", "sweep")
"""Config groups that are not written to the experiment."""


def best_of(trials: Sequence[Trial], settings: Sweep) -> Trial | None:
    """Return the complete trial that is best in the first objective; None: no trial is complete.

    Of equal trials, the first that was not trained in a batch, which can be repeated to the byte.
    """
    sign = 1 if direction(settings.objectives[0]) == "maximize" else -1
    complete = [trial for trial in trials if trial.state == "complete"]

    def rank(trial: Trial) -> tuple[float, bool, int]:
        return sign * trial.values[0], BATCHED not in trial.user_attrs, -trial.number

    return max(complete, key=rank, default=None)


def write(name: str, stage: str, trial: Trial, trials: int, job: SweepJob) -> Path | None:
    """Write the experiment that repeats a trial to the byte.

    Args:
        stage: the command that runs the experiment.
        trial: the study's best trial.
        trials: the number of the study's trials.

    Returns:
        The file; None if the project has no folder of configs to write to.
    """
    folder = project.writable_conf()
    if folder is None:
        return None
    path = folder / "experiment" / f"{name}-best.yaml"
    chosen = [
        {f"override /{group}": option} for group, option in job.choices.items() if group not in SWEEP_GROUPS
    ]
    header = (
        "# @package _global_\n"
        f"# The best of {trials} trials of the sweep {name}:"
        f" number {trial.number}, at {trial.values[0]:.4f}.\n"
        f"# frostline {stage} experiment={path.stem}\n"
    )
    content = {"defaults": chosen, **job.composed.model_dump(exclude={"sweep", "out"})}
    write_text(path, header + yaml_text(content))
    return path
