"""The report's tables as text cells, for HTML and Markdown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from frostline.base.confusion import Confusion, LabelCounts, label_counts
from frostline.base.metrics import MAP
from frostline.base.names import labels_in, natural_order
from frostline.console import units
from frostline.reporting import words
from frostline.reporting.inputs import Arm
from frostline.reporting.results import ArmSummary, BaselineComparison, Summary
from frostline.stats.transfer import Estimate, Gain, Outcome, TimeToThreshold


def headers(summary: Summary) -> tuple[str, ...]:
    """Return the column headers of the main table; a column without any value is left out."""
    several = len(summary.repeats.all) > 1
    interval, spread = (" (95 % interval)", " (least to most)") if several else ("", "")
    names = (
        f"{summary.reported}{interval}",
        f"gain over scratch{interval}",
        "p",
        f"jumpstart{interval}",
        f"epochs to baseline's best{spread}",
        f"time to baseline's best{spread}",
        "training time",
        *(f"{name} {summary.metric}{interval}" for name in test_sets(summary)),
    )
    return ("arm", *(name for name, filled in zip(names, _filled(_rows(summary)), strict=True) if filled))


def test_sets(summary: Summary) -> list[str]:
    """Return the names of the study's further test sets."""
    return list(dict.fromkeys(name for arm in summary.arms for name in arm.test_sets))


@dataclass(frozen=True)
class Cell:
    """A number, and a detail in smaller print."""

    text: str
    detail: str = ""


@dataclass(frozen=True)
class Row:
    """One arm's cells, a header each but the first."""

    arm: str
    outcome: Outcome | None
    """None for the baseline."""
    cells: list[Cell]


@dataclass(frozen=True)
class ByClass:
    """An arm's predictions on the images of predictions.csv, all runs pooled."""

    arm: str
    counts: Confusion

    @property
    def recall(self) -> NDArray[np.float64]:
        """(K,): recall of each class; NaN for a class without images."""
        with np.errstate(invalid="ignore"):
            return self.counts.hits / self.counts.labelled


def arm_rows(summary: Summary) -> list[Row]:
    """Return the study's main table, a row per arm, with the columns that `headers` names."""
    rows = _rows(summary)
    filled = _filled(rows)
    return [replace(row, cells=list(compress(row.cells, filled))) for row in rows]


def text_rows(summary: Summary) -> list[list[str]]:
    """Return the main table's rows as text, without the headers."""
    return [
        [row.arm, *(f"{c.text} ({c.detail})" if c.detail else c.text for c in row.cells)]
        for row in arm_rows(summary)
    ]


def markdown_table(summary: Summary) -> str:
    """Return the main table in Markdown."""
    return words.markdown_table([headers(summary), *text_rows(summary)])


def explanation(summary: Summary) -> str:
    """Return how to read the main table, in sentences."""
    over, gains = summary.repeats.over, "gain and jumpstart" if summary.has_jumpstart else "gain"
    sentences = [
        f"Means over {over} with 95 % intervals; {gains} in percentage points, paired by"
        f" {summary.repeats.pair}.",
        _test(summary),
        f"Epochs and time to the baseline's best are medians with the least and the most of the {over}."
        if summary.baseline
        else "",
        "Training time is the mean of a run, without pretraining; an arm that finds the features of frozen"
        " layers in the cache, since an earlier arm has computed them, does not count that time.",
        "Times of arms can be compared only if the machine did nothing else while they trained.",
    ]
    return " ".join(filter(None, sentences))


def _test(summary: Summary) -> str:
    """Return how p is computed and what it decides; empty: no arm has a p."""
    compared = [arm for arm in summary.arms if arm.comparison and arm.comparison.p_holm is not None]
    if not compared:
        return ""
    test = f"p: two-sided t-test, paired by {summary.repeats.pair}"
    planned = next((arm.name for arm in compared if arm.comparison and arm.comparison.planned), None)
    if len(compared) == 1:
        return f"{test}."
    except_for = (
        f"; for {planned}, the uncorrected one does, since validation chose it as the one planned comparison"
        if planned
        else ""
    )
    return (
        f"{test}, corrected for the {len(compared)} arms compared (Holm). The corrected p decides whether an"
        f" arm helped or hurt{except_for}. Intervals are not corrected."
    )


def by_class(arms: Sequence[Arm]) -> tuple[list[str], list[ByClass]]:
    """Return the names of the classes, and each arm's confusion over its runs together.

    With several labels per image there is no confusion, and both are empty.
    """
    if arms[0].headline == MAP:
        return [], []
    names = {name for arm in arms for run in arm.runs.values() for name in (*run.labels, *run.predictions)}
    classes = sorted(names, key=natural_order)
    index = {name: place for place, name in enumerate(classes)}

    def pooled(arm: Arm) -> ByClass:
        labels = [index[name] for run in arm.runs.values() for name in run.labels]
        predictions = [index[name] for run in arm.runs.values() for name in run.predictions]
        return ByClass(arm.name, Confusion.of(labels, predictions, len(classes)))

    return classes, [pooled(arm) for arm in arms]


def by_label(arms: Sequence[Arm]) -> list[tuple[str, list[float]]]:
    """Return each label and the F1 of its predictions in each arm, all runs pooled."""
    counts = [
        label_counts(
            (labels_in(own), labels_in(guessed))
            for run in arm.runs.values()
            for own, guessed in zip(run.labels, run.predictions, strict=True)
        )
        for arm in arms
    ]
    never = LabelCounts(0, 0, 0)
    names = sorted(set().union(*counts), key=natural_order)
    return [(name, [of_arm.get(name, never).f1 for of_arm in counts]) for name in names]


def _rows(summary: Summary) -> list[Row]:
    """Return the rows with all columns."""
    return [_row(arm, test_sets(summary), summary.repeats.noun) for arm in summary.arms]


def _filled(rows: Sequence[Row]) -> list[bool]:
    """Return for each column whether any row has a value there."""
    return [
        any(cell.text != words.NOTHING for cell in column)
        for column in zip(*(row.cells for row in rows), strict=True)
    ]


def _row(arm: ArmSummary, tested: Sequence[str], noun: str) -> Row:
    accuracy, comparison, many = arm.score, arm.comparison, len(arm.repetitions) > 1
    return Row(
        arm=arm.name,
        outcome=comparison.outcome if comparison else None,
        cells=[
            _accuracy_cell(accuracy),
            _gain_cell(comparison.gain if comparison else None),
            _p_cell(comparison),
            _gain_cell(comparison.jumpstart if comparison else None),
            _time_cell(arm.epochs_to_baseline, words.epochs, noun),
            _time_cell(arm.seconds_to_baseline, units.seconds, noun),
            Cell(
                units.seconds(arm.train_seconds.mean),
                f"{units.seconds(arm.all_train_seconds)} in all" if arm.all_train_seconds and many else "",
            ),
            *(_accuracy_cell(arm.test_sets.get(name)) for name in tested),
        ],
    )


def _accuracy_cell(accuracy: Estimate | None) -> Cell:
    if accuracy is None:
        return Cell(words.NOTHING)
    return Cell(words.percent(accuracy.mean), words.interval(accuracy))


def _gain_cell(gain: Gain | None) -> Cell:
    return Cell(words.points(gain.mean), words.gain_interval(gain)) if gain else Cell(words.NOTHING)


def _p_cell(comparison: BaselineComparison | None) -> Cell:
    """Return the corrected p; the detail of the planned comparison is its own p, which decides."""
    if comparison is None or comparison.p_holm is None:
        return Cell(words.NOTHING)
    corrected, own = words.p_value(comparison.p_holm), words.p_value(comparison.gain.p)
    return Cell(corrected, f"uncorrected {own}" if comparison.planned and own != corrected else "")


def _time_cell(when: TimeToThreshold | None, as_text: Callable[[float], str], noun: str) -> Cell:
    """Return the median over runs; the detail is how often it was never reached, else the range."""
    if when is None:
        return Cell(words.NOTHING)
    text = "never" if when.median is None else as_text(when.median)
    if missed := words.missed(when, noun):
        return Cell(text, f"never in {missed}" if when.median is not None else missed)
    assert when.least is not None
    assert when.most is not None
    if when.n > 1 and when.least == when.most:
        return Cell(text, words.equal(when.n))
    return Cell(text, f"{as_text(when.least)} to {as_text(when.most)}" if when.n > 1 else "")
