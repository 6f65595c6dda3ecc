"""Progress of a sweep: a table on a terminal, otherwise a line every 30 seconds."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from frostline.console import progress, tables
from frostline.sweeps.best import settings_of
from frostline.sweeps.repeating import repeated
from frostline.sweeps.study import Study
from frostline.sweeps.trial import ENDED, Trial
from frostline.sweeps.worker import label_of

if TYPE_CHECKING:
    from frostline.console.tables import FittingTable

REFRESH_SECONDS = 1.0
LINE_SECONDS = 30.0
"""Between two lines, where standard error is a file or a pipe."""
ENDED_SHOWN = 5
"""Of the trials that have ended, the latest ones in the table, beside all that run."""


@dataclass(frozen=True)
class Budget:
    """The limits and the workers of a sweep, from which the remaining time is estimated."""

    trials: int | None
    """In all; None: only time is a limit."""
    until: float | None
    """The time, in seconds since 1970, after which no trial begins; None: no limit."""
    begun: float
    """When this command began."""
    workers: int
    """Processes that run trials."""


@contextmanager
def shown(study: Study, trials: int | None, until: float | None) -> Iterator[None]:
    """Show the trials of a study on standard error, while the block runs.

    Args:
        study: a connection of its own, used by a thread.
        trials: see `Budget`.
        until: see `Budget`.
    """
    budget = Budget(trials, until, time.time(), int(study.settings.workers))
    objective = study.settings.objectives[0]

    if sys.stderr.isatty():
        from rich.live import Live

        with Live(console=progress.console(), refresh_per_second=4, transient=True) as live:

            def draw() -> None:
                trials = study.current_trials()
                title = f"{study.name}: {status(trials, budget, objective)}"
                live.update(table(trials, title, objective))

            with repeated(draw, REFRESH_SECONDS):
                yield
    else:

        def say() -> None:
            print(
                f"{study.name}: {status(study.current_trials(), budget, objective)}",
                file=sys.stderr,
                flush=True,
            )

        with repeated(say, LINE_SECONDS, at_once=False):
            yield


def status(trials: Sequence[Trial], budget: Budget, objective: str) -> str:
    """Return a sweep's progress: ``12 of 64 ended, 2 running, best val/accuracy 0.9577, 3 min left``.

    Args:
        trials: those that no other trial repeats.
    """
    counts: Counter[str] = Counter(trial.state for trial in trials)
    ended = sum(counts[state] for state in ENDED)
    parts = [f"{ended} of {budget.trials} ended" if budget.trials is not None else f"{ended} ended"]
    parts += [f"{counts[state]} {state}" for state in ("running", "pruned", "failed") if counts[state]]
    if settings := settings_of(trials, objective):
        over = f" (mean of {count} runs)" if (count := len(settings[0].trials)) > 1 else ""
        parts.append(f"best {objective} {settings[0].objective['mean']:.4f}{over}")
    if (left := _left(trials, budget)) is not None:
        parts.append(f"{_rounded(left)} left")
    return ", ".join(parts)


def table(trials: Sequence[Trial], title: str, objective: str) -> "FittingTable":
    """Return a table of the trials that run and the latest that have ended."""
    running = [trial for trial in trials if trial.state == "running"]
    ended = sorted((t for t in trials if t.state in ENDED), key=lambda trial: trial.ended)
    headers = ("trial", "parameters", "state", "epoch", objective, "seconds")
    return tables.table(headers, map(_row, [*running, *ended[-ENDED_SHOWN:]]), title)


def _row(trial: Trial) -> tuple[str, ...]:
    epoch, value = trial.reported or ("", None)
    if trial.state == "complete":
        epoch, value = "", trial.values[0]
    number = "" if value is None else f"{value:.4f}"
    return (str(trial.number), label_of(trial.point), trial.state, str(epoch), number, f"{trial.seconds:.0f}")


def _left(trials: Sequence[Trial], budget: Budget) -> float | None:
    """Seconds until the sweep ends, if future trials take as long as those that ended in this command."""
    limits = [budget.until - time.time()] if budget.until is not None else []
    took = [trial.seconds for trial in trials if trial.state in ENDED and trial.ended > budget.begun]
    if budget.trials is not None and took:
        ended = sum(trial.state in ENDED for trial in trials)
        mean = sum(took) / len(took)
        spent = sum(min(trial.seconds, mean) for trial in trials if trial.state == "running")
        limits.append(((budget.trials - ended) * mean - spent) / max(budget.workers, 1))
    return max(min(limits), 0.0) if limits else None


def _rounded(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
