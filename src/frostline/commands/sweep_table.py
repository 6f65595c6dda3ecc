"""The table of a sweep's runs that `frostline pretrain -m` and `frostline finetune -m` print."""

import sys
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from rich.table import Column

from frostline.base.metrics import ACCURACY, headline, headline_value
from frostline.config.compose import FailedJob
from frostline.console import tables
from frostline.pipeline.standalone import Done, Stopped
from frostline.sweeps.jobs import check, objective_of, objective_value, settings_of

SHOWN_RUNS = 24
"""How many runs the table has at most; the sweep's page and its table of trials have all."""


def print_sweep(jobs: Sequence[Any]) -> None:
    """Print a sweep's runs, those of the best setting first, then the pruned and the failed ones.

    Settings are ordered by the mean of the sweep's objective over seeds (`comparison.ranking`).

    Raises:
        FrostlineError: some runs failed; TrainingFailed if the training of one did.
    """
    failed = [job for job in jobs if isinstance(job, FailedJob)]
    settings = settings_of(jobs)
    best = [run for runs in settings for run in runs]
    several = len(settings) < len(best)
    means = {id(run): f"{fmean(map(objective_value, runs)):.4f}" for runs in settings for run in runs}
    metric = headline(best[0].metrics["val"]) if best else ACCURACY
    objective = objective_of(best[0]).replace("/", " ") if best else f"val {metric}"
    out = Column("out", no_wrap=True)  # a path that is broken into lines can't be copied
    headers: list[str | Column] = [
        "run",
        objective,
        *(["mean of runs"] if several else []),
        f"test {metric}",
        out,
    ]
    rows = [
        *(_row(job, [means[id(job)]] if several else []) for job in best[:SHOWN_RUNS]),
        *((job.name, "pruned") for job in jobs if isinstance(job, Stopped)),
        *((failure.label, "failed") for failure in failed),
    ]
    tables.print_table(headers, rows)
    console = tables.stdout_console()
    if len(best) > SHOWN_RUNS:
        console.print(f" … and {len(best) - SHOWN_RUNS} more, whose {objective} is no better")
    if best:
        console.print("compare them: frostline compare; in the browser: frostline ui")
    if failed:
        sys.stdout.flush()
    check(jobs)


def _row(run: Done, mean: Sequence[str]) -> tuple[str, ...]:
    test = f"{headline_value(run.metrics['test']):.4f}" if "test" in run.metrics else ""
    return (run.name, f"{objective_value(run):.4f}", *mean, test, str(run.out))
