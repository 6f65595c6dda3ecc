"""A sweep's study: its trials in Optuna's store, shared by all processes that run them.

The points of a grid and of a random search are functions of the config alone, so that a sweep that was killed
and resumed has the same trials as one that ran through.
"""

import fcntl
import json
import os
import socket
import sys
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import TrialState, create_trial

from frostline import schema
from frostline.base import devices, project
from frostline.base.files import set_aside
from frostline.base.formats import canonical_json
from frostline.base.hashes import content_key
from frostline.base.metrics import score
from frostline.base.processes import process_key
from frostline.config.space import Point, Space
from frostline.console.errors import FrostlineError, ResourceLocked
from frostline.sweeps import samplers, storage
from frostline.sweeps.distributions import distribution, suggest
from frostline.sweeps.importance import importances
from frostline.sweeps.trial import (
    BATCHED,
    ENDED,
    PROCESS,
    RECORD,
    RETRY_OF,
    Remaining,
    RunningTrial,
    Trial,
    is_alive,
    is_intact,
    point_of,
    record_hash,
    stored_trial,
    superseded,
)
from frostline.tracking import local_store
from frostline.tracking.run_tags import REPEATED

optuna.logging.set_verbosity(optuna.logging.ERROR)


def direction(objective: str) -> Literal["maximize", "minimize"]:
    """Return the direction in which an objective improves."""
    return "minimize" if score(objective, 1.0) < 0 else "maximize"


def sampling_config(settings: schema.Sweep) -> dict[str, Any]:
    """Return the part of a sweep's config that identifies its study: how trials are sampled and pruned."""
    return settings.model_dump(include={"sampler", "pruner", "objectives", "seed"})


class Study:
    """The trials of one sweep.

    Args:
        settings: the sweep's config: sampler, pruner, objectives, limits.
        base: everything else that the trials' results depend on; plain data.
        worker: the number of this worker process; each worker's sampler has its own seed.
    """

    def __init__(
        self, name: str, settings: schema.Sweep, space: Space, base: Mapping[str, Any], worker: int = 0
    ) -> None:
        self.name, self.settings, self.space, self.base, self.worker = name, settings, space, base, worker
        self._storage: Any = None
        self._study: optuna.Study | None = None
        self._used: int | None = None

    @property
    def store(self) -> str:
        """The URL of Optuna's storage."""
        if self.settings.store is not None:
            return self.settings.store
        return f"{project.SQLITE}{project.scratch() / 'sweeps' / self.name}.db"

    def begin(self, *, fresh: bool = False, code: str = "") -> None:
        """Create the study or load it; while this object lives, no other command can delete it.

        Args:
            fresh: delete a study of this name first.
            code: the hash of the code that trains. If the study began with other code, its trials are kept,
                and a sentence says so.

        Raises:
            ResourceLocked: the study can't be deleted while another command or one of its trials runs.
            FrostlineError: the store can't be opened, or has a study of this name with another config.
        """
        self._hold_usage_lock(exclusive=fresh)
        with storage.locked(self.store):
            own = self._own_file()
            if own is not None and own.is_file() and (flaw := storage.corruption(own)):
                self._set_aside(own, flaw)
            if fresh:
                self._delete()
                self._hold_usage_lock()
            study = self._opened()
            altered = (trial.number for trial in study.get_trials(deepcopy=False) if not is_intact(trial))
            if own is not None and (number := next(altered, None)) is not None:
                self._set_aside(own, f"trial {number} does not match its hash")
                study = self._opened()
            stored = study.user_attrs.get("settings")
            identity = json.loads(canonical_json(self._identity()))
            if stored is None:
                study.set_user_attr("settings", identity)
                study.set_user_attr("code", code)
            elif stored != identity:
                different = _first_difference(stored, identity)
                raise FrostlineError(
                    f"sweep.name: the study {self.name!r} was created with another {different};"
                    " add --fresh to start over, or choose another name"
                )
            elif study.user_attrs.get("code", code) != code:
                print(
                    f"frostline: the sweep {self.name} began with another version of frostline, torch, timm"
                    " or Lightning, and keeps its finished trials; --fresh runs all again",
                    file=sys.stderr,
                )

    def retry(self, condition: Callable[[Trial], bool]) -> int:
        """Enqueue again the points of ended trials that meet a condition; return how many."""
        with storage.locked(self.store):
            retried = [t for t in self.current_trials() if t.state in ENDED and condition(t)]
            for trial in retried:
                self._opened().enqueue_trial(dict(trial.point), user_attrs={RETRY_OF: trial.number})
        return len(retried)

    def missing_points(self) -> list[Point]:
        """Return the points of a grid that no trial has yet."""
        taken = [trial.point for trial in self.current_trials()]
        points = self.space.combinations()[: self.settings.trials]
        return [point for point in points if point not in taken]

    def enqueue_missing(self) -> None:
        """Enqueue the points of a grid that no trial has yet; do nothing for other samplers."""
        if self.settings.sampler.kind == "grid":
            with storage.locked(self.store):
                self._retry_dead()
                for point in self.missing_points():
                    self._opened().enqueue_trial(point)

    def ask(self) -> RunningTrial | None:
        """Return the next trial to run: one that waits, else a new one; None if none is left.

        Points of trials whose process died wait again.
        """
        with storage.locked(self.store):
            study = self._opened()
            self._retry_dead()
            if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                drawn = self.current_trials()
                limit = self.settings.trials
                if self.settings.sampler.kind == "grid" or (limit is not None and len(drawn) >= limit):
                    return None
                if self.settings.sampler.kind == "random":
                    study.enqueue_trial(self.space.random(self.settings.seed, len(drawn)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                study.sampler = self._sampler
                trial = study.ask()
                point = self.space.draw(lambda parameter: suggest(trial, parameter))
            user_attrs = {"host": socket.gethostname(), PROCESS: process_key()}
            if devices.VISIBLE in os.environ:
                user_attrs[devices.VISIBLE] = os.environ[devices.VISIBLE]
            for key, value in user_attrs.items():
                trial.set_user_attr(key, value)
            running = RunningTrial(self, trial, point)
            running.beat()
            return running

    def remaining(self) -> Remaining:
        """Count the trials that are still to run, and those that run now.

        Three kinds are still to run: waiting trials; trials whose process died, which `ask` repeats; and
        trials that are not created yet, up to `sweep.trials`.
        """
        trials = self._opened().get_trials(deepcopy=False)
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        alive = sum(map(is_alive, running))
        waiting = sum(trial.state == TrialState.WAITING for trial in trials) + len(running) - alive
        if self.settings.sampler.kind == "grid":
            return Remaining(waiting, alive)
        if self.settings.trials is None:
            return Remaining(max(waiting, 1), alive)
        drawn = len(trials) - len(superseded(trials))
        return Remaining(waiting + max(self.settings.trials - drawn, 0), alive)

    def completed(self, point: Point) -> Trial | None:
        """Return a complete trial of this point, if there is one: a repetition would give the same result."""
        complete = (trial for trial in self.current_trials() if trial.state == "complete")
        return next((trial for trial in complete if trial.point == point), None)

    def add_completed(self, point: Point, values: Sequence[float], user_attrs: Mapping[str, Any]) -> None:
        """Add a complete trial that was trained in a batch with others, without `ask`."""
        study = self._opened()
        distributions = {p.key: distribution(p) for p in self.space.parameters if p.key in point}
        study.add_trial(
            create_trial(
                params=dict(point),
                distributions=distributions,
                values=[*values],
                user_attrs={**user_attrs, BATCHED: True, RECORD: record_hash(point, values)},
            )
        )

    def trials(self) -> list[Trial]:
        """Return all trials in the order of their numbers."""
        trials = self._opened().get_trials(deepcopy=False)
        retried = superseded(trials)
        return [stored_trial(trial, superseded=trial.number in retried) for trial in trials]

    def current_trials(self) -> list[Trial]:
        """Return the `trials` that no other one repeats."""
        return [trial for trial in self.trials() if not trial.superseded]

    def importances(self) -> dict[str, float]:
        """Return hyperparameter → its importance for the first objective, the largest first."""
        hyperparameters = [p for p in self.space.parameters if p.key not in REPEATED]
        return importances(self.trials(), hyperparameters)

    def tell(self, trial: optuna.Trial, state: TrialState, values: Sequence[float] | None = None) -> None:
        """End a trial; if another process has ended it as dead, it stays failed."""
        self._opened().tell(trial, values, state, skip_if_finished=True)

    def close(self) -> None:
        """Allow other commands to delete the study (`--fresh`), as the end of the process does."""
        if self._used is not None:
            self._unused()
            self._used = None

    def _identity(self) -> dict[str, Any]:
        return {
            **sampling_config(self.settings),
            "space": self.space.to_data(),
            "base": content_key(self.base),
        }

    def _hold_usage_lock(self, *, exclusive: bool = False) -> None:
        """Hold the lock that all commands on this study share; `exclusive`: fail if another holds it."""
        if self._used is None:
            path = (
                project.scratch() / "locks" / f"sweep-{content_key([self.store, self.name])[:16]}-used.lock"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            self._used = os.open(path, os.O_CREAT | os.O_RDWR)
            self._unused = weakref.finalize(self, os.close, self._used)
        try:
            fcntl.flock(self._used, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
        except BlockingIOError:
            raise ResourceLocked(
                f"--fresh: the study {self.name} is in use by another command; end that command, or wait for"
                " it"
            ) from None

    def _own_file(self) -> Path | None:
        """Return the file of the project's own store; None: the config names a store."""
        return Path(self.store.removeprefix(project.SQLITE)) if self.settings.store is None else None

    def _set_aside(self, file: Path, flaw: str) -> None:
        """Rename a damaged store, after closing it."""
        if self._storage is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()
        self._storage = self._study = None
        local_store.remove_journals(file)  # they belong to the damaged file
        set_aside(file, f"is damaged ({flaw})")

    def _delete(self) -> None:
        opened = self._opened_storage()
        try:
            study = optuna.load_study(study_name=self.name, storage=opened)
        except KeyError:
            return
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if alive := sum(map(is_alive, running)):
            raise ResourceLocked(
                f"--fresh: the study {self.name} has running trials: {alive}; end the command that runs them,"
                " or wait for it"
            )
        optuna.delete_study(study_name=self.name, storage=opened)

    def _opened_storage(self) -> Any:
        if self._storage is None:
            self._storage = storage.open_storage(self.store)
        return self._storage

    def _opened(self) -> optuna.Study:
        if self._study is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some of Optuna's options are experimental
                study = optuna.create_study(
                    study_name=self.name,
                    storage=self._opened_storage(),
                    directions=[direction(name) for name in self.settings.objectives],
                    pruner=samplers.pruner(self.settings.pruner),
                    load_if_exists=True,
                )
            self._study = study
        return self._study

    @cached_property
    def _sampler(self) -> optuna.samplers.BaseSampler:
        """Made at the first draw, so that commands that start together count each other's trials."""
        trials = len(self._opened().get_trials(deepcopy=False))
        return samplers.sampler(self.settings, trials, self.worker)

    def _retry_dead(self) -> None:
        """Enqueue the points of trials whose process died, and end those trials."""
        study = self._opened()
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if is_alive(trial):
                continue
            # Enqueue first: if this process is killed in between, the old trial is found dead again.
            if trial.number not in superseded(study.get_trials(deepcopy=False)):
                study.enqueue_trial(point_of(trial), user_attrs={RETRY_OF: trial.number})
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def _first_difference(stored: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    key = next(key for key in identity if stored.get(key) != identity[key])
    names = {"base": "config, data set or weights", "space": "search space", "seed": "sweep.seed"}
    return names.get(key, f"sweep.{key}")
