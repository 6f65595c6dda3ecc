"""The best setting of a sweep, and its best run as an experiment: conf/experiment/<study>-best.yaml.

A seed is not a hyperparameter: settings are compared by their means over seeds (`comparison.ranking`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from frostline.base import project
from frostline.base.files import write_text
from frostline.base.formats import yaml_text
from frostline.base.metrics import Spread, spread
from frostline.comparison.ranking import ordered
from frostline.config import compose
from frostline.config.compose import SweepJob
from frostline.config.space import Point, Value
from frostline.console.errors import FrostlineError
from frostline.reporting import words
from frostline.schema import Experiment, Sweep, needs_pretraining
from frostline.sweeps.trial import BATCHED, Trial
from frostline.tracking.run_tags import REPEATED

SWEEP_GROUPS = ("experiment", "sweep")
"""Config groups that are not written to the experiment."""
MOST_ROWS = 20
"""Settings in the table of a sweep's run in MLflow."""


@dataclass(frozen=True)
class Setting:
    """The complete trials that differ only in `REPEATED`: seeds and fold."""

    trials: tuple[Trial, ...]
    """One per repetition, the best first."""

    @property
    def point(self) -> Point:
        """The values that the trials share."""
        return hyperparameters(self.trials[0].point)

    @property
    def values(self) -> list[float]:
        """The first objective of each trial."""
        return [trial.values[0] for trial in self.trials]

    @property
    def objective(self) -> Spread:
        """Mean, standard deviation and number of the `values`."""
        return spread(self.values)

    @property
    def run(self) -> Trial:
        """The trial that stands for the setting: its best one."""
        return self.trials[0]


def hyperparameters(point: Point) -> Point:
    """Return the values of a point that are hyperparameters."""
    return {key: value for key, value in point.items() if key not in REPEATED}


def settings_of(trials: Sequence[Trial], objective: str) -> list[Setting]:
    """Return the settings that have complete trials, the best first.

    `comparison.ranking.ordered` breaks ties in the objective, between settings and between trials.

    Args:
        trials: in the order of their numbers. Of several with the same hyperparameters, seed and fold the
            first that was trained on its own counts, else the first of a batch.
        objective: the sweep's first.
    """
    groups: dict[tuple[tuple[str, str], ...], dict[tuple[str, ...], Trial]] = {}
    for trial in trials:
        if trial.state == "complete":
            key = tuple(sorted((name, str(value)) for name, value in hyperparameters(trial.point).items()))
            alike = groups.setdefault(key, {})
            seed = tuple(str(trial.point.get(name, "")) for name in REPEATED)
            if seed not in alike or (BATCHED in alike[seed].user_attrs and BATCHED not in trial.user_attrs):
                alike[seed] = trial
    settings = ordered(
        objective,
        (alike.values() for alike in groups.values()),
        value=lambda trial: trial.values[0],
        trial=lambda trial: None if BATCHED in trial.user_attrs else trial.number,
    )
    return [Setting(tuple(alike)) for alike in settings]


def best_of(trials: Sequence[Trial], sweep: Sweep) -> Trial | None:
    """Return the best trial of the setting that is best in the first objective; None: none is complete."""
    found = settings_of(trials, sweep.objectives[0])
    return found[0].run if found else None


def write(name: str, stage: str, settings: Sequence[Setting], job: SweepJob) -> Path | None:
    """Write the experiment that repeats the best run of the best setting to the byte.

    Args:
        stage: the command that runs the experiment.
        settings: those of the study, the best first; at least one.
        job: the best run's experiment.

    Returns:
        The file; None if the project has no folder of configs to write to.
    """
    folder = project.writable_conf()
    if folder is None:
        return None
    path = folder / "experiment" / f"{name}-best.yaml"
    header = f"# @package _global_\n{_described(name, settings)}# frostline {stage} experiment={path.stem}\n"
    choices = {group: option for group, option in job.choices.items() if group not in SWEEP_GROUPS}
    pretrains = stage != "finetune" or needs_pretraining(job.composed.weights)
    write_text(path, header + _experiment(choices, _values(job.composed, pretrains), pretrains))
    if not _composes_to(path.stem, job, pretrains):
        write_text(
            path,
            header + yaml_text({"defaults": _overrides(choices), **_values(job.composed, pretrains=True)}),
        )
    return path


def _experiment(choices: Mapping[str, str], values: Mapping[str, Any], pretrains: bool) -> str:
    """Return an experiment in YAML: what differs from frostline's own config files.

    Values from config files of the project are written in full, since those files may change.

    Args:
        values: of the config.
        pretrains: whether the job needs a pretraining; otherwise its config is left out.
    """
    used = {
        group: option
        for group, option in choices.items()
        if pretrains or not (group == "dataset@source" or "@pretrain." in group)
    }
    plain = yaml.safe_load(compose.composed_yaml([f"{group}={option}" for group, option in used.items()]))
    for group, option in used.items():
        name, _, package = group.partition("@")
        if any((folder / name / f"{option}.yaml").exists() for folder in project.conf_dirs()[:-1]):
            *above, last = (package or name).split(".")
            section = plain
            for step in above:
                section = section[step]
            section[last] = None
    _, usual = compose.experiment([])
    changed = {group: option for group, option in used.items() if usual.get(group) != option}
    return yaml_text({"defaults": _overrides(changed), **_difference(plain, values)})


def _overrides(choices: Mapping[str, str]) -> list[dict[str, str]]:
    return [{f"override /{group}": option} for group, option in choices.items()]


def _values(composed: Experiment, pretrains: bool) -> dict[str, Any]:
    """Return the values of an experiment, those of the pretraining only if it `pretrains`."""
    excluded = {"sweep", "out"} | (set() if pretrains else {"source", "pretrain"})
    values: dict[str, Any] = json.loads(composed.model_dump_json(exclude=excluded))
    return values


def _difference(plain: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested values that differ from `plain`; a key that `plain` lacks counts as null there."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        before = plain.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            if inner := _difference(before, value):
                found[key] = inner
        elif _without_null(before) != _without_null(value):
            found[key] = value
    return found


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
    return [_without_null(inner) for inner in value] if isinstance(value, list) else value


def _composes_to(name: str, job: SweepJob, pretrains: bool) -> bool:
    """Return whether composing the experiment `name` gives the job's config."""
    try:
        composed, choices = compose.experiment([f"experiment={name}"])
    except FrostlineError:
        return False
    names = ["freeze", *(["freeze@pretrain.freeze"] if pretrains else [])]
    return _values(composed, pretrains) == _values(job.composed, pretrains) and all(
        choices[group] == job.choices[group] for group in names
    )


def sentence(objective: str, settings: Sequence[Setting]) -> str:
    """Say which setting is the best, and at what value of the objective."""
    best = settings[0]
    values = ", ".join(f"{key}={shown(value)}" for key, value in best.point.items())
    over = f", mean of {len(best.trials)} runs" if len(best.trials) > 1 else ""
    result = f"{objective} {best.objective['mean']:.4f}{over}"
    return f"Best of {len(settings)} configurations: {values or 'no value varied'}, {result}."


def markdown_table(objective: str, settings: Sequence[Setting]) -> str:
    """Return a Markdown table of the best configurations, and their means of the objective."""
    keys = list(dict.fromkeys(key for setting in settings for key in setting.point))
    rows = [
        [
            *(shown(setting.point.get(key, "")) for key in keys),
            f"{setting.objective['mean']:.4f}",
            str(len(setting.trials)),
            str(setting.run.user_attrs.get("out", "")),
        ]
        for setting in settings[:MOST_ROWS]
    ]
    return words.markdown_table([[*keys, objective, "runs", "best run"], *rows])


def shown(value: Value) -> str:
    """Return a value of a hyperparameter, numbers with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _described(name: str, settings: Sequence[Setting]) -> str:
    """Return comment lines that name the setting and the run that an experiment repeats."""
    best = settings[0]
    of = f"# The best of {len(settings)} configurations of the sweep {name}"
    trial = f"trial {best.run.number}, at {best.run.values[0]:.4f}"
    values = " ".join(f"{key}={value}" for key, value in best.point.items())
    varied = f"# What the sweep varied: {values}\n" if values else ""
    if max(len(setting.trials) for setting in settings) == 1:
        return f"{of}: {trial}.\n{varied}"
    mean = f"{best.objective['mean']:.4f}, mean of {len(best.trials)} runs"
    return f"{of}: {mean}.\n# Its best run: {trial}.\n{varied}"
