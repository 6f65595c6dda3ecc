"""The table of a sweep's runs that `frostline pretrain -m` and `frostline finetune -m` print."""

import sys
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from frostline.comparison.ranking import rank
from frostline.config.compose import FailedJob
from frostline.console import tables
from frostline.console.errors import FrostlineError, TrainingFailed
from frostline.pipeline.standalone import Done, Stopped

METRIC = "val/accuracy"
SHOWN_RUNS = 24
"""How many runs the table has at most; the sweep's page and its table of trials have all."""


def print_sweep(jobs: Sequence[Any]) -> None:
    """Print a sweep's runs, those of the best setting first, then the pruned and the failed ones.

    Settings are ordered by their mean validation accuracy over seeds (`comparison.ranking`).

    Raises:
        FrostlineError: some runs failed; TrainingFailed if the training of one did.
    """
    failed = [job for job in jobs if isinstance(job, FailedJob)]
    done = [job for job in jobs if isinstance(job, Done)]
    settings = _settings(done)
    best = [run for runs in settings for run in runs]
    several = len(settings) < len(done)
    means = {id(run): f"{fmean(map(_val, runs)):.4f}" for runs in settings for run in runs}
    headers = ("run", "val accuracy", *(["mean over seeds"] if several else []), "test accuracy", "out")
    rows = [
        *(_row(job, [means[id(job)]] if several else []) for job in best[:SHOWN_RUNS]),
        *((job.name, "pruned") for job in jobs if isinstance(job, Stopped)),
        *((failure.label, "failed", "failed") for failure in failed),
    ]
    tables.print_whole(headers, rows)
    console = tables.stdout_console()
    if len(best) > SHOWN_RUNS:
        console.print(f" … and {len(best) - SHOWN_RUNS} more, whose val accuracy is lower")
    if done:
        console.print("compare them: frostline compare; in the browser: frostline ui")
    if failed:
        sys.stdout.flush()
        sentences = "\n".join(f"{failure.label}: {failure.error}" for failure in failed)
        broke_down = any(isinstance(failure.error, TrainingFailed) for failure in failed)
        kind = TrainingFailed if broke_down else FrostlineError
        raise kind(f"{len(failed)} of {len(jobs)} runs failed\n{sentences}")


def _settings(done: Sequence[Done]) -> list[list[Done]]:
    """Return the runs of each setting, the best first."""
    groups: dict[str, list[Done]] = {}
    for run in done:
        groups.setdefault(run.setting or run.name, []).append(run)
    most = max(map(len, groups.values()), default=0)
    ordered = sorted(groups.values(), key=lambda runs: rank(METRIC, [*map(_val, runs)], most))
    return [sorted(runs, key=_val, reverse=True) for runs in ordered]


def _val(run: Done) -> float:
    return run.metrics["val"]["accuracy"]


def _row(run: Done, mean: Sequence[str]) -> tuple[str, ...]:
    return (run.name, f"{_val(run):.4f}", *mean, _test(run), str(run.out))


def _test(run: Done) -> str:
    return f"{run.metrics['test']['accuracy']:.4f}" if "test" in run.metrics else ""
