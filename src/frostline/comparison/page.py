"""A comparison of runs as rows of text, Markdown, CSV, and an HTML page with a plot."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.base.formats import csv_text
from frostline.base.keys import named_value, suffixes
from frostline.base.metrics import ACCURACY, MAJORITY, MAP, WITHOUT_TTA
from frostline.comparison.statistics import UNSET, Comparison, Configuration, is_share
from frostline.console import units
from frostline.plotting import theme
from frostline.plotting.canvas import new_figure, percent_axis, shortened, svg, svg_file
from frostline.plotting.templates import page
from frostline.reporting import words
from frostline.stats.transfer import Estimate, Gain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEPARATOR = "·"
"""Between the parts of a name."""
TEMPLATE = Path(__file__).parent / "page.html.j2"
WITHOUT = {f"test/{name}": f"test{WITHOUT_TTA}/{name}" for name in (ACCURACY, MAP)}
"""A tested metric → the same without test-time augmentation."""
MOST_UNLISTED = 6
"""Most parameters without a column that a note names."""


def headers(comparison: Comparison) -> list[str]:
    """Return the columns' names; gains and p-values have a column if there are any."""
    several = [
        *(["against the first"] if _has_gains(comparison) else []),
        *(["p"] if _has_p(comparison) else []),
    ]
    return ["run", *comparison.varied, "n", *comparison.metrics, *several]


def cells(comparison: Comparison) -> list[list[str]]:
    """Return the rows of the table, formatted."""
    return [_cells(comparison, line) for line in comparison.lines]


def counts(comparison: Comparison) -> str:
    """Return how much is compared: ``1 configuration, 3 runs``."""
    lines = comparison.lines
    runs = sum(len(line.runs) for line in lines)
    return f"{units.counted(len(lines), 'configuration')}, {units.counted(runs, 'run')}"


def shared_part(names: Sequence[str]) -> str:
    """Return the longest sequence of parts that is in each of several names; empty: there is none.

    >>> shared_part(["full·resnet10t·digits·lr=0.1", "gradual·resnet10t·digits·lr=0.2"])
    'resnet10t·digits'
    """
    others = [f"{SEPARATOR}{name}{SEPARATOR}" for name in names[1:]]
    parts = names[0].split(SEPARATOR)
    candidates = (SEPARATOR.join(parts[i:j]) for i, j in combinations(range(len(parts) + 1), 2))
    shared = [part for part in candidates if all(f"{SEPARATOR}{part}{SEPARATOR}" in name for name in others)]
    return max(shared, key=len, default="") if others else ""


def narrow(comparison: Comparison) -> tuple[Comparison, str]:
    """Return the comparison for a narrow table, and a sentence on what its names lack; empty: nothing.

    An ellipsis stands for what all names share, and a value that all names contain has no column.
    """
    lines = comparison.lines
    in_names = [key for key in comparison.varied if all(_names_value(line, key) for line in lines)]
    varied = tuple(key for key in comparison.varied if key not in in_names)
    shared = shared_part([line.name for line in lines])
    if len(shared) < 2:
        return replace(comparison, varied=varied), ""
    whole = re.compile(rf"(?<![^{SEPARATOR}]){re.escape(shared)}(?![^{SEPARATOR}])")
    lines = tuple(replace(line, name=whole.sub("…", line.name, count=1)) for line in lines)
    return replace(comparison, lines=lines, varied=varied), f"… in the names of runs is {shared}."


def _names_value(line: Configuration, key: str) -> bool:
    value = (line.values[key] or UNSET).replace(", ", ",")  # lists as they are typed
    return not {named_value(end, value) for end in suffixes(key)}.isdisjoint(line.name.split(SEPARATOR))


def markdown(comparison: Comparison) -> str:
    """Return the table and the notes in Markdown."""
    table = words.markdown_table([headers(comparison), *cells(comparison)])
    return "\n".join([table, *map(words.markdown, notes(comparison)), ""])


def csv(comparison: Comparison) -> str:
    """Return all numbers in full precision, one row per configuration."""
    metrics = comparison.metrics
    parts = ("mean", "std", "low", "high", "n")
    gain = [f"gain/{part}" for part in (*parts, "p", "p_holm")]
    columns = ["run", *comparison.varied, *(f"{m}/{p}" for m in metrics for p in parts), *gain, "runs"]
    rows = []
    for line in comparison.lines:
        numbers = [getattr(line.results[m], part, None) for m in metrics for part in parts]
        numbers += [getattr(line.gain, part, None) for part in (*parts, "p")]
        ids = " ".join(run.id for run in line.runs)
        values = [line.values[key] for key in comparison.varied]
        rows.append([line.name, *values, *numbers, line.p, ids])
    return csv_text(columns, [["" if cell is None else cell for cell in row] for row in rows])


def html(comparison: Comparison, title: str) -> str:
    """Return one self-contained page: plot, table and notes."""
    return page(
        TEMPLATE,
        title=title,
        plot=plot(comparison),
        headers=headers(comparison),
        rows=cells(comparison),
        notes=notes(comparison),
    )


def plot(comparison: Comparison) -> str:
    """Plot each configuration's mean with its interval, and its seeds as dots, as an SVG element."""
    with _plot(comparison) as figure:
        return svg(figure, "compared", f"{comparison.tested} of each configuration")


def plot_file(comparison: Comparison) -> bytes:
    """Return the same plot as an SVG file."""
    with _plot(comparison) as figure:
        return svg_file(figure)


@contextmanager
def _plot(comparison: Comparison) -> "Iterator[Figure]":
    metric = comparison.tested
    with new_figure(9, 0.9 + 0.36 * len(comparison.lines)) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        for place, line in enumerate(reversed(comparison.lines)):
            values = [run.metrics[metric] for run in line.runs if metric in run.metrics]
            colour = theme.ARMS[2].light if line is comparison.lines[0] else theme.BASELINE_COLOUR.light
            axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.35, markersize=5, mew=0)
            if estimate := line.results.get(metric):
                if estimate.low is not None and estimate.high is not None:
                    axes.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=2)
                axes.plot([estimate.mean], [place], "D", color=colour, markersize=6)
        names = [shortened(line.name, 44) for line in reversed(comparison.lines)]
        axes.set_yticks(range(len(names)), names, fontsize=9)
        axes.set_ylim(-0.6, len(names) - 0.4)
        if is_share(metric):
            percent_axis(axes, *axes.get_xlim(), along="x")
        several = any(len(line.runs) > 1 for line in comparison.lines)
        axes.set(title=f"{metric}: seeds, mean and 95 % interval" if several else metric)
        axes.grid(True, axis="x")
        yield figure


def notes(comparison: Comparison) -> list[str]:
    """Return notes to the table, one sentence each."""
    sentences = []
    folds = any(line.runs[0].fold != line.runs[-1].fold for line in comparison.lines)
    over = "folds and seeds" if folds else "seeds"
    if any(len(line.runs) > 1 for line in comparison.lines):
        sentences.append(
            f"Means over {over} with 95 % Student t intervals, the best on the first metric first."
        )
    if folds:
        sentences.append(
            "The folds' training images overlap: intervals and p are those of the corrected resampled t-test "
            "(Nadeau & Bengio 2003)."
        )
    if _has_p(comparison):
        by = "fold and seed" if folds else "seed"
        sentences.append(
            f"p: two-sided t-test, paired by {by}, corrected for the number of rows (Holm);"
            " intervals are not corrected."
        )
    elif len(comparison.lines) > 1 and all(len(line.runs) == 1 for line in comparison.lines):
        sentences.append(
            "One seed says nothing about chance: run each configuration with seed=0,1,2 for intervals and p."
        )
    rates = {
        run.metrics[MAJORITY] for line in comparison.lines for run in line.runs if MAJORITY in run.metrics
    }
    if len(rates) == 1 and comparison.tested == "test/accuracy":
        (rate,) = rates
        below = [line.name for line in comparison.lines if _mean(line) < rate]
        sentences.append(
            f"Always predicting the test split's most frequent class is right for {words.percent(rate)}"
            + (f"; below that: {', '.join(below)}." if below else ".")
        )
    plain = WITHOUT.get(comparison.tested)
    augmented = [line.name for line in comparison.lines if any(plain in run.metrics for run in line.runs)]
    if augmented:
        who = "all" if len(augmented) == len(comparison.lines) else ", ".join(augmented)
        sentences.append(f"Measured with test-time augmentation: {who}. Without it: --metric {plain}.")
    if comparison.unlisted:
        more = len(comparison.unlisted) - MOST_UNLISTED
        rest = f" and {more} more" if more > 0 else ""
        sentences.append(f"Differ too: {', '.join(comparison.unlisted[:MOST_UNLISTED])}{rest}.")
    return sentences


def _mean(line: Configuration) -> float:
    """Return the mean test accuracy; infinite if it was not measured."""
    accuracy = line.results.get("test/accuracy")
    return accuracy.mean if accuracy else math.inf


def _cells(comparison: Comparison, line: Configuration) -> list[str]:
    cells = [line.name, *(line.values[key] for key in comparison.varied), str(len(line.runs))]
    cells += [_result(metric, line.results[metric]) for metric in comparison.metrics]
    cells += [_gain(comparison.tested, line.gain)] if _has_gains(comparison) else []
    return cells + ([words.p_value(line.p) if line.p is not None else ""] if _has_p(comparison) else [])


def _has_gains(comparison: Comparison) -> bool:
    return any(line.gain is not None for line in comparison.lines)


def _has_p(comparison: Comparison) -> bool:
    return any(line.p is not None for line in comparison.lines)


def _result(metric: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return words.NOTHING
    if metric.endswith("seconds"):
        return units.seconds(estimate.mean)
    text = words.percent(estimate.mean) if is_share(metric) else f"{estimate.mean:.4g}"
    if estimate.low is None or estimate.high is None:
        return text
    between = f"{estimate.low:.4g} to {estimate.high:.4g}"
    if is_share(metric) or estimate.std == 0:
        between = words.interval(estimate)
    return f"{text} ({between})"


def _gain(metric: str, gain: Gain | None) -> str:
    if gain is None:
        return ""
    if not is_share(metric):
        return f"{gain.mean:+.4g}".replace("-", words.MINUS)
    between = words.gain_interval(gain)
    return words.points(gain.mean) + (f" ({between})" if between else "")


def render(comparison: Comparison, kind: str, title: str) -> str:
    """Return the comparison in a format: md, csv or html."""
    match kind:
        case "csv":
            return csv(comparison)
        case "html":
            return html(comparison, title)
    return markdown(comparison)
