"""The output of a sweep beside its runs: runs/sweeps/<name>/ with a table, plots and a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from frostline.base.files import write_bytes, write_text
from frostline.base.formats import csv_text
from frostline.config.space import Space
from frostline.plotting.canvas import png
from frostline.schema import Sweep
from frostline.sweeps import page, plot
from frostline.sweeps.plot import PlottedTrial
from frostline.sweeps.study import direction
from frostline.sweeps.trial import Trial

TRIALS, HISTORY, PARALLEL, PAGE = "trials.csv", "history.png", "parallel.png", "index.html"


def write(
    name: str, trials: Sequence[Trial], space: Space, settings: Sweep, importances: Mapping[str, float]
) -> Path:
    """Write the table, the plots and the report; return their folder.

    Args:
        trials: those that no other trial repeats.
        importances: parameter → share of the first objective's variance.
    """
    folder = Path("runs", "sweeps", name)
    keys = [parameter.key for parameter in space.parameters]
    objectives = [*settings.objectives]
    columns = ["trial", "state", *keys, *objectives, "test/accuracy", "seconds", "out", "reason"]
    rows = [
        [
            trial.number,
            trial.state,
            *(trial.point.get(key, "") for key in keys),
            *(map(str, trial.values) if trial.values else [""] * len(objectives)),
            trial.user_attrs.get("metrics", {}).get("test", {}).get("accuracy", ""),
            round(trial.seconds, 1),
            trial.user_attrs.get("out", ""),
            trial.user_attrs.get("reason", ""),
        ]
        for trial in trials
    ]
    write_text(folder / TRIALS, csv_text(columns, rows))
    plotted = [
        PlottedTrial(t.number, t.point, t.values[0] if t.state == "complete" else None) for t in trials
    ]
    first = objectives[0]
    maximize = direction(first) == "maximize"
    write_bytes(folder / HISTORY, plot.history(plotted, first, maximize=maximize, render=png))
    write_bytes(folder / PARALLEL, plot.parallel(plotted, space.parameters, first, render=png))
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    results = page.Results(name, table, plotted, space.parameters, importances, first, maximize)
    write_text(folder / PAGE, page.html(results))
    return folder
