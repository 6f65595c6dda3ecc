"""What a sweep leaves beside its runs: runs/sweeps/<name>/ with a table, pictures and a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from frostline.base.files import write_bytes, write_text
from frostline.base.formats import csv_text
from frostline.config.space import Space
from frostline.plotting.canvas import png
from frostline.schema import Sweep
from frostline.sweeps import page as sweep_page
from frostline.sweeps import plot as sweep_picture
from frostline.sweeps.plot import Shown
from frostline.sweeps.study import direction
from frostline.sweeps.trial import Trial

TRIALS, HISTORY, PARALLEL, PAGE = "trials.csv", "history.png", "parallel.png", "index.html"


def leave(
    name: str, trials: Sequence[Trial], space: Space, settings: Sweep, importances: Mapping[str, float]
) -> Path:
    """Write the table, the pictures and the page, and return their folder.

    Args:
        name: of the study.
        trials: those that were not killed.
        space: what they vary.
        settings: of the sweep.
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
    shown = [Shown(t.number, t.point, t.values[0] if t.state == "complete" else None) for t in trials]
    first = objectives[0]
    maximize = direction(first) == "maximize"
    write_bytes(folder / HISTORY, sweep_picture.history(shown, first, maximize=maximize, render=png))
    write_bytes(folder / PARALLEL, sweep_picture.parallel(shown, space.parameters, first, render=png))
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    given = (name, table, shown, space.parameters, importances, first)
    write_text(folder / PAGE, sweep_page.html(*given, maximize=maximize))
    return folder
