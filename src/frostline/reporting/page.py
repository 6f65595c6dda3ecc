"""The report as one HTML file that needs nothing else: light and dark, for a desk, a phone and a printer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from frostline.plotting import theme
from frostline.reporting import tables, words
from frostline.reporting.inputs import Arm
from frostline.reporting.learning_plot import learning_svg, trained_groups
from frostline.reporting.results import Summary
from frostline.reporting.tables import ByClass
from frostline.reporting.transfer_plot import transfer_svg
from frostline.stats.gate import Check

HERE = Path(__file__).parent
MOST_CLASSES = 25
"""Classes up to which every one has its row and column; past them, the most telling are shown."""
MOST_COUNTED = 12
"""Classes up to which a confusion matrix has room for its counts."""


@dataclass(frozen=True)
class Tile:
    """One of the figures at the page's top."""

    title: str
    text: str
    detail: str
    mood: str = ""
    """`helped` or `hurt` where its text is good or bad news by itself."""


def html(summary: Summary, arms: Sequence[Arm], checks: Sequence[Check]) -> str:
    """Return the page.

    Args:
        summary: the study in numbers.
        arms: what they were made from, for the pictures and the tables by class.
        checks: how the gate's metrics stand.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["unbroken"] = _unbroken
    classes, confusions = tables.by_class(arms)
    return environment.get_template("page.html.j2").render(
        summary=summary,
        css=theme.style_sheet(),
        light=theme.css_variables("light"),
        dark=theme.css_variables("dark"),
        colours=theme.arm_colours([arm.name for arm in arms]),
        tiles=_tiles(summary, checks),
        pictures={
            "wide": transfer_svg(summary, portrait=False),
            "tall": transfer_svg(summary, portrait=True),
        },
        headers=tables.headers(summary),
        rows=tables.arm_rows(summary),
        learning=_learning(summary, arms),
        classes=classes,
        telling=_telling(confusions, len(classes)),
        confusions=[_confusion(classes, each) for each in confusions],
        most_classes=MOST_CLASSES,
        checks=checks,
        words=words,
    )


def _unbroken(text: str) -> str:
    """Keep a number and its unit on one line."""
    return re.sub(r"(?<=\d) (?=%|points)", "\N{NO-BREAK SPACE}", text)


def _tiles(summary: Summary, checks: Sequence[Check]) -> list[Tile]:
    tiles: list[Tile] = []
    arm, twin = summary.chosen, summary.twin
    if arm and twin and arm.against and arm.to_twin_epochs and twin.to_twin_epochs:
        gain, jumpstart = arm.against.gain, arm.against.jumpstart
        between = words.gain_interval(gain)
        tiles += [
            Tile(
                f"Gain on {summary.measured}",
                f"{words.points(gain.mean)} points",
                f"95 %: {between}" if between else "one seed",
            ),
        ]
        if jumpstart:
            tiles.append(Tile("Jumpstart", f"{words.points(jumpstart.mean)} points", "before any training"))
        sooner, own = arm.to_twin_epochs.median, twin.to_twin_epochs.median
        if own is not None:
            tiles.append(
                Tile(
                    "To the twin's best",
                    "never" if sooner is None else words.counted_epochs(sooner),
                    f"the twin: {words.counted_epochs(own)}",
                )
            )
    if checks:
        passed = sum(check.passed for check in checks)
        held = f"{passed} of {words.counted(len(checks), 'metric')}"
        good = passed == len(checks)
        tiles.append(Tile("Gate", "passed" if good else "failed", held, "helped" if good else "hurt"))
    return tiles


def _learning(summary: Summary, arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return a picture and a caption for each arm that trains."""
    shown = []
    for place, (arm, numbers) in enumerate(zip(arms, summary.arms, strict=True)):
        if numbers.epochs:
            trained = " → ".join(trained_groups(next(iter(arm.runs.values()))))
            caption = f"trains {trained}" if trained else "nothing trains"
            shown.append(
                {"arm": arm.name, "caption": caption, "svg": learning_svg(summary, arm, f"arm{place}")}
            )
    return shown


def _telling(confusions: Sequence[ByClass], k: int) -> list[dict[str, Any]]:
    """Return the accuracy of each class under each arm; of many classes, those where the arms differ most."""
    recalls = [each.recall for each in confusions]
    places = list(range(k))
    if k > MOST_CLASSES:
        places.sort(key=lambda c: min(r[c] for r in recalls) - max(r[c] for r in recalls))
        places = sorted(places[:MOST_CLASSES])
    return [
        {
            "place": place,
            "images": int(confusions[0].counts[place].sum()),
            "recalls": [float(r[place]) for r in recalls],
        }
        for place in places
    ]


def _confusion(classes: Sequence[str], each: ByClass) -> dict[str, Any]:
    """Return an arm's matrix, a cell its count and its tint from 0 to 1, and its most frequent mistakes."""
    cells: list[list[dict[str, Any]]] = []
    if len(classes) <= MOST_CLASSES:
        for i, row in enumerate(each.counts):
            total = max(int(row.sum()), 1)
            # Mistakes are rare: a root makes 1 in 100 visible.
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
        {"label": classes[i], "prediction": classes[j], "count": count} for i, j, count in each.mistakes[:5]
    ]
    return {"arm": each.arm, "cells": cells, "mistakes": mistakes, "images": int(each.counts.sum())}
