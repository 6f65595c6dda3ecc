"""The report of a sweep as one self-contained HTML file."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.base.metrics import ACCURACY
from frostline.config.space import Parameter
from frostline.console import units
from frostline.plotting import theme
from frostline.plotting.canvas import new_figure, svg
from frostline.plotting.templates import page
from frostline.sweeps import plot
from frostline.sweeps.plot import PlottedTrial

TEMPLATE = Path(__file__).parent / "page.html.j2"
ROWS = 50
"""The best configurations in the table; trials.csv has all trials."""


@dataclass(frozen=True)
class Results:
    """The results of a sweep, as its report shows them."""

    name: str
    """The study's name."""
    rows: Sequence[Mapping[str, Any]]
    """Of trials.csv: column → cell."""
    best: Sequence[Mapping[str, Any]]
    """A row per configuration, the best first."""
    plotted: Sequence[PlottedTrial]
    """The same trials, for the plots."""
    parameters: Sequence[Parameter]
    """The search space, without the seed."""
    importances: Mapping[str, float]
    """Parameter → its importance for the objective."""
    objective: str
    """The first."""
    maximize: bool
    """Whether the objective is maximized."""
    metric: str = ACCURACY
    """The metric on the test split: accuracy or mAP."""
    again: Sequence[tuple[int, int]] = ()
    """Trials that were interrupted or failed, and those that repeated them."""


def html(results: Results) -> str:
    """Return the page."""

    def history(figure: Any) -> str:
        return svg(figure, "history", f"{results.objective} of each trial, and the best configuration so far")

    def parallel(figure: Any) -> str:
        return svg(figure, "parallel", f"each trial's parameters and its {results.objective}")

    rows = [
        {key: f"{v:.4g}" if isinstance(v, float) else v for key, v in row.items()} for row in results.rows
    ]
    states = Counter(row["state"] for row in rows)
    return page(
        TEMPLATE,
        name=results.name,
        objective=results.objective,
        metric=results.metric,
        again=[f"{lost} as {number}" for lost, number in results.again[:ROWS]],
        best=results.best[:ROWS],
        more=max(len(results.best) - ROWS, 0),
        seeds=max((row["seeds"] for row in results.best), default=0) > 1,
        failed=[row for row in rows if row["state"] == "failed"][:ROWS],
        keys=[parameter.key for parameter in results.parameters],
        counts=[(state, states[state]) for state in ("complete", "pruned", "failed")],
        seconds=units.seconds(sum(float(row["seconds"]) for row in rows)),
        history=plot.history(results.plotted, results.objective, maximize=results.maximize, render=history),
        parallel=plot.parallel(results.plotted, results.parameters, results.objective, render=parallel),
        importance=importance(results.importances) if results.importances else "",
    )


def importance(importances: Mapping[str, float]) -> str:
    """Draw each parameter's importance; return an SVG element."""
    keys = [*importances][::-1]
    with new_figure(8, 0.8 + 0.32 * len(keys)) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        shares = [100 * importances[key] for key in keys]
        bars = axes.barh(keys, shares, color=theme.ARMS[2].light, height=0.55)
        axes.bar_label(bars, [f"{share:.0f} %" for share in shares], padding=4, fontsize=9)
        axes.set(xlim=(0, 108), xticks=[], title="relative to each other, without the seed (fANOVA)")
        axes.spines["bottom"].set_visible(False)
        return svg(figure, "importance", "importance of each parameter")
