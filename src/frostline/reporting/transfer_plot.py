"""The main plot of a report: validation curves beside test accuracies and gains."""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from frostline.plotting import theme
from frostline.plotting.canvas import (
    DOTTED_LINE,
    TEXT_BACKGROUND,
    Style,
    epoch_axis,
    inches_high,
    new_figure,
    percent_axis,
    png,
    shortened,
    spread_apart,
    svg,
    write_text,
)
from frostline.reporting import words
from frostline.reporting.results import ArmSummary, Summary
from frostline.stats.transfer import BASELINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, PAPER = theme.INK.light, theme.SOFT.light, theme.PAPER.light
BASELINE_COLOUR = theme.BASELINE_COLOUR.light
BAND = 0.16
"""Opacity of an interval's band."""
BAR = 0.22
"""Opacity of a gain's bar."""
LONGEST_NAME = 14
"""Letters of an arm's name that fit beside the axes."""


FACT = 0.5
"""Inches from a number beside the curves to the next."""
LETTER = 0.075
"""Inches of a letter in the line below such a number."""


@dataclass(frozen=True)
class Layout:
    """Titles and positions of both halves: (left, bottom, width, height) in shares of the figure."""

    curves: tuple[float, float, float, float]
    bars: tuple[float, float, float, float]
    curves_title: str
    bars_title: str
    label_gap: float
    """Between the names at the curves' ends, share of the axes' height."""
    ticks: int
    """On the bars' axis, at most."""


def transfer_png(summary: Summary) -> bytes:
    """Return the plot with its headline, 2,400 pixels wide."""
    with new_figure(12, _height(summary)) as figure:
        width, height = figure.get_size_inches()
        left, colour = 0.2 / width, theme.OUTCOMES[summary.tone(summary.outcome)].light
        figure.text(left, 1 - 0.45 / height, summary.headline, fontsize=19, fontweight="bold", color=colour)
        figure.text(left, 1 - 0.78 / height, result_line(summary), fontsize=10.5, color=SOFT)
        _draw(figure, summary, _landscape(summary, height, above=1.38))
        return png(figure)


def transfer_svg(summary: Summary, *, portrait: bool) -> str:
    """Return the plot without headline for a page; `portrait` stacks its halves for a narrow screen."""
    description = (
        f"{summary.sentence} Validation {summary.metric} by epoch and {summary.reported} of each arm."
    )
    width, height = (4.4, _height(summary) + 2.4) if portrait else (12, _height(summary) - 0.96)
    with new_figure(width, height) as figure:
        layout = _portrait(summary, height) if portrait else _landscape(summary, height, above=0.42)
        _draw(figure, summary, layout)
        return svg(figure, "tall" if portrait else "wide", description)


def result_line(summary: Summary) -> str:
    """Return the numbers behind the headline in one line: arm, baseline, gain, interval, p, seeds."""
    arm, baseline = summary.chosen, summary.baseline
    if arm is None or baseline is None or arm.comparison is None:
        return "There is nothing to compare: a transfer needs an arm and its from-scratch baseline."
    gain = arm.comparison.gain
    own, base = (words.percent(summarized.score.mean) for summarized in (arm, baseline))
    parts = [f"{arm.name} {own} against {base} from scratch", f"gain {words.points(gain.mean)} points"]
    if between := words.gain_interval(gain):
        parts += [f"95 % interval {between}" if gain.std else between, words.p_value(gain.p)]
    return "  ·  ".join([*parts, summary.repeats.counted(gain.n)])


def _height(summary: Summary) -> float:
    return 5.5 + 0.4 * max(0, len(summary.arms) - 6)


def _landscape(summary: Summary, height: float, above: float) -> Layout:
    bottom = 0.62 / height
    tall = 1 - above / height - bottom
    repeats = summary.repeats
    several = len(repeats.all) > 1
    banded = words.listed([_name(arm) for arm in summary.arms if _has_band(summary, arm)])
    title = f"Mean validation {summary.metric}, and 95 % interval for {banded}"
    single = f"Validation {summary.metric} of a single {repeats.noun}"
    gain = f", and gain over {BASELINE} in points" if summary.baseline else ""
    return Layout(
        curves=(0.052, bottom, 0.395, tall),
        bars=(0.665, bottom, 0.165, tall),
        curves_title=title if several else single,
        bars_title=f"{_capital(summary.reported)}{gain}{' (95 % interval)' if several else ''}",
        label_gap=0.185 / (tall * height),
        ticks=5,
    )


def _portrait(summary: Summary, height: float) -> Layout:
    gain = f", and gain over {BASELINE} in points" if summary.baseline else ""
    bottom, middle = 0.5 / height, 0.52
    return Layout(
        curves=(0.125, middle, 0.6, 1 - 0.36 / height - middle),
        bars=(0.28, bottom, 0.28, middle - 1.0 / height - bottom),
        curves_title=f"Validation {summary.metric}",
        bars_title=f"{_capital(summary.reported)}{gain}",
        label_gap=0.19 / (height * (1 - middle) - 0.36),
        ticks=2,
    )


def _draw(figure: "Figure", summary: Summary, layout: Layout) -> None:
    _curves(figure.add_axes(layout.curves), summary, layout)
    _bars(figure.add_axes(layout.bars), summary, layout)


# ── validation accuracy by epoch ────────────────────────────────────────────────────────────────────────────


def _curves(axes: "Axes", summary: Summary, layout: Layout) -> None:
    """Draw each arm's curve with its interval, its name at the end, and the chosen arm's lead."""
    colours = theme.arm_colours([arm.name for arm in summary.arms])
    for arm in summary.arms:
        _curve(axes, arm, colours[arm.name].light)
        if _has_band(summary, arm):
            _band(axes, arm, colours[arm.name].light)
    values = [point.score.mean for arm in summary.arms for point in arm.curve]
    banded = [arm for arm in summary.arms if _has_band(summary, arm)]
    values += [end for arm in banded for interval in _intervals(arm) for end in interval]
    percent_axis(axes, max(0.0, min(values) - 0.03), min(1.0, max(values)) + 0.025)
    epoch_axis(axes, max(arm.epochs for arm in summary.arms))
    axes.set_xlabel("epochs of fine-tuning")
    axes.set_title(layout.curves_title)
    _names_at_ends(axes, summary, colours, layout.label_gap)
    _annotate_baseline(axes, summary)


def _curve(axes: "Axes", arm: ArmSummary, colour: str) -> None:
    epochs = [point.epoch for point in arm.curve]
    means = [point.score.mean for point in arm.curve]
    style: Style = {"linewidth": 2.2} if arm.epochs else {"linewidth": 1.6, "linestyle": (0, (4, 3))}
    axes.plot(epochs, means, color=colour, **style)
    axes.plot(epochs[:1], means[:1], color=colour, marker="o", markersize=5, clip_on=False)


def _has_band(summary: Summary, arm: ArmSummary) -> bool:
    """Return whether an arm's intervals are drawn: those of more than two arms would hide the curves."""
    return arm is summary.baseline or arm is summary.chosen


def _band(axes: "Axes", arm: ArmSummary, colour: str) -> None:
    intervals = _intervals(arm)
    if intervals:
        lows, highs = zip(*intervals, strict=True)
        epochs = [point.epoch for point in arm.curve]
        axes.fill_between(epochs, lows, highs, color=colour, alpha=BAND, linewidth=0)


def _intervals(arm: ArmSummary) -> list[tuple[float, float]]:
    """Return the interval of each epoch; [] if there is a single seed."""
    scores = [point.score for point in arm.curve]
    return [(s.low, s.high) for s in scores if s.low is not None and s.high is not None]


def _names_at_ends(axes: "Axes", summary: Summary, colours: dict[str, theme.Colour], gap: float) -> None:
    low, high = axes.get_ylim()
    ends = [(arm.curve[-1].score.mean - low) / (high - low) for arm in summary.arms]
    for arm, end, place in zip(summary.arms, ends, spread_apart(ends, gap), strict=True):
        colour = colours[arm.name].light
        leader: Style = {"color": colour, "linewidth": 0.8, "clip_on": False, "transform": axes.transAxes}
        axes.plot([1.0, 1.04], [end, place], **leader)
        weight = "bold" if arm is summary.chosen else "normal"
        write_text(axes, (1.05, place), _name(arm), color=colour, fontweight=weight, va="center")


def _annotate_baseline(axes: "Axes", summary: Summary) -> None:
    """Draw the baseline's best as a line, how much earlier the chosen arm reaches it, and its jumpstart."""
    baseline, arm, level = summary.baseline, summary.chosen, summary.baseline_best
    if baseline is None or level is None:
        return
    axes.axhline(level, color=BASELINE_COLOUR, zorder=1.5, **DOTTED_LINE)
    if (
        arm is None
        or arm.comparison is None
        or arm.epochs_to_baseline is None
        or baseline.epochs_to_baseline is None
    ):
        return
    earlier, own = arm.epochs_to_baseline.median, baseline.epochs_to_baseline.median
    if earlier is not None and own is not None and earlier < own:
        _arrow(axes, (own, level), (earlier, level))
    start, base = arm.curve[0].score.mean, baseline.curve[0].score.mean
    jumpstart = arm.comparison.jumpstart
    if jumpstart and start > base:
        _arrow(axes, (0, base), (0, start))
    inch = 1 / inches_high(axes)
    missed = words.missed(arm.epochs_to_baseline, summary.repeats.noun)
    facts = [_earlier_text(_name(arm), earlier, own, missed)]
    if jumpstart:
        facts.insert(0, (f"{words.points(jumpstart.mean)} points", "before any training"))
    low = _lowest_room(axes, summary, facts)
    for row, (number, meaning) in enumerate(reversed(facts)):
        y = low + (0.36 + FACT * row) * inch
        write_text(axes, (0.98, y), number, fontsize=12, fontweight="bold", ha="right", bbox=TEXT_BACKGROUND)
        write_text(
            axes, (0.98, y - 0.2 * inch), meaning, fontsize=9, color=SOFT, ha="right", bbox=TEXT_BACKGROUND
        )


def _lowest_room(axes: "Axes", summary: Summary, facts: list[tuple[str, str]]) -> float:
    """Return the lowest height, share of the axes, above which `facts` at the right cross no line; else 0."""
    assert summary.baseline_best is not None
    wide = axes.bbox.width / axes.figure.dpi
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    begin = right - (right - left) * LETTER * max(len(meaning) for _, meaning in facts) / wide
    points = [point for arm in summary.arms for point in arm.curve if point.epoch >= begin]
    values = [summary.baseline_best, *(point.score.mean for point in points)]
    lines = [0.0, *sorted((value - low) / (high - low) for value in values), 1.0]
    needed = (0.1 + FACT * len(facts)) / inches_high(axes)
    return next((start for start, end in pairwise(lines) if end - start >= needed), 0.0)


def _arrow(axes: "Axes", start: tuple[float, float], end: tuple[float, float]) -> None:
    style: Style = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=style, annotation_clip=False)


def _earlier_text(arm: str, earlier: float | None, own: float | None, missed: str) -> tuple[str, str]:
    if earlier is None:
        return "never", f"does {arm} match the baseline's best"
    number = words.counted_epochs(earlier)
    if own not in (None, earlier):
        number = f"{earlier:g} instead of {words.counted_epochs(own)}"
    return number, f"until {arm} matches the baseline's best{f', but not in {missed}' if missed else ''}"


# ── test accuracy ───────────────────────────────────────────────────────────────────────────────────────────


def _bars(axes: "Axes", summary: Summary, layout: Layout) -> None:
    """Draw a row per arm: a dot with its interval, and the gain as a bar from the baseline's accuracy."""
    colours = theme.arm_colours([arm.name for arm in summary.arms])
    # Arms that don't train may be far off; leaving them out keeps the gains of the others readable.
    accuracies = [arm.score for arm in summary.arms if arm.epochs or not summary.baseline]
    ends = [end for a in accuracies for end in (a.low, a.mean, a.high) if end is not None]
    margin = 0.06 * (max(ends) - min(ends)) + 0.005
    low, high = max(0.0, min(ends) - margin), min(1.0, max(ends) + margin)
    percent_axis(axes, low, high, along="x", ticks=layout.ticks)
    axes.set_ylim(len(summary.arms) - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_xlabel(summary.reported)
    axes.set_title(layout.bars_title, x=-0.54 if layout.ticks > 2 else -0.9)
    base = summary.baseline.score.mean if summary.baseline else None
    if base is not None:
        axes.axvline(base, color=BASELINE_COLOUR, **DOTTED_LINE)
    for row, arm in enumerate(summary.arms):
        _bar(axes, row, arm, base, colours[arm.name].light)
        _row_text(axes, row, arm, colours[arm.name].light, bold=arm is summary.chosen)


def _bar(axes: "Axes", row: int, arm: ArmSummary, base: float | None, colour: str) -> None:
    accuracy = arm.score
    if base is not None:
        axes.barh(row, accuracy.mean - base, left=base, height=0.44, color=colour, alpha=BAR, linewidth=0)
    if accuracy.low is not None and accuracy.high is not None:
        axes.plot([accuracy.low, accuracy.high], [row, row], color=colour, linewidth=2.4)
    low, high = axes.get_xlim()
    shown = min(max(accuracy.mean, low), high)
    shape = "<" if shown > accuracy.mean else ">" if shown < accuracy.mean else "o"
    dot: Style = {"marker": shape, "markersize": 8, "markeredgecolor": PAPER, "clip_on": False}
    axes.plot([shown], [row], color=colour, **dot)


def _row_text(axes: "Axes", row: int, arm: ArmSummary, colour: str, *, bold: bool) -> None:
    in_row: Style = {"in_rows": True, "va": "center"}
    weight = "bold" if bold else "normal"
    bottom, top = axes.get_ylim()
    inch = (bottom - top) / inches_high(axes)
    write_text(axes, (-0.07, row), _name(arm), color=colour, fontweight=weight, ha="right", **in_row)
    accuracy, gain = words.percent(arm.score.mean), arm.comparison.gain if arm.comparison else None
    place = (1.08, row - 0.09 * inch if gain else row)
    write_text(axes, place, accuracy, fontsize=11, fontweight=weight, **in_row)
    if gain:
        between = f" ({words.gain_interval(gain)})" if gain.n > 1 else ""
        place = (1.08, row + 0.12 * inch)
        write_text(axes, place, words.points(gain.mean) + between, fontsize=8.5, color=SOFT, **in_row)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]  # capitalize() would make map of mAP


def _name(arm: ArmSummary) -> str:
    return shortened(arm.name, LONGEST_NAME)
