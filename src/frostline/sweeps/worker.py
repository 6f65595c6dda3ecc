"""Runs a sweep's trials, one after the other, in a process whose imports, data and features stay warm."""

import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline import schema
from frostline.base.hashes import sha256_of
from frostline.base.run_folder import CONFIG
from frostline.base.sharing import ALL, Share
from frostline.config import compose
from frostline.config.overrides import from_hydra
from frostline.config.space import Point, Space, as_overrides
from frostline.console import progress, signals, terminal
from frostline.console.errors import FrostlineError, OutOfResources, Pruned, ResourceLocked
from frostline.pipeline.session import finish_recording
from frostline.sweeps.repeating import repeated
from frostline.sweeps.storage import store_failures
from frostline.sweeps.study import Study
from frostline.sweeps.trial import BEAT_SECONDS, TRANSIENT, RunningTrial
from frostline.tracking.run_tags import REPEATED
from frostline.training.services import (
    SWEEP_KEYS,
    SWEEP_OBJECTIVE,
    TRIAL_AGAIN,
    TRIAL_NUMBER,
    TRIAL_STATE,
    Watch,
)

Row = Mapping[str, float | int | None]
RESULTS = ("name", "out", "metrics")
"""The user attributes of a complete trial that describe its run."""
REASON_LIMIT = 500
"""Characters of a failure's reason that are stored."""


@dataclass(frozen=True)
class Worker:
    """Runs trials until none is left; picklable, for launchers to send to other processes.

    Args:
        run: trains for (experiment, choices, label, watch, tags); returns an object with `out` and `metrics`.
        settings: the sweep's config.
        base: everything else that results depend on; see `Study`.
        until: the time, in seconds since 1970, after which no trial begins; None: no limit.
        owns_terminal: whether no other worker writes to the terminal.
    """

    run: Callable[..., Any]
    name: str
    settings: schema.Sweep
    space: Space
    fixed: tuple[str, ...]
    base: Mapping[str, Any]
    until: float | None = None
    owns_terminal: bool = True
    share: Share = ALL

    @store_failures()
    def __call__(self, number: int = 0) -> None:
        """Run trials.

        Raises:
            KeyboardInterrupt: the user interrupted it; the next worker repeats its trial.
            FrostlineError: the study's store fails.
        """
        if not self.owns_terminal:
            terminal.configure_streams()
            progress.disable_bars()
            signals.install()
        with signals.interruptible():
            self._run_trials(number)

    def _run_trials(self, number: int) -> None:
        study = Study(self.name, self.settings, self.space, self.base, number)
        composed: compose.Composed = {}
        try:
            with self.share.taken(number):
                while not self.is_over(study) and (trial := study.ask()):
                    self._run_trial(study, trial, composed)
        except KeyboardInterrupt:
            # The launcher kills this process and its recorder as soon as this call returns.
            if not self.owns_terminal:
                finish_recording()
            raise

    def is_over(self, study: Study) -> bool:
        """Return whether the time is up or too many trials failed for the same reason."""
        if self.until is not None and time.time() > self.until:
            return True
        return bool(repeated_failure(study, self.settings.failures))

    def _run_trial(self, study: Study, trial: RunningTrial, cache: compose.Composed) -> None:
        label = label_of(trial.point)
        if same := study.completed(trial.point):
            results = {key: same.user_attrs[key] for key in (*RESULTS, CONFIG) if key in same.user_attrs}
            trial.complete(same.values, {**results, "same": same.number})
            return
        try:
            with repeated(trial.beat, BEAT_SECONDS, at_once=False):
                ((composed, choices),) = compose.compose_points(
                    self.fixed, [as_overrides(trial.point)], cache
                )
                keys = ",".join(p.key for p in self.space.parameters if p.key not in REPEATED)
                tags = {TRIAL_NUMBER: str(trial.number), TRIAL_STATE: "running"}
                tags |= {SWEEP_KEYS: keys, SWEEP_OBJECTIVE: self.settings.objectives[0]}
                if trial.retry_of is not None:
                    tags[TRIAL_AGAIN] = str(trial.retry_of)
                done = self.run(composed, choices, label, self._watch(trial), tags)
        except Pruned:
            trial.pruned()
        except FrostlineError as error:
            transient = isinstance(error, OutOfResources | ResourceLocked)
            reason = str(error)[:REASON_LIMIT]
            trial.failed({"reason": reason, "kind": failure_kind(error), TRANSIENT: transient})
            print(f"frostline: trial {trial.number}, {label}: {error}; the sweep continues", file=sys.stderr)
        except Exception as error:
            # A bug in frostline or in a plug-in: the other trials are still worth running.
            trace = "".join(traceback.format_exception(error))
            reason = f"{type(error).__name__}: {error}"[:REASON_LIMIT]
            trial.failed({"kind": failure_kind(error), "reason": reason, "traceback": trace[-2000:]})
            print(f"frostline: trial {trial.number}, {label}: {reason}", file=sys.stderr)
        else:
            trial.complete(objectives_of(done.metrics, self.settings), results_of(done))

    def _watch(self, trial: RunningTrial) -> Watch:
        """Return the callback that reports each epoch, and ends a trial that the pruner stops.

        With several objectives it does nothing: Optuna can't prune by several.
        """
        (monitor, *others) = self.settings.objectives

        def watch(row: Row) -> None:
            epoch, value = row.get("epoch"), row.get(monitor)
            if epoch and value is not None and not others and trial.report(int(epoch), float(value)):
                raise Pruned(f"after epoch {epoch}, at {monitor} {value:.4f}")

        return watch


def label_of(point: Point) -> str:
    """Return a trial's overrides, such as ``freeze=full,seed=1``; numbers are rounded.

    >>> label_of({"freeze": "full", "optimizer.lr": 0.000316227766})
    'freeze=full,optimizer.lr=0.000316'
    """
    short = {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in point.items()}
    return ",".join(from_hydra(override) for override in as_overrides(short))


def results_of(done: Any) -> dict[str, Any]:
    """Return the user attributes of a finished run: `RESULTS`, and its config's hash."""
    attributes = {"name": done.name, "out": str(done.out), "metrics": done.metrics}
    config = Path(done.out) / CONFIG
    return {**attributes, CONFIG: sha256_of(config)} if config.is_file() else attributes


def objectives_of(metrics: Mapping[str, Mapping[str, float]], settings: schema.Sweep) -> list[float]:
    """Return the values of a sweep's objectives, such as ``val/accuracy``, from a run's metrics."""
    return [float(metrics["val"][name.removeprefix("val/")]) for name in settings.objectives]


def failure_kind(error: Exception) -> str:
    """Return what failures for the same reason have in common: the class, and the message without numbers."""
    return f"{type(error).__name__}: {re.sub(r'[0-9][0-9.e+-]*', '#', str(error))[:80]}"


def repeated_failure(study: Study, limit: int) -> str | None:
    """Return the kind of failure that occurred `limit` times, if there is one."""
    failed = (trial for trial in study.current_trials() if trial.state == "failed")
    kinds = Counter(trial.user_attrs.get("kind", "") for trial in failed)
    return next((kind for kind, count in kinds.items() if count >= limit), None)
