"""What a sweep's trials are at, while they run: a table on a terminal, a line now and then elsewhere."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from frostline.base.metrics import score
from frostline.console import progress
from frostline.sweeps.study import Study
from frostline.sweeps.trial import ENDED, Trial
from frostline.sweeps.worker import label_of

if TYPE_CHECKING:
    from rich.table import Table

REFRESH_SECONDS = 1.0
LINE_SECONDS = 30.0
"""The least time between two lines, where standard error is a file or a pipe."""
ENDED_SHOWN = 5
"""Trials that have ended, the latest, beside all that run."""


@contextmanager
def shown(study: Study, total: int | None, until: float | None) -> Iterator[None]:
    """Show the trials of a study on standard error, while the block runs.

    Args:
        study: a connection of its own, used by a thread.
        total: trials in all; None: only time is a limit.
        until: the time, in seconds since 1970, after which no trial begins; None: none is too late.
    """
    over = threading.Event()
    begun = time.time()

    def trials() -> list[Trial]:
        return [trial for trial in study.trials() if not trial.superseded]

    def words(found: Sequence[Trial]) -> str:
        return status(found, total, until, begun, int(study.settings.workers), study.settings.objectives[0])

    if sys.stderr.isatty():
        from rich.live import Live

        with Live(console=progress.console(), refresh_per_second=4, transient=True) as live:

            def draw() -> None:
                found = trials()
                live.update(table(found, f"{study.name}: {words(found)}", study.settings.objectives[0]))

            with _again_and_again(draw, over, REFRESH_SECONDS):
                yield
    else:

        def say() -> None:
            print(f"{study.name}: {words(trials())}", file=sys.stderr, flush=True)

        with _again_and_again(say, over, LINE_SECONDS, at_once=False):
            yield


@contextmanager
def _again_and_again(
    do: Callable[[], None], over: threading.Event, seconds: float, *, at_once: bool = True
) -> Iterator[None]:
    def work() -> None:
        wait = 0.0 if at_once else seconds
        while not over.wait(wait):
            wait = seconds
            with suppress(Exception):  # a store that is busy: the next time will do
                do()

    thread = threading.Thread(target=work, name="a sweep's table", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(seconds)


def status(
    trials: Sequence[Trial],
    total: int | None,
    until: float | None,
    begun: float,
    workers: int,
    objective: str,
) -> str:
    """Say in a line how far a sweep is: ``12 of 64 ended, 2 running, 1 pruned, best 0.9577, 3 min left``.

    Args:
        trials: that were not killed.
        total: as `shown` has it, like `until`.
        until: see there.
        begun: when this command began.
        workers: that take trials.
        objective: the first.
    """
    counts: Counter[str] = Counter(trial.state for trial in trials)
    ended = sum(counts[state] for state in ENDED)
    said = [f"{ended} of {total} ended" if total is not None else f"{ended} ended"]
    said += [f"{counts[state]} {state}" for state in ("running", "pruned", "failed") if counts[state]]
    values = [trial.values[0] for trial in trials if trial.state == "complete"]
    if values:
        said.append(f"best {max(values, key=lambda value: score(objective, value)):.4f}")
    if (left := _left(trials, total, until, begun, workers)) is not None:
        said.append(f"{_rounded(left)} left")
    return ", ".join(said)


def table(trials: Sequence[Trial], title: str, objective: str) -> "Table":
    """Return the trials that run, and the latest of those that have ended, as a table."""
    from rich.table import Table

    made = Table("trial", "settings", "state", "epoch", objective, "seconds", title=title, box=None)
    made.title_justify = "left"
    running = [trial for trial in trials if trial.state == "running"]
    ended = sorted((t for t in trials if t.state in ENDED), key=lambda trial: trial.ended)
    for trial in [*running, *ended[-ENDED_SHOWN:]]:
        epoch, value = trial.reported or ("", None)
        if trial.state == "complete":
            epoch, value = "", trial.values[0]
        cells = [str(trial.number), label_of(trial.point), trial.state, str(epoch)]
        made.add_row(*cells, "" if value is None else f"{value:.4f}", f"{trial.seconds:.0f}")
    return made


def _left(
    trials: Sequence[Trial], total: int | None, until: float | None, begun: float, workers: int
) -> float | None:
    """Seconds until the sweep ends, if the trials to come take as long as those of this command took."""
    limits = [until - time.time()] if until is not None else []
    took = [trial.seconds for trial in trials if trial.state in ENDED and trial.ended > begun]
    if total is not None and took:
        ended = sum(trial.state in ENDED for trial in trials)
        mean = sum(took) / len(took)
        spent = sum(min(trial.seconds, mean) for trial in trials if trial.state == "running")
        limits.append(((total - ended) * mean - spent) / max(workers, 1))
    return max(min(limits), 0.0) if limits else None


def _rounded(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
