"""The report as one self-contained HTML file, in light and dark, for screens, phones and print."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from frostline.base.metrics import MAP
from frostline.console import units
from frostline.plotting import theme
from frostline.plotting.templates import page
from frostline.reporting import tables, words
from frostline.reporting.configuration import configuration
from frostline.reporting.inputs import Arm
from frostline.reporting.learning_plot import learning_svg, lowest_value, trained_groups
from frostline.reporting.results import Summary
from frostline.reporting.tables import ByClass
from frostline.reporting.transfer_plot import transfer_svg
from frostline.stats.gate import Check
from frostline.stats.transfer import TimeToThreshold

TEMPLATE = Path(__file__).parent / "page.html.j2"
MOST_CLASSES = 25
"""With more classes, only those in which the arms differ most are shown."""
MOST_COUNTED = 12
"""With more classes, a confusion matrix shows no counts."""


@dataclass(frozen=True)
class Tile:
    """A key figure at the top of the page."""

    title: str
    text: str
    detail: str
    mood: str = ""
    """`helped` or `hurt`: the colour of its text."""


def html(summary: Summary, arms: Sequence[Arm], checks: Sequence[Check]) -> str:
    """Return the page as HTML.

    Args:
        arms: its runs, for the plots and the tables by class.
    """
    classes, confusions = tables.by_class(arms)
    labels = tables.by_label(arms) if summary.metric == MAP else []
    return page(
        TEMPLATE,
        summary=summary,
        colours=theme.arm_colours([arm.name for arm in arms]),
        tiles=_tiles(summary, checks),
        plots={"wide": transfer_svg(summary, portrait=False), "tall": transfer_svg(summary, portrait=True)},
        headers=tables.headers(summary),
        rows=tables.arm_rows(summary),
        explanation=tables.explanation(summary),
        learning=_learning(summary, arms),
        classes=classes or [name for name, _ in labels],
        class_rows=_most_different(
            list(zip(*(by_class.recall.tolist() for by_class in confusions), strict=True))
            or [scores for _, scores in labels]
        ),
        arms=[arm.name for arm in arms],
        confusions=[_confusion(classes, by_class) for by_class in confusions],
        most_classes=MOST_CLASSES,
        checks=checks,
        configuration=configuration(summary, arms),
        words=words,
        unbroken=_unbroken,
    )


def _unbroken(text: str) -> str:
    """Keep a number and its unit on one line."""
    return re.sub(r"(?<=\d) (?=%|points)", "\N{NO-BREAK SPACE}", text)


def _tiles(summary: Summary, checks: Sequence[Check]) -> list[Tile]:
    tiles: list[Tile] = []
    arm, baseline = summary.chosen, summary.baseline
    if arm and baseline and arm.comparison and arm.epochs_to_baseline and baseline.epochs_to_baseline:
        gain, jumpstart = arm.comparison.gain, arm.comparison.jumpstart
        between = words.gain_interval(gain)
        tiles += [
            Tile(
                f"Gain on {summary.measured}",
                f"{words.points(gain.mean)} points",
                f"95 %: {between}" if gain.std else between or f"one {summary.repeats.noun}",
            )
        ]
        if jumpstart:
            tiles.append(Tile("Jumpstart", f"{words.points(jumpstart.mean)} points", "before any training"))
        arm_epochs, baseline_epochs = arm.epochs_to_baseline.median, baseline.epochs_to_baseline.median
        if baseline_epochs is not None:
            tiles.append(
                Tile(
                    "To the baseline's best",
                    "never" if arm_epochs is None else words.counted_epochs(arm_epochs),
                    _missed(arm.epochs_to_baseline, summary)
                    + f"the baseline: {words.counted_epochs(baseline_epochs)}",
                )
            )
    if checks:
        passed = sum(check.passed for check in checks)
        held = f"{passed} of {units.counted(len(checks), 'metric')}"
        good = passed == len(checks)
        tiles.append(Tile("Gate", "passed" if good else "failed", held, "helped" if good else "hurt"))
    return tiles


def _missed(when: TimeToThreshold, summary: Summary) -> str:
    """Say in how many repetitions an arm that usually reaches the baseline's best did not."""
    missed = words.missed(when, summary.repeats.noun) if when.median is not None else ""
    return f"not in {missed}; " if missed else ""


def _learning(summary: Summary, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return a plot and a caption for each arm that trains."""
    shown, lowest = [], lowest_value(arms)
    for place, (arm, numbers) in enumerate(zip(arms, summary.arms, strict=True)):
        if numbers.epochs:
            trained = " → ".join(trained_groups(next(iter(arm.runs.values()))))
            caption = f"trains {trained}" if trained else "nothing trains"
            drawn = learning_svg(summary, arm, f"arm{place}", lowest)
            shown.append({"arm": arm.name, "caption": caption, "svg": drawn})
    return shown


def _most_different(scores: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Return a row per class: recall or F1 under each arm; of many, those where the arms differ most."""
    places = list(range(len(scores)))
    if len(places) > MOST_CLASSES:
        places.sort(key=lambda place: min(scores[place]) - max(scores[place]))
        places = sorted(places[:MOST_CLASSES])
    return [{"place": place, "shares": scores[place]} for place in places]


def _confusion(classes: Sequence[str], by_class: ByClass) -> dict[str, Any]:
    """Return an arm's confusion matrix, with a count and a tint in 0…1 per cell, and its top mistakes."""
    cells: list[list[dict[str, Any]]] = []
    if len(classes) <= MOST_CLASSES:
        for i, row in enumerate(by_class.counts.matrix):
            total = max(int(row.sum()), 1)
            # Mistakes are rare: the square root makes 1 in 100 visible.
            cells.append(
                [
                    {
                        "hit": i == j,
                        "tint": round(count / total if i == j else sqrt(count / total), 3),
                        "count": int(count),
                        "text": str(count) if count and len(classes) <= MOST_COUNTED else "",
                    }
                    for j, count in enumerate(row)
                ]
            )
    mistakes = [
        {"label": classes[i], "prediction": classes[j], "count": count}
        for i, j, count in by_class.counts.mistakes[:5]
    ]
    images = int(by_class.counts.labelled.sum())
    return {"arm": by_class.arm, "cells": cells, "mistakes": mistakes, "images": images}
