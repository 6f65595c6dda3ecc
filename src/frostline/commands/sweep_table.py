"""The table of a sweep's runs that `frostline pretrain -m` and `frostline finetune -m` print."""

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from frostline.commands.options import TABLE_WIDTH
from frostline.config.compose import FailedJob
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
    table = Table("run", "val accuracy", "test accuracy", "out", box=None)
    for job in best[:SHOWN_RUNS]:
        table.add_row(job.name, _accuracy(job, "val"), _accuracy(job, "test"), str(job.out))
    for stopped in (job for job in jobs if isinstance(job, Stopped)):
        table.add_row(stopped.name, "pruned", "", "")
    for failure in failed:
        table.add_row(failure.label, "failed", "failed", "")
    console = Console(width=None if sys.stdout.isatty() else TABLE_WIDTH, highlight=False)
    console.print(table)
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


def _accuracy(run: Done, split: str) -> str:
    return f"{run.metrics[split]['accuracy']:.4f}" if split in run.metrics else ""
