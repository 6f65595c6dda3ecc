"""The plot of a run's plan: learning rates of groups and trained sections of the network by step."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from frostline.plotting import theme
from frostline.plotting.canvas import DOTTED_LINE, new_figure, png, svg_file, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

WIDTH = 9.0
"""Inches."""
RATES_HEIGHT, ROW_HEIGHT, LEAST_ROWS_HEIGHT, REST_HEIGHT = 2.6, 0.24, 0.9, 1.55
"""Inches: learning rates, a section of the network, all sections (minimum), titles and axis."""
LEGEND_ROW, LEGEND_SIGN = 0.2, 0.9
"""Inches: height of a row of the legend, and width of a group's line sample with margins."""
LEGEND_SIZE, LABEL_SIZE = 9.5, 8.5
"""Points."""
LONGEST_NAME = 40
"""Maximum characters of a group's name."""
MOST_NAMED_ROWS = 24
"""Maximum number of sections that are labelled."""
LEAST_STRIPE = 0.2
"""Minimum fraction of a section's row that a group fills."""
DIP = 30.0
"""The axis starts at the slowest group's highest rate divided by this, since some curves end at 0."""
MARGIN = 1.6
"""Factor between the learning rates and the ends of the axis."""
FEW_DECADES = 300.0
"""Range of the axis below which one tick per decade is too few."""
DASHES = ((0, ()), (0, (4, 4)), (0, (1.5, 2.5)), (0, (6, 3, 1.5, 3)))
"""Dash patterns of the groups in turn, so that lines of equal learning rates are both visible."""

HATCHED: dict[str, Any] = {
    "facecolor": "none",
    "edgecolor": theme.SOFT.light,
    "hatch": "///",
    "alpha": 0.35,
    "linewidth": 0,
}
"""Style of frozen sections that run only once."""

Plan = Mapping[str, Any]
"""The data of `plan.Plan.as_data`, as in plan.json."""


def draw(plan: Plan, suffix: str = ".png") -> bytes:
    """Return the plot of a plan as a file.

    Args:
        suffix: ``.png`` or ``.svg``.
    """
    with new_figure(*size(plan)) as figure:
        fill(figure, plan)
        return svg_file(figure) if suffix == ".svg" else png(figure)


def size(plan: Plan) -> tuple[float, float]:
    """Return the width and height of the plot in inches."""
    legend = LEGEND_ROW * math.ceil(len(plan["groups"]) / _columns(plan))
    return WIDTH, RATES_HEIGHT + _rows_height(plan) + REST_HEIGHT + legend


def fill(figure: "Figure", plan: Plan) -> None:
    """Draw the plot on an empty figure."""
    figure.set_layout_engine("constrained")
    heights = [RATES_HEIGHT, _rows_height(plan)]
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": heights})
    _rates(top, plan)
    _thaw(bottom, plan)
    _title(figure, plan)
    _phases((top, bottom), plan)


def _rows_height(plan: Plan) -> float:
    return max(ROW_HEIGHT * len(plan["sections"]), LEAST_ROWS_HEIGHT)


def _styles(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return colour, dashes and width of each group's line; later lines are thinner and drawn on top."""
    return {
        group["name"]: {
            "color": theme.ARMS[i % len(theme.ARMS)].light,
            "linestyle": DASHES[i % len(DASHES)],
            "linewidth": max(3.4 - 0.6 * i, 1.4),
        }
        for i, group in enumerate(plan["groups"])
    }


def _title(figure: "Figure", plan: Plan) -> None:
    from matplotlib.lines import Line2D

    length = "nothing trains"
    if plan["phases"]:
        most = "at most " if plan["phases"][-1]["ends"].startswith("early") else ""
        length = f"{most}{plan['epochs']} epochs of {plan['images']:,} images"
    title = f"freeze={plan['freeze']} on {plan['backbone']}, {plan['dataset']}: {length}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11.5)
    styles = _styles(plan)
    lines = [Line2D([], [], **style) for style in styles.values()]
    figure.legend(
        lines,
        _names(plan),
        loc="outside lower left",
        ncols=_columns(plan),
        frameon=False,
        handlelength=3.2,
        fontsize=LEGEND_SIZE,
        title="groups of layers",
        title_fontsize=9,
        alignment="left",
    )


def _rates(axes: "Axes", plan: Plan) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_title("learning rate", color=theme.SOFT.light, pad=22)
    _lines(axes, plan)
    axes.yaxis.set_major_locator(NullLocator())
    if plan["phases"]:
        low, high = _limits(plan)
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3) if high / low < FEW_DECADES else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}".replace("e-0", "e-")))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(True, axis="y")


def _lines(axes: "Axes", plan: Plan) -> None:
    """Draw the learning rate of each group that trains as a line, or as a band with layer decay."""
    styles = _styles(plan)
    for phase in plan["phases"]:
        steps = [*phase["course"]["steps"], phase["first_step"] + phase["steps"]]
        for group, style in styles.items():
            if group not in phase["course"]["rates"]:
                continue
            low, high = zip(*phase["course"]["rates"][group], strict=True)
            # Each learning rate lasts until the next step, the last one until the end of the phase.
            low, high = (*low, low[-1]), (*high, high[-1])
            axes.plot(steps, high, **style)
            if low != high:
                axes.plot(steps, low, **{**style, "linewidth": 1.0})
                axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _limits(plan: Plan) -> tuple[float, float]:
    """Set the range of the axis to the learning rates; see `DIP` for curves that end at 0."""
    rates = [rates for phase in plan["phases"] for rates in phase["course"]["rates"].values()]
    peak = min(max(low for low, _ in course) for course in rates)
    lowest = min(low for course in rates for low, _ in course)
    return max(peak / DIP, lowest / MARGIN), max(high for course in rates for _, high in course) * MARGIN


def _thaw(axes: "Axes", plan: Plan) -> None:
    """A row for each section, the input's lowest; what trains is filled in its group's colour.

    Frozen sections are grey, and those that run once only, if all goes as expected, are hatched.
    """
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator, NullLocator

    sections = plan["sections"]
    end = _end(plan)
    styles = _styles(plan)
    axes.set_xlim(0, end)
    axes.set_ylim(0, len(sections))
    for row, section in enumerate(sections):
        for group, low, high in _stripes(section["groups"]):
            place = row + 0.06 + 0.88 * low
            height = 0.88 * (high - low)
            axes.add_patch(
                Rectangle((0, place), end, height, color=theme.LINE.light, alpha=0.55, linewidth=0)
            )
            for phase in plan["phases"]:
                if group in phase["trains"]:
                    corner = (phase["first_step"], place)
                    colour = styles[group]["color"]
                    axes.add_patch(Rectangle(corner, phase["steps"], height, color=colour, linewidth=0))
        for phase in plan["phases"]:
            if phase["features"] and section["name"] in phase["features"]["sections"]:
                corner = (phase["first_step"], row + 0.06)
                axes.add_patch(Rectangle(corner, phase["steps"], 0.88, **HATCHED))
    if len(sections) <= MOST_NAMED_ROWS:
        axes.set_yticks([row + 0.5 for row in range(len(sections))], [s["name"] for s in sections])
    else:
        axes.yaxis.set_major_locator(NullLocator())
        axes.set_ylabel("input → head")
    hatched = any(phase["features"] for phase in plan["phases"])
    axes.set_title(
        "what trains (hatched: frozen, runs once)" if hatched else "what trains", color=theme.SOFT.light
    )
    axes.spines["bottom"].set_visible(False)
    if not plan["phases"]:
        axes.xaxis.set_major_locator(NullLocator())
        return
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
    steps = {phase["steps"] / phase["epochs"] for phase in plan["phases"]}
    per_epoch = f" ({round(steps.pop())} an epoch)" if len(steps) == 1 else ""
    axes.set_xlabel(f"optimizer steps{per_epoch}")


def _stripes(groups: Mapping[str, int]) -> Iterator[tuple[str, float, float]]:
    """Yield (group, from, to): the part of a row for each group, by its parameters, none too thin to see."""
    total = sum(groups.values())
    heights = {group: max(count / total, LEAST_STRIPE) for group, count in groups.items()}
    low = 0.0
    for group, height in heights.items():
        high = low + height / sum(heights.values())
        yield group, low, high
        low = high


def _phases(both: Sequence["Axes"], plan: Plan) -> None:
    """Mark the start of each phase, with a label as long as there is room for."""
    phases = plan["phases"]
    for phase in phases:
        if phase["index"]:
            for axes in both:
                axes.axvline(phase["first_step"], color=theme.SOFT.light, **DOTTED_LINE)
    top = both[0]
    for phase in phases:
        room = phase["steps"] / _end(plan) * WIDTH * 0.86
        early = "" if phase["ends"].startswith("on time") else phase["ends"].split(", and")[0]
        name = f"phase {phase['index']}"
        texts = [f"{name}, {early}", f"{name}, at most"] if early else []
        texts += [name, str(phase["index"])]
        label = top.annotate(
            texts[0],
            (phase["first_step"], 1),
            (3, 6),
            xycoords=top.get_xaxis_transform(),
            textcoords="offset points",
            fontsize=LABEL_SIZE,
            color=theme.SOFT.light,
        )
        _fit(label, texts, room)


def _fit(label: "Text", texts: Sequence[str], room: float) -> None:
    """Set `label` to the first of `texts` that is at most `room` inches wide, if any."""
    for text in texts:
        if text_width(text, LABEL_SIZE) + 0.1 <= room:
            label.set_text(text)
            return
    label.set_text("")


def _names(plan: Plan) -> list[str]:
    """Return the names of the groups, truncated if they are very long."""
    names = [str(group["name"]) for group in plan["groups"]]
    return [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in names]


def _columns(plan: Plan) -> int:
    """Return the number of columns of the legend."""
    widest = LEGEND_SIGN + max(text_width(name, LEGEND_SIZE) for name in _names(plan))
    return min(max(1, int(WIDTH / widest)), len(plan["groups"]))


def _end(plan: Plan) -> int:
    """Return the last step of the run; 1 if nothing trains."""
    return max((phase["first_step"] + phase["steps"] for phase in plan["phases"]), default=1)
