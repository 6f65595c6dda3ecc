"""Pictures of a sweep: how the best got better, and which settings lead where."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

from frostline.config.space import Interval, Parameter, Value, Values
from frostline.plotting import theme
from frostline.plotting.canvas import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")

WIDE = 20
"""Numbers whose largest is so many times the smallest lie by their logarithm."""
NAMED = 12
"""Values of a list up to which each is named."""


@dataclass(frozen=True)
class Shown:
    """A trial to draw."""

    number: int
    point: dict[str, Value]
    value: float | None
    """Of the objective; None: it was pruned or failed."""


def history(trials: Sequence[Shown], objective: str, *, maximize: bool, render: Callable[["Figure"], T]) -> T:
    """Draw the objective by trial, and the best so far; trials without a value are ticks on the axis.

    Returns:
        What `render` makes of the figure, such as `canvas.png`.
    """
    from matplotlib.ticker import MaxNLocator

    done = [(trial.number, trial.value) for trial in trials if trial.value is not None]
    numbers, values = zip(*done, strict=True) if done else ((), ())
    best = [*accumulate(values, max if maximize else min)]
    with new_figure(8, 4) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        axes.plot(numbers, best, color=theme.ARMS[2].light, drawstyle="steps-post", linewidth=1.6)
        axes.plot(numbers, values, "o", color=theme.BASELINE_COLOUR.light, markersize=4, alpha=0.8)
        lost = [trial.number for trial in trials if trial.value is None]
        axes.plot(lost, [0.0] * len(lost), "|", color=theme.SOFT.light, transform=axes.get_xaxis_transform())
        axes.set(title=f"{objective}, and the best so far", xlabel="trial")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(True, axis="y")
        return render(figure)


def parallel(
    trials: Sequence[Shown],
    parameters: Sequence[Parameter],
    objective: str,
    *,
    render: Callable[["Figure"], T],
) -> T:
    """Draw a line for each trial through its settings to its objective, which gives it its colour.

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
        for trial, value in sorted(done, key=lambda each: each[1]):
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
"""Value → height from 0 to 1; and what is written at which height."""


def _scale(parameter: Parameter) -> Scale:
    match parameter.domain:
        case Interval(low, high, log):
            return _numbers(low, high, log=log), [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
        case Values(options):
            numbers = _as_numbers(options)
            if numbers and len(set(numbers)) > 1:
                low, high = min(numbers), max(numbers)
                height = _numbers(low, high, log=low > 0 and high / low > WIDE)
                return height, [(height(number), f"{number:.3g}") for number in numbers[:NAMED]]
            step = 1 / max(len(options) - 1, 1)
            names = [(i * step, name) for i, name in enumerate(options)]
            return lambda value: options.index(str(value)) * step, names[:NAMED]


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
        axes.text(place + 0.04, height, name, fontsize=8, color=theme.SOFT.light, va="center")
