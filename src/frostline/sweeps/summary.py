"""The output of a sweep beside its runs: runs/sweeps/<name>/ with a table, plots and a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from frostline.base.files import write_bytes, write_text
from frostline.base.formats import csv_text
from frostline.base.metrics import ACCURACY, headline, headline_value
from frostline.config.space import Space
from frostline.plotting.canvas import png
from frostline.schema import Sweep
from frostline.sweeps import page, plot
from frostline.sweeps.best import Setting, hyperparameters, settings_of, shown
from frostline.sweeps.plot import PlottedTrial
from frostline.sweeps.study import direction
from frostline.sweeps.trial import RETRY_OF, Trial
from frostline.tracking.run_tags import REPEATED

TRIALS, HISTORY, PARALLEL, PAGE = "trials.csv", "history.png", "parallel.png", "index.html"


def write(
    name: str, trials: Sequence[Trial], space: Space, settings: Sweep, importances: Mapping[str, float]
) -> Path:
    """Write the table, the plots and the report; return their folder.

    Args:
        trials: those that no other trial repeats.
        importances: parameter → its importance for the first objective.
    """
    folder = Path("runs", "sweeps", name)
    first = settings.objectives[0]
    maximize = direction(first) == "maximize"
    keys = [parameter.key for parameter in space.parameters]
    objectives = [*settings.objectives]
    metric = next((headline(tested) for trial in trials if (tested := _tested(trial))), ACCURACY)
    columns = ["trial", "state", *keys, *objectives, f"test/{metric}", "seconds", "out", "reason"]
    rows = [
        [
            trial.number,
            trial.state,
            *(trial.point.get(key, "") for key in keys),
            *(map(str, trial.values) if trial.values else [""] * len(objectives)),
            _tested(trial).get(metric, ""),
            round(trial.seconds, 1),
            trial.user_attrs.get("out", ""),
            trial.user_attrs.get("reason", ""),
        ]
        for trial in trials
    ]
    write_text(folder / TRIALS, csv_text(columns, rows))
    plotted = [
        PlottedTrial(t.number, hyperparameters(t.point), t.values[0] if t.state == "complete" else None)
        for t in trials
    ]
    parameters = [parameter for parameter in space.parameters if parameter.key not in REPEATED]
    write_bytes(folder / HISTORY, plot.history(plotted, first, maximize=maximize, render=png))
    write_bytes(folder / PARALLEL, plot.parallel(plotted, parameters, first, render=png))
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    best = [_setting_row(setting) for setting in settings_of(trials, first)]
    again = [(t.user_attrs[RETRY_OF], t.number) for t in trials if RETRY_OF in t.user_attrs]
    results = page.Results(
        name, table, best, plotted, parameters, importances, first, maximize, metric, again
    )
    write_text(folder / PAGE, page.html(results))
    return folder


def _tested(trial: Trial) -> dict[str, float]:
    """Return a trial's metrics on the test split; empty if it has none."""
    tested: dict[str, float] = trial.user_attrs.get("metrics", {}).get("test", {})
    return tested


def _setting_row(setting: Setting) -> dict[str, Any]:
    """Return a row of the page's table of settings."""
    tested = [*map(headline_value, filter(None, map(_tested, setting.trials)))]
    return {
        "values": {key: shown(value) for key, value in setting.point.items()},
        "seeds": len(setting.trials),
        "mean": setting.objective["mean"],
        "std": setting.objective["std"] if len(setting.trials) > 1 else None,
        "test": fmean(tested) if tested else None,
        "seconds": fmean(trial.seconds for trial in setting.trials),
        "trial": setting.run.number,
        "out": setting.run.user_attrs.get("out", ""),
    }
