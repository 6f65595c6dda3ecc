"""Choose the runs and metrics of a comparison."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from frostline.base.metrics import headline
from frostline.comparison.runs import Results
from frostline.comparison.statistics import Comparison, Result, compare
from frostline.console.errors import FrostlineError, allowed
from frostline.tracking import sync
from frostline.tracking.store import Store

METRICS = ("best/val/{}", "test/{}", "train_seconds")
"""The metrics that are compared unless others are named, as far as there are runs that have them; with
accuracy, or with mAP if there are runs with several labels per image."""
TESTED_METRIC = "test/{}"
"""The metric that is tested if it is among the metrics; else the first is."""
TITLE = "Runs compared"
"""The title unless a study is compared."""


@dataclass(frozen=True)
class Compared:
    """A comparison of recorded runs."""

    title: str
    comparison: Comparison
    experiment: str
    """The id of their MLflow experiment."""


def compare_runs(
    runs: Sequence[str] = (),
    study: str | None = None,
    condition: str | None = None,
    metrics: Sequence[str] = (),
) -> Compared:
    """Compare finished runs; without arguments those of the study that ran last.

    Args:
        runs: run folders, ids or names; a name without its seed, or its beginning, means all seeds.
        study: the name of a study or a sweep, instead of runs.
        condition: a search filter of MLflow, instead of runs.
        metrics: the columns; the first sorts the rows. Empty: those of `METRICS` that the runs
            have, and accuracies on further test sets.

    Raises:
        FrostlineError: no run is found, no run has a metric, or MLflow can't be read.
    """
    if runs and (study or condition):
        raise FrostlineError("compare: name runs, or use --study and --filter")
    sync.deliver_pending()
    store = Store(reading=True)
    with store.one_sentence("compare"):
        title, results = _select(Results(store), runs, study, condition)
    metrics = _metrics(results, metrics)
    tested = TESTED_METRIC.format(headline({metric for result in results for metric in result.metrics}))
    tested = tested if tested in metrics else metrics[0]
    return Compared(title, compare(results, metrics, tested), store.experiment)


def _select(
    results: Results, runs: Sequence[str], study: str | None, condition: str | None
) -> tuple[str, list[Result]]:
    """Return the title of the comparison, and its runs, oldest first."""
    if runs:
        named = [run for name in runs for run in results.named(name)]
        return TITLE, list({run.id: run for run in named}.values())
    if study is None and condition is None:
        study = results.newest_study()
        print(f"the study or sweep that ran last, {study}; --study names another", file=sys.stderr)
    return study or TITLE, results.matching(study, condition)


def _metrics(results: Sequence[Result], requested: Sequence[str]) -> Sequence[str]:
    """Return the metrics to compare."""
    known = {metric for result in results for metric in result.metrics}
    for metric in requested:
        if metric not in known:
            raise FrostlineError(f"--metric: no run has {metric!r}; {allowed(metric, known)}")
    metric = headline(known)
    usual = [name.format(metric) for name in METRICS]
    # Further test sets that all runs were measured on: of several studies, others would be empty columns.
    shared = set.intersection(*(set(result.metrics) for result in results))
    further = sorted(name for name in shared if re.fullmatch(rf"test/[^/]+/{metric}", name))
    if metrics := requested or [name for name in usual if name in known]:
        return metrics if requested else [*metrics, *further]
    others = ", ".join(sorted(known)) or "no metric at all"
    raise FrostlineError(f"compare: these runs have none of {', '.join(usual)} but {others}; use --metric")
