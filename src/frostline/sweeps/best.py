"""The best trial of a sweep as an experiment of its own: conf/experiment/<study>-best.yaml."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from frostline.base import project
from frostline.base.files import write_text
from frostline.base.formats import yaml_text
from frostline.schema import Experiment, Sweep
from frostline.sweeps.study import direction
from frostline.sweeps.trial import BATCHED, Trial

OWN = ("experiment", "sweep")
"""Groups of which a run keeps nothing."""


def best_of(trials: Sequence[Trial], settings: Sweep) -> Trial | None:
    """Return the complete trial that is best in the first objective; None: none is.

    Of equals the first that was run alone, and so can be repeated to the byte.
    """
    sign = 1 if direction(settings.objectives[0]) == "maximize" else -1
    complete = [trial for trial in trials if trial.state == "complete"]

    def rank(trial: Trial) -> tuple[float, bool, int]:
        return sign * trial.values[0], BATCHED not in trial.user_attrs, -trial.number

    return max(complete, key=rank, default=None)


def write(
    name: str, stage: str, trial: Trial, of: int, composed: Experiment, choices: Mapping[str, str]
) -> Path | None:
    """Write the experiment that repeats a trial to the byte.

    Args:
        name: the study's.
        stage: the command that runs it.
        trial: its best.
        of: so many.
        composed: the trial's experiment.
        choices: the option chosen in each group.

    Returns:
        The file; None where the project has no configs of its own, among which it would lie.
    """
    folder = project.find_root() / "conf"
    if not folder.is_dir():
        return None
    path = folder / "experiment" / f"{name}-best.yaml"
    chosen = [{f"override /{group}": option} for group, option in choices.items() if group not in OWN]
    header = (
        "# @package _global_\n"
        f"# The best of {of} trials of the sweep {name}: number {trial.number}, at {trial.values[0]:.4f}.\n"
        f"# frostline {stage} experiment={path.stem}\n"
    )
    content = {"defaults": chosen, **composed.model_dump(exclude={"sweep", "out"})}
    write_text(path, header + yaml_text(content))
    return path
