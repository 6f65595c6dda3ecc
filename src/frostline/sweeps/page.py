"""A sweep as one HTML file that needs nothing else: the best, what mattered, and every trial's line."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frostline.config.space import Parameter
from frostline.plotting import theme
from frostline.plotting.canvas import new_figure, svg
from frostline.reporting import words
from frostline.sweeps import plot as sweep_picture
from frostline.sweeps.plot import Shown

HERE = Path(__file__).parent
ROWS = 50
"""Of the table: the best trials; trials.csv has all."""


def html(
    name: str,
    trials: Sequence[Mapping[str, Any]],
    shown: Sequence[Shown],
    parameters: Sequence[Parameter],
    importances: Mapping[str, float],
    objective: str,
    *,
    maximize: bool,
) -> str:
    """Return the page.

    Args:
        name: the study's.
        trials: the rows of trials.csv, column → cell.
        shown: the same trials, for the pictures.
        parameters: that vary.
        importances: parameter → share of the objective's variance.
        objective: the first.
        maximize: whether the larger is the better.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    def first(figure: Any) -> str:
        return svg(figure, "history", f"{objective} of each trial, and the best so far")

    def lines(figure: Any) -> str:
        return svg(figure, "parallel", f"each trial's settings and its {objective}")

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    trials = [{key: f"{v:.4g}" if isinstance(v, float) else v for key, v in row.items()} for row in trials]
    complete = [row for row in trials if row["state"] == "complete"]
    best = sorted(complete, key=lambda row: float(row[objective]), reverse=maximize)
    states = Counter(row["state"] for row in trials)
    return environment.get_template("page.html.j2").render(
        name=name,
        css=theme.style_sheet(),
        light=theme.css_variables("light"),
        dark=theme.css_variables("dark"),
        objective=objective,
        best=best[:ROWS],
        more=max(len(best) - ROWS, 0),
        failed=[row for row in trials if row["state"] == "failed"][:ROWS],
        keys=[parameter.key for parameter in parameters],
        counts=[(state, states[state]) for state in ("complete", "pruned", "failed")],
        seconds=words.seconds(sum(float(row["seconds"]) for row in trials)),
        history=sweep_picture.history(shown, objective, maximize=maximize, render=first),
        parallel=sweep_picture.parallel(shown, parameters, objective, render=lines),
        importance=importance(importances) if importances else "",
    )


def importance(importances: Mapping[str, float]) -> str:
    """Draw each parameter's share of the objective's variance.

    Returns:
        An SVG element.
    """
    keys = [*importances][::-1]
    with new_figure(8, 0.8 + 0.32 * len(keys)) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        shares = [100 * importances[key] for key in keys]
        bars = axes.barh(keys, shares, color=theme.ARMS[2].light, height=0.55)
        axes.bar_label(bars, [f"{share:.0f} %" for share in shares], padding=4, fontsize=9)
        axes.set(xlim=(0, 108), xticks=[], title="share of the objective's variance (fANOVA)")
        axes.spines["bottom"].set_visible(False)
        return svg(figure, "importance", "how much each parameter mattered")
