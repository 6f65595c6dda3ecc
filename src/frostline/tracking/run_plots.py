"""Plots of a run for MLflow: plan, curves with phase boundaries, confusion matrix, table of classes."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.base.confusion import Confusion, label_counts
from frostline.base.formats import csv_text, read_csv, read_json
from frostline.base.metrics import headline
from frostline.base.names import labels_in, natural_order
from frostline.planning import plot as plan_plot
from frostline.plotting import theme
from frostline.plotting.canvas import (
    DOTTED_LINE,
    epoch_axis,
    label_line,
    new_figure,
    percent_axis,
    png,
    shortened,
    svg_file,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COUNTED_CLASSES = 15
"""The largest number of classes whose confusion matrix shows counts."""
NAMED_CLASSES = 50
"""The largest number of classes whose rows and columns are labelled."""
DRAWN_CLASSES = 500
"""With more classes, a cell of the confusion matrix stands for several."""
TABLE_ROWS = 500
"""Rows of the HTML page of classes."""
SHORT_NAME = 18
"""Characters of a class name."""

PER_CLASS = ("class", "precision", "recall", "f1", "support", "taken_for", "times")
"""Columns; `taken_for` is the most frequent wrong prediction, `times` its count."""

PER_LABEL = PER_CLASS[:5]
"""Columns with several labels per image."""

Rows = Sequence[Mapping[str, str]]


def draw(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of a run folder's plots; a study's evaluation has a subfolder a seed."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph .* missing from font"
        )  # class names may contain any character
        if (plan := folder / "plan.json").is_file():
            yield "plan.png", plan_plot.draw(read_json(plan))
        if (history := folder / "history.csv").is_file():
            training = folder / "training.json"
            groups = trained_groups(read_json(training)) if training.is_file() else []
            yield "curves.png", curves(read_csv(history), groups)
        predictions = [row for path in sorted(folder.rglob("predictions.csv")) for row in read_csv(path)]
        if predictions and "labels" in predictions[0]:
            label_rows = per_label(predictions)
            yield "per_class.csv", csv_text(PER_LABEL, label_rows).encode()
            yield "per_class.html", class_table(label_rows, PER_LABEL).encode()
        elif predictions:
            classes, counts = _counted(predictions)
            yield "confusion.png", confusion(classes, counts)
            rows = per_class(classes, counts)
            yield "per_class.csv", csv_text(PER_CLASS, rows).encode()
            yield "per_class.html", class_table(rows).encode()


def curves(history: Rows, trained: Sequence[str] = (), suffix: str = ".png") -> bytes:
    """Draw accuracy and loss by epoch, and where each phase begins.

    Args:
        history: the rows of history.csv.
        trained: the groups that train in each phase.
        suffix: ``.png`` or ``.svg``.
    """
    epochs, first = int(history[-1]["epoch"]), headline(history[-1])
    with new_figure(9, 3.6) as figure:
        figure.set_layout_engine("constrained")
        for axes, metric in zip(figure.subplots(1, 2), (first, "loss"), strict=True):
            for split, colour in (("train", theme.BASELINE_COLOUR.light), ("val", theme.ARMS[2].light)):
                points = [
                    (int(row["epoch"]), float(cell)) for row in history if (cell := row[f"{split}/{metric}"])
                ]
                x, y = zip(*points, strict=True) if points else ((), ())
                axes.plot(x, y, color=colour, label=split, linewidth=1.6, marker="o" if len(x) < 2 else None)
            _phases(axes, history, trained if metric == first else ())
            epoch_axis(axes, epochs)
            if metric == first:
                low, high = axes.get_ylim()
                percent_axis(axes, max(low, 0.0), min(high, 1.01))
            axes.set(title=metric, xlabel="epochs")
            axes.grid(True, axis="y")
        axes.legend(frameon=False)
        return svg_file(figure) if suffix == ".svg" else png(figure)


def _counted(predictions: Rows) -> tuple[list[str], Confusion]:
    """Return the K classes in their order, and their confusion."""
    classes = sorted(
        {row["label"] for row in predictions} | {row["prediction"] for row in predictions}, key=natural_order
    )
    place = {name: i for i, name in enumerate(classes)}
    labels, guesses = ([place[row[key]] for row in predictions] for key in ("label", "prediction"))
    return classes, Confusion.of(labels, guesses, len(classes))


def per_class(classes: Sequence[str], counts: Confusion) -> list[list[Any]]:
    """Return the metrics of each class as rows of `PER_CLASS`, the lowest F1 first.

    Args:
        classes: K names.
        counts: of their predictions.
    """
    rows: list[tuple[float, list[Any]]] = []
    taken_for: dict[int, list[Any]] = {}
    for label, prediction, times in counts.mistakes:
        taken_for.setdefault(label, [classes[prediction], times])
    columns = (counts.hits.tolist(), counts.labelled.tolist(), counts.predicted.tolist())
    for i, (name, hits, support, guessed) in enumerate(zip(classes, *columns, strict=True)):
        precision, recall = (round(hits / n, 4) if n else None for n in (guessed, support))
        f1 = round(2 * hits / (support + guessed), 4)
        rows.append((f1, [name, precision, recall, f1, support, *taken_for.get(i, [None, None])]))
    rows.sort(key=lambda row: row[0])
    return [row for _, row in rows]


def per_label(predictions: Rows) -> list[list[Any]]:
    """Return the metrics of each label as rows of `PER_LABEL`, the lowest F1 first."""
    counts = label_counts((labels_in(row["labels"]), labels_in(row["predictions"])) for row in predictions)
    rows: list[list[Any]] = []
    for name in sorted(counts, key=natural_order):
        label = counts[name]
        precision, recall = (round(label.hits / n, 4) if n else None for n in (label.predicted, label.images))
        rows.append([name, precision, recall, round(label.f1, 4), label.images])
    return sorted(rows, key=lambda row: float(row[3]))


def class_table(rows: Sequence[Sequence[Any]], columns: Sequence[str] = PER_CLASS) -> str:
    """Return an HTML page with the rows of `per_class`, since MLflow's view of a CSV cuts off columns.

    Of many rows it has the first, so that a browser shows it at once.
    """
    from markupsafe import escape

    def cell(value: Any) -> str:
        number = isinstance(value, int | float)
        text = f"{100 * value:.1f} %" if isinstance(value, float) else "" if value is None else str(value)
        return f"<td{' class=number' if number else ''}>{escape(text)}</td>"

    names = ("class", "taken_for")
    heads = "".join(
        f"<th{'' if name in names else ' class=number'}>{name.replace('_', ' ')}</th>" for name in columns
    )
    body = "\n".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows[:TABLE_ROWS])
    style = (
        f"body{{font:14px sans-serif;color:{theme.INK.light}}} table{{border-collapse:collapse}}"
        f" th{{text-align:left;color:{theme.SOFT.light};font-weight:normal}}"
        f" td,th{{padding:4px 18px 4px 0;border-bottom:1px solid {theme.LINE.light}}}"
        " .number{text-align:right}"
    )
    table = f"<table><tr>{heads}</tr>\n{body}\n</table>"
    if len(rows) > TABLE_ROWS:
        table += f"\n<p>The {TABLE_ROWS} with the lowest F1 of {len(rows):,}; per_class.csv has all.</p>"
    return f"<!doctype html><meta charset=utf-8><style>{style}</style>\n{table}\n"


def confusion(classes: Sequence[str], found: Confusion) -> bytes:
    """Draw the confusion matrix as shares of its rows.

    Args:
        classes: K names.
        found: of their predictions.
    """
    import numpy as np

    counts = found.reduced(min(len(classes), DRAWN_CLASSES))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(4.0, 0.34 * len(classes)), 11.0)
    with new_figure(side + 0.6, side + 0.4) as figure:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.spines[:].set_visible(False)
        ticks = range(len(classes)) if len(classes) <= NAMED_CLASSES else ()
        names = [shortened(classes[i], SHORT_NAME) for i in ticks]
        upright = all(len(name) <= 2 for name in names)
        axes.set_xticks(ticks, names, rotation=0 if upright else 90)
        axes.set_yticks(ticks, names)
        right = found.hits.sum() / counts.sum()
        several = f", {len(classes) / len(counts):.3g} classes per cell" if len(counts) < len(classes) else ""
        axes.set(
            title=f"{100 * right:.1f} % of {counts.sum():,} right",
            xlabel=f"predicted{several}",
            ylabel=f"true{several}",
        )
        if len(classes) <= COUNTED_CLASSES:
            for (i, j), count in np.ndenumerate(counts):
                if count:
                    colour = theme.PAPER.light if shares[i, j] > 0.5 else theme.INK.light
                    axes.text(j, i, str(count), ha="center", va="center", fontsize=9, color=colour)
        return png(figure)


def _phases(axes: "Axes", history: Rows, trained: Sequence[str]) -> None:
    """Mark where each phase begins, with the groups that train from there."""
    begun: set[str] = set()
    for before, row in pairwise(history):
        if (phase := row["phase"]) and phase not in begun:
            begun.add(phase)
            start = int(before["epoch"])
            if start:
                axes.axvline(start, color=theme.SOFT.light, **DOTTED_LINE)
            if len(trained) > 1 and int(phase) < len(trained):
                label_line(axes, start, trained[int(phase)])


def trained_groups(training: Mapping[str, Any]) -> list[str]:
    """Return the groups that train in each phase, of training.json: ``["head", "head + top", "all"]``."""
    trained = (phase["train"] for phase in training["phases"])
    return [groups if isinstance(groups, str) else " + ".join(groups) for groups in trained]
