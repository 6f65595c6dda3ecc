"""Plots of a sweep: optimization history and parallel coordinates."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

from frostline.config.space import Interval, Parameter, Value, Values
from frostline.plotting import theme
from frostline.plotting.canvas import TEXT_BACKGROUND, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")

LOG_RATIO = 20
"""A list of numbers is drawn on a log scale if the largest is more than this many times the smallest."""
LABELLED_VALUES = 12
"""Of a list of values, the first ones are labelled, up to this number."""


@dataclass(frozen=True)
class PlottedTrial:
    """A trial in a plot."""

    number: int
    point: dict[str, Value]
    """Its setting: all values but the seed."""
    value: float | None
    """The objective; None: the trial was pruned or failed."""


def history(
    trials: Sequence[PlottedTrial], objective: str, *, maximize: bool, render: Callable[["Figure"], T]
) -> T:
    """Draw the objective of each trial and the best mean of a configuration so far.

    Trials without a value are ticks on the axis.

    Returns:
        What `render` makes of the figure, such as `canvas.png`.
    """
    from matplotlib.ticker import MaxNLocator

    done = [(trial.number, trial.value) for trial in trials if trial.value is not None]
    numbers, values = zip(*done, strict=True) if done else ((), ())
    best = _best_so_far([trial for trial in trials if trial.value is not None], max if maximize else min)
    with new_figure(8, 4) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        axes.plot(numbers, best, color=theme.ARMS[2].light, drawstyle="steps-post", linewidth=1.6)
        axes.plot(numbers, values, "o", color=theme.BASELINE_COLOUR.light, markersize=4, alpha=0.8)
        lost = [trial.number for trial in trials if trial.value is None]
        axes.plot(lost, [0.0] * len(lost), "|", color=theme.SOFT.light, transform=axes.get_xaxis_transform())
        axes.set(title=f"{objective}, and the best configuration so far", xlabel="trial")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(True, axis="y")
        return render(figure)


def _best_so_far(trials: Sequence[PlottedTrial], best: Callable[..., float]) -> list[float]:
    """Return, after each trial, the best mean of a configuration so far; NaN before the first.

    A configuration counts from its last trial on: the mean of some of its seeds may be better than that of
    all.
    """
    settings = [str(sorted(trial.point.items())) for trial in trials]
    counts, values = Counter(settings), dict[str, list[float]]()
    line, so_far = [], math.nan
    for trial, setting in zip(trials, settings, strict=True):
        values.setdefault(setting, []).append(trial.value or 0.0)
        if len(values[setting]) == counts[setting]:
            mean = fmean(values[setting])
            so_far = mean if math.isnan(so_far) else best(so_far, mean)
        line.append(so_far)
    return line


def parallel(
    trials: Sequence[PlottedTrial],
    parameters: Sequence[Parameter],
    objective: str,
    *,
    render: Callable[["Figure"], T],
) -> T:
    """Draw a line for each trial through its parameters to its objective, which sets the colour.

    Returns:
        What `render` makes of the figure, such as `canvas.png`.
    """
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    done = [(trial, trial.value) for trial in trials if trial.value is not None]
    values = [value for _, value in done]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    shade = Normalize(low, high if high > low else low + 1)
    scales = [_scale(parameter) for parameter in parameters]
    with new_figure(max(6.0, 1.6 * (len(parameters) + 1)), 4.5) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        for trial, value in sorted(done, key=lambda pair: pair[1]):
            heights = [
                scale(trial.point[parameter.key]) if parameter.key in trial.point else math.nan
                for parameter, (scale, _) in zip(parameters, scales, strict=True)
            ]
            colour = colormaps["viridis"](shade(value))
            heights.append(float(shade(value)))
            axes.plot(range(len(heights)), heights, color=colour, linewidth=1.2, alpha=0.8)
        for place, (_, names) in enumerate(scales):
            _axis(axes, place, names)
        _axis(axes, len(scales), [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")])
        keys = [parameter.key for parameter in parameters]
        axes.set_xticks(range(len(keys) + 1), [*keys, objective], color=theme.INK.light)
        axes.set(ylim=(-0.05, 1.05), xlim=(-0.35, len(keys) + 0.5), yticks=[])
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="x", length=0)
        return render(figure)


Scale = tuple[Callable[[Value], float], list[tuple[float, str]]]
"""Value → height from 0 to 1; and the labels by height."""


def _scale(parameter: Parameter) -> Scale:
    match parameter.domain:
        case Interval(low, high, log):
            return _numbers(low, high, log=log), [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
        case Values(options):
            numbers = _as_numbers(options)
            if numbers and len(set(numbers)) > 1:
                low, high = min(numbers), max(numbers)
                height = _numbers(low, high, log=low > 0 and high / low > LOG_RATIO)
                return height, [(height(number), f"{number:.3g}") for number in numbers[:LABELLED_VALUES]]
            step = 1 / max(len(options) - 1, 1)
            names = [(i * step, name) for i, name in enumerate(options)]
            return lambda value: options.index(str(value)) * step, names[:LABELLED_VALUES]


def _numbers(low: float, high: float, *, log: bool) -> Callable[[Value], float]:
    if log:
        return lambda value: math.log(float(value) / low) / math.log(high / low)
    return lambda value: (float(value) - low) / (high - low)


def _as_numbers(options: Sequence[str]) -> list[float]:
    try:
        return [float(option) for option in options]
    except ValueError:
        return []


def _axis(axes: "Axes", place: int, names: Sequence[tuple[float, str]]) -> None:
    axes.axvline(place, color=theme.LINE.light, linewidth=1.2, zorder=0)
    for height, name in names:
        background = TEXT_BACKGROUND
        axes.text(
            place + 0.04, height, name, fontsize=8, color=theme.SOFT.light, va="center", bbox=background
        )
