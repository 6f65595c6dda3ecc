"""The table of a sweep's runs that `frostline pretrain -m` and `frostline finetune -m` print."""

import sys
from collections.abc import Sequence
from typing import Any

from frostline.config.compose import FailedJob
from frostline.console import tables
from frostline.console.errors import FrostlineError, TrainingFailed
from frostline.pipeline.standalone import Done, Stopped

SHOWN_RUNS = 24
"""How many runs the table has at most; the sweep's page and its table of trials have all."""


def print_sweep(jobs: Sequence[Any]) -> None:
    """Print a sweep's runs, the best on validation first, then the pruned and the failed ones.

    Raises:
        FrostlineError: some runs failed; TrainingFailed if the training of one did.
    """
    failed = [job for job in jobs if isinstance(job, FailedJob)]
    done = [job for job in jobs if isinstance(job, Done)]
    best = sorted(done, key=lambda job: -job.metrics["val"]["accuracy"])
    rows = [
        *(_row(job) for job in best[:SHOWN_RUNS]),
        *((job.name, "pruned") for job in jobs if isinstance(job, Stopped)),
        *((failure.label, "failed", "failed") for failure in failed),
    ]
    console = tables.stdout_console()
    console.print(tables.table(("run", "val accuracy", "test accuracy", "out"), rows))
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


def _row(run: Done) -> tuple[str, ...]:
    return (run.name, _accuracy(run, "val"), _accuracy(run, "test"), str(run.out))


def _accuracy(run: Done, split: str) -> str:
    return f"{run.metrics[split]['accuracy']:.4f}" if split in run.metrics else ""
