"""The results as tables: mean accuracy of each arm, and what the defaults lose to the search's best."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks.defaults.plan import TARGETS
from frostline.stats.transfer import estimate

Cell = tuple[str, int, str]
"""Target, labels per class, start."""
Arm = tuple[str, str, str]
"""By whom, schedule, setting."""
STARTS = {"own": "own pretraining", "imagenet": "ImageNet"}
Z95 = 1.96
SHARE = 0.95
"""Of the cells: an arm that the time limit left with fewer is omitted."""


@dataclass(frozen=True)
class Accuracy:
    """Of an arm in a cell, in percent: the mean over seeds."""

    val: float
    """On validation images that nothing else has used: chooses in a search."""
    test: float

    def variance(self, target: str) -> float:
        """Return the variance of `test` that is due to the choice of test images: p(1 − p)/n."""
        return self.test * (100 - self.test) / TARGETS[target].tests


Results = Mapping[Arm, Mapping[Cell, Accuracy]]


def read(path: Path) -> Results:
    """Return the accuracies of a file of `python -m benchmarks.defaults`, without runs that failed."""
    runs: dict[Arm, dict[Cell, list[Accuracy]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "error" not in row:
            arm, cell = (
                (row["by"], row["schedule"], row["setting"]),
                (row["target"], row["shots"], row["start"]),
            )
            found = Accuracy(100 * row["val"], 100 * row["test"])
            runs.setdefault(arm, {}).setdefault(cell, []).append(found)
    means = {
        arm: {
            cell: Accuracy(mean(a.val for a in found), mean(a.test for a in found))
            for cell, found in by.items()
        }
        for arm, by in runs.items()
    }
    most = max(map(len, means.values()))
    return {arm: by for arm, by in means.items() if len(by) >= SHARE * most}


def accuracies(results: Results) -> list[list[str]]:
    """Return rows of mean test accuracies over the cells that all arms have; the best of a column is bold."""
    cells = sorted(set.intersection(*(set(by) for by in results.values())))
    columns: dict[str, list[Cell]] = {"mean": cells}
    columns |= {
        f"{name}, {label}": [cell for cell in cells if cell[1] in shots and cell[2] == start]
        for start, name in STARTS.items()
        for label, shots in {"5": (5,), "10": (10,), "50": (40, 50)}.items()
    }
    columns = {name: column for name, column in columns.items() if column}
    table = {
        arm: [mean(by[cell].test for cell in column) for column in columns.values()]
        for arm, by in results.items()
    }
    best = [max(column) for column in zip(*table.values(), strict=True)]
    header = ["", *(f"{name} ({len(column)})" for name, column in columns.items())]
    rows = [
        [_name(arm), *(_bold(f"{value:.1f}", value == top) for value, top in zip(values, best, strict=True))]
        for arm, values in sorted(table.items(), key=lambda item: -item[1][0])
    ]
    return [header, *rows]


def losses(results: Results) -> list[list[str]]:
    """Return rows of what arms as they come lose to the setting that validation chooses in each cell.

    Points of test accuracy, on average and at most; negative: the arm is better than the search's choice.
    The 95 % interval of a mean is over the cells, that of a largest loss over the choice of test images.
    """
    searched: dict[str, Callable[[Arm], bool]] = {
        "settings of `full`": lambda arm: arm[:2] == ("frostline", "full"),
        "all schedules and settings": lambda arm: arm[0] == "frostline",
    }
    rows = [["as it comes", *(f"{name}: {what}" for name in searched for what in ("mean", "at most"))]]
    for arm in results:
        if arm[2] != "default":
            continue
        row = [_name(arm)]
        for belongs in searched.values():
            gaps = _gaps(results, arm, [other for other in results if belongs(other)])
            worst = max(gaps, key=lambda gap: gap.loss)
            target, shots, start = worst.cell
            row += [
                _with_interval(*_mean(gaps)),
                f"{_with_interval(worst.loss, worst.half)} ({target}, {shots}, {STARTS[start]})",
            ]
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Gap:
    """What an arm loses in a cell, in points."""

    cell: Cell
    loss: float
    half: float
    """Half of the 95 % interval over the choice of test images: that of two independent shares. The arms have
    the same test images, so that it is rather too wide; another seed's training is not in it."""


def _gaps(results: Results, arm: Arm, searched: Sequence[Arm]) -> list[Gap]:
    gaps = []
    for cell, accuracy in results[arm].items():
        there = [results[other][cell] for other in searched if cell in results[other]]
        best = max(there, key=lambda found: found.val)
        half = Z95 * math.sqrt(best.variance(cell[0]) + accuracy.variance(cell[0]))
        gaps.append(Gap(cell, best.test - accuracy.test, half))
    return gaps


def _mean(gaps: Sequence[Gap]) -> tuple[float, float | None]:
    found = estimate([gap.loss for gap in gaps])
    return found.mean, None if found.high is None else found.high - found.mean


def _with_interval(value: float, half: float | None) -> str:
    return f"{value:.1f}" if half is None else f"{value:.1f} ± {half:.1f}"


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as a Markdown table; the first is the header."""
    header, *rest = rows
    lines = [header, ["---"] * len(header), *rest]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def _name(arm: Arm) -> str:
    by, schedule, setting = arm
    name = schedule if by == "frostline" else f"{by}'s `{schedule}`" if by == "fastai" else "timm's train.py"
    return name if setting == "default" else f"{name}, {setting}"


def _bold(text: str, best: bool) -> str:
    return f"**{text}**" if best else text
