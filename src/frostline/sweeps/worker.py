"""Runs a sweep's trials, one after the other, in a process whose imports, data and features stay warm."""

import re
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline import schema
from frostline.base.hashes import sha256_of
from frostline.base.sharing import ALL, Share
from frostline.config import compose
from frostline.config.overrides import from_hydra
from frostline.config.space import Point, Space, as_overrides
from frostline.console import progress, signals, terminal
from frostline.console.errors import FrostlineError, OutOfResources, Pruned, ResourceLocked
from frostline.pipeline.session import finish_recording
from frostline.sweeps.storage import store_failures
from frostline.sweeps.study import Study
from frostline.sweeps.trial import BEAT_SECONDS, TRANSIENT, RunningTrial
from frostline.training.services import TRIAL_AGAIN, TRIAL_NUMBER, TRIAL_STATE, Watch

Row = Mapping[str, float | int | None]
RESULTS = ("name", "out", "metrics")
"""What a complete trial notes of its run."""
CONFIG = "config.yaml"
"""Of a run's folder; the note of that name is its sha256."""
REASON = 500
"""Characters of a failure's reason that are kept."""


@dataclass(frozen=True)
class Worker:
    """Takes trials until none is left; picklable, for launchers to send to other processes.

    Args:
        run: trains for (experiment, choices, label, watch); returns what has `out` and `metrics`.
        name: of the study.
        settings: of the sweep.
        space: what varies.
        fixed: the overrides that all trials have in common.
        base: all else that results depend on, as `Study` has it.
        until: the time, in seconds since 1970, after which no trial begins; None: none is too late.
        alone: whether the terminal is its own.
        share: of the machine, where workers share it.
    """

    run: Callable[..., Any]
    name: str
    settings: schema.Sweep
    space: Space
    fixed: tuple[str, ...]
    base: Mapping[str, Any]
    until: float | None = None
    alone: bool = True
    share: Share = ALL

    @store_failures()
    def __call__(self, number: int = 0) -> None:
        """Work.

        Args:
            number: which worker this is.

        Raises:
            KeyboardInterrupt: the user stopped it; the trial it was in waits for the next worker.
            FrostlineError: the study's store fails.
        """
        if not self.alone:
            terminal.configure_streams()
            progress.disable_bars()
            signals.install()
        with signals.interruptible():
            self._until_none_is_left(number)

    def _until_none_is_left(self, number: int) -> None:
        study = Study(self.name, self.settings, self.space, self.base, number)
        made: compose.Composed = {}
        try:
            with self.share.taken(number):
                while not self.over(study) and (taken := study.take()):
                    self._work(study, taken, made)
        except KeyboardInterrupt:
            if not self.alone:  # whoever sent us off kills us, and our recorder, as soon as we end
                finish_recording()
            raise

    def over(self, study: Study) -> bool:
        """Say whether time is up, or too much fails alike."""
        if self.until is not None and time.time() > self.until:
            return True
        return bool(stopped_by(study, self.settings.failures))

    def _work(self, study: Study, taken: RunningTrial, made: compose.Composed) -> None:
        label = label_of(taken.point)
        if found := study.known(taken.point):
            results = {key: found.user_attrs[key] for key in (*RESULTS, CONFIG) if key in found.user_attrs}
            taken.complete(found.values, {**results, "same": found.number})
            return
        try:
            with _beating(taken):
                ((composed, choices),) = compose.compose_points(self.fixed, [as_overrides(taken.point)], made)
                tags = {TRIAL_NUMBER: str(taken.number), TRIAL_STATE: "running"}
                if taken.retry_of is not None:
                    tags[TRIAL_AGAIN] = str(taken.retry_of)
                done = self.run(composed, choices, label, self._watch(taken), tags)
        except Pruned:
            taken.pruned()
        except FrostlineError as error:
            passing = isinstance(error, OutOfResources | ResourceLocked)
            taken.failed({"reason": str(error)[:REASON], "kind": kind_of(error), TRANSIENT: passing})
            print(f"frostline: trial {taken.number}, {label}: {error}; the sweep goes on", file=sys.stderr)
        except Exception as error:
            # A defect of ours or of a plug-in's: the other trials are still worth having.
            where = "".join(traceback.format_exception(error))
            notes = {"reason": f"{type(error).__name__}: {error}"[:REASON], "traceback": where[-2000:]}
            taken.failed({"kind": kind_of(error), **notes})
            print(f"frostline: trial {taken.number}, {label}: {notes['reason']}", file=sys.stderr)
        else:
            taken.complete(objectives_of(done.metrics, self.settings), results_of(done))

    def _watch(self, taken: RunningTrial) -> Watch:
        """What is told of each epoch, and ends a trial that others have left behind."""
        (monitor, *others) = self.settings.objectives

        def watch(row: Row) -> None:
            epoch, value = row.get("epoch"), row.get(monitor)
            if epoch and value is not None and not others and taken.report(int(epoch), float(value)):
                raise Pruned(f"after epoch {epoch}, at {monitor} {value:.4f}")

        return watch


def label_of(point: Point) -> str:
    """Return what sets a trial apart, such as ``freeze=full,seed=1``; numbers are rounded.

    >>> label_of({"freeze": "full", "optimizer.lr": 0.000316227766})
    'freeze=full,optimizer.lr=0.000316'
    """
    short = {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in point.items()}
    return ",".join(from_hydra(override) for override in as_overrides(short))


def results_of(done: Any) -> dict[str, Any]:
    """Return what a complete trial notes of a `standalone.Done`: `RESULTS`, and its config's hash."""
    notes = {"name": done.name, "out": str(done.out), "metrics": done.metrics}
    config = Path(done.out) / CONFIG
    return {**notes, CONFIG: sha256_of(config)} if config.is_file() else notes


def objectives_of(metrics: Mapping[str, Mapping[str, float]], settings: schema.Sweep) -> list[float]:
    """Return the values of a sweep's objectives, such as ``val/accuracy``, from a run's metrics."""
    return [float(metrics["val"][name.removeprefix("val/")]) for name in settings.objectives]


def kind_of(error: Exception) -> str:
    """Return what failures of one kind have in common: the class, and the sentence without its numbers."""
    return f"{type(error).__name__}: {re.sub(r'[0-9][0-9.e+-]*', '#', str(error))[:80]}"


def stopped_by(study: Study, limit: int) -> str | None:
    """Return the kind of failure that there are too many of, if there is one."""
    kinds = Counter(
        t.user_attrs.get("kind", "") for t in study.trials() if t.state == "failed" and not t.superseded
    )
    return next((kind for kind, count in kinds.items() if count >= limit), None)


@contextmanager
def _beating(taken: RunningTrial) -> Iterator[None]:
    """Say again and again that a trial lives, while the block runs."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT_SECONDS):
            with suppress(Exception):  # a store that is away for a moment: the next beat will do
                taken.beat()

    thread = threading.Thread(target=beat, name="a trial's beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
