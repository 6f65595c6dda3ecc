"""The plot of a learning-rate range test: losses by learning rate, and the suggestions."""

from typing import TYPE_CHECKING

from frostline.plotting import theme
from frostline.plotting.canvas import DOTTED_LINE, new_figure, svg_file

if TYPE_CHECKING:
    from frostline.lr_finder.range_test import RangeTest


def draw(test: "RangeTest", title: str) -> bytes:
    """Return the plot as an SVG file."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    with new_figure(7.5, 4.0) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        axes.plot(test.rates, test.losses, ".", color=theme.BASELINE_COLOUR.light, alpha=0.5, markersize=4)
        axes.plot(test.rates, test.smooth, color=theme.ARMS[2].light, linewidth=1.8)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}".replace("e-0", "e-")))
        axes.xaxis.set_minor_locator(NullLocator())
        low, first = min(test.smooth), test.smooth[0]
        room = max(first - low, 0.1 * abs(first), 1e-6)
        # Losses of a divergence would flatten the rest of the curve.
        axes.set_ylim(low - 0.25 * room, max(first, low) + 0.6 * room)
        if test.suggestion:
            marks = (("steepest descent", test.suggestion.steepest), ("lowest / 10", test.suggestion.tenth))
            for place, (name, rate) in enumerate(marks):
                colour = theme.ARMS[(3, 0)[place]].light
                axes.axvline(rate, color=colour, label=f"{name}: {rate:g}", **DOTTED_LINE)
            axes.legend(frameon=False, loc="lower left")
        axes.set(title=title, xlabel="learning rate", ylabel="training loss")
        axes.grid(True, axis="y")
        return svg_file(figure)
