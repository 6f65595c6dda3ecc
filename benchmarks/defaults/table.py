"""The results as tables: mean accuracy of each arm, and what the defaults lose to the best of the search."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks.defaults.plan import TARGETS
from frostline.stats.transfer import CONFIDENCE, estimate, t_critical

Cell = tuple[str, int, str]
"""Target, labels per class, initial weights."""
Arm = tuple[str, str, str]
"""Library, schedule, setting (name of the hyperparameters)."""
FULL: Arm = ("frostline", "full", "default")
STARTS = {"own": "own pretraining", "imagenet": "ImageNet"}
CHANGES = {"last": "`selection=last`", "bn eval": "`bn=eval`", "last bn eval": "both"}
OTHERS = {"fastai": "fastai's `fine_tune`", "timm": "timm's hyperparameters"}
Z95 = 1.96
SHARE = 0.9
"""Arms with a smaller share of the cells are omitted, and then cells with a smaller share of the arms."""


@dataclass(frozen=True)
class Accuracy:
    """Accuracies of one run, in percent."""

    val: float
    """On validation images that are used for nothing else; it selects in a search."""
    test: float


@dataclass(frozen=True)
class Seeds:
    """The runs of an arm in a cell: seed → accuracy."""

    runs: Mapping[int, Accuracy]

    @property
    def val(self) -> float:
        """The mean over seeds."""
        return mean(run.val for run in self.runs.values())

    @property
    def test(self) -> float:
        """The mean over seeds."""
        return mean(run.test for run in self.runs.values())


Results = Mapping[Arm, Mapping[Cell, Seeds]]
"""All arms of a cell have the same seeds in it."""


def read(path: Path) -> Results:
    """Return the accuracies of a file of `python -m benchmarks.defaults`, without runs that failed.

    A seed of a cell counts if all arms of the cell have it, so that they are compared on the same seeds.

    Raises:
        ValueError: the runs are of several devices.
    """
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    devices = {row.get("device") for row in rows}
    if len(devices) > 1:
        named = " and ".join(sorted(map(str, devices)))
        raise ValueError(f"{path}: has runs on {named}, which are not compared; write a file for each device")
    runs: dict[Arm, dict[Cell, dict[int, Accuracy]]] = {}
    for row in rows:
        if "error" not in row:
            arm, cell = (
                (row["by"], row["schedule"], row["setting"]),
                (row["target"], row["shots"], row["start"]),
            )
            found = Accuracy(100 * row["val"], 100 * row["test"])
            runs.setdefault(arm, {}).setdefault(cell, {})[row["seed"]] = found
    most = max(map(len, runs.values()))
    runs = {arm: by for arm, by in runs.items() if len(by) >= SHARE * most}
    seeds: dict[Cell, set[int]] = {}
    for cell in {cell: None for by in runs.values() for cell in by}:
        there = [set(by[cell]) for by in runs.values() if cell in by]
        if len(there) >= SHARE * len(runs):
            seeds[cell] = set.intersection(*there)
    return {
        arm: {
            cell: Seeds({seed: by[cell][seed] for seed in sorted(common)})
            for cell, common in seeds.items()
            if cell in by and common
        }
        for arm, by in runs.items()
    }


def accuracies(results: Results) -> list[list[str]]:
    """Return rows of mean test accuracies over the cells that all arms have; the best of a column is bold."""
    cells = _shared(results)
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
    """Return what each arm with default hyperparameters loses to the arm with the best validation accuracy.

    In points of test accuracy, in the cells that all arms have: the mean and the worst cell; negative: the
    arm is better than the one that validation chooses. The 95 % interval of a mean is over the cells, that of
    the worst cell as `Gap.half` says.
    """
    results = _on_shared_cells(results)
    searched: dict[str, Callable[[Arm], bool]] = {
        "the chosen configuration of `full`": _is_full,
        "the chosen arm of frostline": lambda arm: arm[0] == "frostline",
    }
    header = (f"gap to {name}: {what}" for name in searched for what in ("mean", "worst cell"))
    rows = [["arm with default hyperparameters", *header]]
    for arm in results:
        if arm[2] != "default":
            continue
        row = [_name(arm)]
        for belongs in searched.values():
            gaps = _gaps(results, arm, [other for other in results if belongs(other)])
            worst = max(gaps, key=lambda gap: gap.loss)
            row += [
                _with_interval(*_mean(gaps)),
                f"{_with_interval(worst.loss, worst.half)} ({_cell(worst.cell)})",
            ]
        rows.append(row)
    return rows


def by_cell(results: Results) -> list[list[str]]:
    """Return a row for each cell that all arms have, and one of means: accuracies and differences.

    A difference is in points of test accuracy: the setting of `full` with the highest mean validation
    accuracy over the seeds, less an arm with default hyperparameters. The highest test accuracy of a row is
    bold. Intervals are those of `losses`.
    """
    results = _on_shared_cells(results)
    shared = _shared(results)
    came = [arm for arm in results if arm[0] == "frostline" and arm[2] == "default"]
    lost = {arm: _gaps(results, arm, [other for other in results if _is_full(other)]) for arm in came}
    numbers = [len(seeds.runs) for seeds in results[came[0]].values()]
    body = [
        [
            *(_cell(cell), str(number), *_best_bold([by[cell].test for by in results.values()])),
            *(_with_interval(gaps[i].loss, gaps[i].half) for gaps in lost.values()),
        ]
        for i, (cell, number) in enumerate(zip(shared, numbers, strict=True))
    ]
    total = [
        *(f"mean ({len(shared)} cells)", "–".join(map(str, sorted({min(numbers), max(numbers)})))),
        *_best_bold([mean(seeds.test for seeds in by.values()) for by in results.values()]),
        *(_with_interval(*_mean(gaps)) for gaps in lost.values()),
    ]
    return [
        ["cell", "seeds", *map(_name, results), *(f"chosen − {_name(arm)}" for arm in came)],
        *body,
        total,
    ]


def left_out(results: Results) -> list[list[str]]:
    """Return rows of the setting of `full` that is chosen on all data sets but one, and its gain on that one.

    The highest mean validation accuracy chooses. The gain over `full` with its default hyperparameters is in
    points of test accuracy: the mean over the cells of the data set that was left out. The last row has the
    mean over all cells, with its 95 % interval.
    """
    settings = [arm for arm in results if _is_full(arm)]
    shared = set.intersection(*(set(results[arm]) for arm in settings))
    rows = [["data set left out", "chosen on the others", "gain on it"]]
    every: list[Gap] = []
    targets = sorted({cell[0] for cell in shared})
    if len(targets) == 1:  # no others to choose on
        return rows
    for target in targets:
        others = [cell for cell in shared if cell[0] != target]
        chosen = max(settings, key=lambda arm: mean(results[arm][cell].val for cell in others))
        gaps = [gap for gap in _gaps(results, FULL, [chosen]) if gap.cell[0] == target and gap.cell in shared]
        rows.append([target, _name(chosen), f"{_mean(gaps)[0]:.1f}"])
        every += gaps
    return [*rows, [f"mean ({len(every)} cells)", "", _with_interval(*_mean(every))]]


def differences(results: Results, setting: str, start: str) -> list[list[str]]:
    """Return a row for each cell with some initial weights: what another configuration of `full` changes.

    The last row has the means, with a 95 % interval over cells.

    Args:
        start: the initial weights, own or imagenet.
    """
    default, other = results[FULL], results["frostline", "full", setting]
    cells = [cell for cell in sorted(default) if cell[2] == start]
    pairs = [(default[cell].test, other[cell].test) for cell in cells]
    change = estimate([new - old for old, new in pairs])
    half = "" if change.high is None else f" ± {change.high - change.mean:.1f}"
    means = [f"{mean(values):.1f}" for values in zip(*pairs, strict=True)]
    return [
        [STARTS[start], "default", CHANGES[setting], "difference"],
        *(
            [f"{target}, {shots}", f"{old:.1f}", f"{new:.1f}", _signed(new - old)]
            for (target, shots, _), (old, new) in zip(cells, pairs, strict=True)
        ),
        ["mean", *means, _signed(change.mean) + half],
    ]


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")


@dataclass(frozen=True)
class Gap:
    """What an arm loses in a cell, in points: the mean over seeds."""

    cell: Cell
    loss: float
    half: float | None
    """Half of the 95 % interval over seeds, paired. The standard deviation is pooled over cells, since two or
    three seeds of one cell say little of it; the choice of test images, which all seeds share, is not in it.

    With a single seed everywhere, it is over the choice of test images: that of two independent shares, too
    wide for arms with the same images, and without another seed's training.

    None: the search chose the arm."""


def _gaps(results: Results, arm: Arm, searched: Sequence[Arm]) -> list[Gap]:
    best: dict[Cell, Arm] = {}
    losses: dict[Cell, list[float]] = {}
    for cell, seeds in results[arm].items():
        there = [other for other in searched if cell in results[other]]
        best[cell] = max(there, key=lambda other: results[other][cell].val)
        found = results[best[cell]][cell].runs
        losses[cell] = [found[seed].test - run.test for seed, run in seeds.runs.items()]
    others = [found for cell, found in losses.items() if best[cell] != arm]
    freedom = sum(len(found) - 1 for found in others)

    def half(cell: Cell) -> float | None:
        if best[cell] == arm:
            return None
        if not freedom:
            chosen, own = results[best[cell]][cell].test, results[arm][cell].test
            return Z95 * math.sqrt(_variance(chosen, cell) + _variance(own, cell))
        squares = sum((loss - mean(found)) ** 2 for found in others for loss in found)
        return t_critical(CONFIDENCE, freedom) * math.sqrt(squares / freedom / len(losses[cell]))

    return [Gap(cell, mean(found), half(cell)) for cell, found in losses.items()]


def _shared(results: Results) -> list[Cell]:
    return sorted(set.intersection(*(set(by) for by in results.values())))


def _on_shared_cells(results: Results) -> Results:
    cells = _shared(results)
    return {arm: {cell: by[cell] for cell in cells} for arm, by in results.items()}


def _variance(accuracy: float, cell: Cell) -> float:
    """Return the variance of a test accuracy that is due to the choice of test images: p(1 − p)/n."""
    return accuracy * (100 - accuracy) / TARGETS[cell[0]].tests


def _mean(gaps: Sequence[Gap]) -> tuple[float, float | None]:
    found = estimate([gap.loss for gap in gaps])
    return found.mean, None if found.high is None else found.high - found.mean


def _with_interval(value: float, half: float | None) -> str:
    return f"{value:.1f}" if half is None else f"{value:.1f} ± {half:.1f}"


def _is_full(arm: Arm) -> bool:
    return arm[:2] == ("frostline", "full")


def _cell(cell: Cell) -> str:
    target, shots, start = cell
    return f"{target}, {shots}, {STARTS[start]}"


def markdown(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as a Markdown table; the first is the header."""
    header, *rest = rows
    lines = [header, ["---"] * len(header), *rest]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def _name(arm: Arm) -> str:
    by, schedule, setting = arm
    name = OTHERS.get(by, schedule)
    return name if setting == "default" else f"{name}, {setting}"


def _best_bold(values: Sequence[float]) -> list[str]:
    return [_bold(f"{value:.1f}", value == max(values)) for value in values]


def _bold(text: str, best: bool) -> str:
    return f"**{text}**" if best else text
