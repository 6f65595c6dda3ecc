"""A sweep's study: its trials in Optuna's store, shared by all processes that run them.

The points of a grid and of a random search are functions of the config alone, so that a sweep that was killed
and resumed has the same trials as one that ran through.
"""

import fcntl
import json
import os
import socket
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from frostline.config.space import Parameter, Point, Space
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

optuna.logging.set_verbosity(optuna.logging.ERROR)


def direction(objective: str) -> Literal["maximize", "minimize"]:
    """Say which way an objective is better."""
    return "minimize" if score(objective, 1.0) < 0 else "maximize"


def drawing(settings: schema.Sweep) -> dict[str, Any]:
    """Return what of a sweep's settings makes it another study: how trials are drawn, judged and stopped."""
    return settings.model_dump(include={"sampler", "pruner", "objectives", "seed"})


class Study:
    """The trials of one sweep.

    Args:
        name: of the study in its store.
        settings: how trials are drawn and pruned, how many there may be.
        space: what they vary.
        base: all else that their results depend on; plain data.
        worker: which of several processes this is: each draws numbers of its own.
    """

    def __init__(
        self, name: str, settings: schema.Sweep, space: Space, base: Mapping[str, Any], worker: int = 0
    ) -> None:
        self.name, self.settings, self.space, self.base, self.worker = name, settings, space, base, worker
        self._study: optuna.Study | None = None
        self._used: int | None = None

    @property
    def store(self) -> str:
        """The store's address."""
        if self.settings.store is not None:
            return self.settings.store
        return f"{project.SQLITE}{project.scratch() / 'sweeps' / self.name}.db"

    def begin(self, *, fresh: bool = False) -> None:
        """Make the study, or go on with it; nobody can forget it then while this object lives.

        Args:
            fresh: forget what is there.

        Raises:
            ResourceLocked: it is to be forgotten, and another command, or one of its trials, runs.
            FrostlineError: the store can't be opened, or has a study of that name with other settings.
        """
        self._use(alone=fresh)
        with storage.locked(self.store):
            self._set_aside_if_damaged()
            if fresh:
                self._forget()
                self._use()
            study = self._opened()
            found = study.user_attrs.get("settings")
            wanted = json.loads(canonical_json(self._identity()))
            if found is None:
                study.set_user_attr("settings", wanted)
            elif found != wanted:
                different = _first_difference(found, wanted)
                raise FrostlineError(
                    f"sweep.name: the study {self.name!r} was made with another {different};"
                    " add --fresh to start over, or name another"
                )

    def try_again(self, which: Callable[[Trial], bool]) -> int:
        """Let trials wait once more of which `which` holds, and that have ended; return how many."""
        with storage.locked(self.store):
            again = [t for t in self.trials() if t.state in ENDED and not t.superseded and which(t)]
            for trial in again:
                self._opened().enqueue_trial(dict(trial.point), user_attrs={RETRY_OF: trial.number})
        return len(again)

    def missing(self) -> list[Point]:
        """Return the combinations of a grid that no trial has yet."""
        there = [trial.point for trial in self.trials() if not trial.superseded]
        points = self.space.combinations()[: self.settings.trials]
        return [point for point in points if point not in there]

    def fill(self) -> None:
        """Let each combination of a grid wait that no trial has; nothing for other samplers."""
        if self.settings.sampler.kind == "grid":
            with storage.locked(self.store):
                self._reclaim()
                for point in self.missing():
                    self._opened().enqueue_trial(point)

    def take(self) -> RunningTrial | None:
        """Return the next trial to run, None where there is none left; one whose process died comes first."""
        with storage.locked(self.store):
            study = self._opened()
            self._reclaim()
            if not self._waiting():
                drawn = [trial for trial in self.trials() if not trial.superseded]
                limit = self.settings.trials
                if self.settings.sampler.kind == "grid" or (limit is not None and len(drawn) >= limit):
                    return None
                if self.settings.sampler.kind == "random":
                    study.enqueue_trial(self.space.random(self.settings.seed, len(drawn)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trial = study.ask()
                point = self.space.draw(lambda parameter: suggest(trial, parameter))
            user_attrs = {"host": socket.gethostname(), PROCESS: process_key()}
            if devices.VISIBLE in os.environ:
                user_attrs[devices.VISIBLE] = os.environ[devices.VISIBLE]
            for key, value in user_attrs.items():
                trial.set_user_attr(key, value)
            taken = RunningTrial(self, trial, point)
            taken.beat()
            return taken

    def left(self) -> Remaining:
        """Say what has not ended: also trials whose processes died, which the next `take` finds."""
        found = self._opened().get_trials(deepcopy=False)
        running = [trial for trial in found if trial.state == TrialState.RUNNING]
        alive = sum(map(is_alive, running))
        waiting = sum(trial.state == TrialState.WAITING for trial in found) + len(running) - alive
        if self.settings.sampler.kind == "grid":
            return Remaining(waiting, alive)
        if self.settings.trials is None:
            return Remaining(max(waiting, 1), alive)
        drawn = len(found) - len(superseded(found))
        return Remaining(waiting + max(self.settings.trials - drawn, 0), alive)

    def known(self, point: Point) -> Trial | None:
        """Return a complete trial of this point, if there is one: its result would be the same."""
        found = (t for t in self.trials() if t.state == "complete" and not t.superseded)
        return next((trial for trial in found if trial.point == point), None)

    def add(self, point: Point, values: Sequence[float], user_attrs: Mapping[str, Any]) -> None:
        """Take in a trial that was run at once with others, without having been taken."""
        study = self._opened()
        distributions = {key: distribution(parameter) for key, parameter in self._by_key(point).items()}
        study.add_trial(
            create_trial(
                params=dict(point),
                distributions=distributions,
                values=[*values],
                user_attrs={**user_attrs, BATCHED: True, RECORD: record_hash(point, values)},
            )
        )

    def trials(self) -> list[Trial]:
        """Return all trials, in the order in which they were made."""
        found = self._opened().get_trials(deepcopy=False)
        retried = superseded(found)
        return [stored_trial(trial, superseded=trial.number in retried) for trial in found]

    def importances(self) -> dict[str, float]:
        """Return parameter → share of the first objective's variance, the largest first."""
        return importances(self.trials(), self.space.parameters)

    def tell(self, trial: optuna.Trial, state: TrialState, values: Sequence[float] | None = None) -> None:
        """End a trial; one that was taken for dead meanwhile stays so."""
        self._opened().tell(trial, values, state, skip_if_finished=True)

    def close(self) -> None:
        """Let other commands delete the study (`--fresh`); the end of the process does so too."""
        if self._used is not None:
            self._unused()
            self._used = None

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────

    def _identity(self) -> dict[str, Any]:
        return {**drawing(self.settings), "space": self.space.to_data(), "base": content_key(self.base)}

    def _use(self, *, alone: bool = False) -> None:
        """Hold a lock that commands on this study share, or, as its only user, that nobody else has."""
        if self._used is None:
            path = (
                project.scratch() / "locks" / f"sweep-{content_key([self.store, self.name])[:16]}-used.lock"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            self._used = os.open(path, os.O_CREAT | os.O_RDWR)
            self._unused = weakref.finalize(self, os.close, self._used)
        try:
            fcntl.flock(self._used, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        except BlockingIOError:
            raise ResourceLocked(
                f"--fresh: another command runs {self.name} right now; end it, or wait for it"
            ) from None

    def _set_aside_if_damaged(self) -> None:
        """Start anew where the project's own store is damaged; one that was named stays."""
        path = Path(self.store.removeprefix(project.SQLITE))
        if self.settings.store is not None or not path.is_file():
            return
        if flaw := storage.corruption(path) or self._altered():
            for suffix in ("-journal", "-wal", "-shm"):  # they belong to the damaged file
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            set_aside(path, f"is damaged ({flaw})")

    def _altered(self) -> str | None:
        """Return which complete trial is not as it was recorded, None where all are."""
        try:
            trials = optuna.load_study(study_name=self.name, storage=storage.open_storage(self.store)).trials
        except KeyError:
            return None
        altered = (trial for trial in trials if not is_intact(trial))
        return next((f"trial {trial.number}: not as written" for trial in altered), None)

    def _forget(self) -> None:
        opened = storage.open_storage(self.store)
        try:
            study = optuna.load_study(study_name=self.name, storage=opened)
        except KeyError:
            return
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if alive := sum(map(is_alive, running)):
            raise ResourceLocked(
                f"--fresh: {alive} of the trials of {self.name} run right now; end the command that runs"
                " them, or wait for it"
            )
        optuna.delete_study(study_name=self.name, storage=opened)

    def _opened(self) -> optuna.Study:
        if self._study is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that some settings are new in Optuna
                study = optuna.create_study(
                    study_name=self.name,
                    storage=storage.open_storage(self.store),
                    directions=[direction(name) for name in self.settings.objectives],
                    pruner=samplers.pruner(self.settings.pruner),
                    load_if_exists=True,
                )
                trials = len(study.get_trials(deepcopy=False))
                study.sampler = samplers.sampler(self.settings, trials, self.worker)
            self._study = study
        return self._study

    def _waiting(self) -> bool:
        return bool(self._opened().get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _reclaim(self) -> None:
        """Give the points of trials whose process died to trials that wait."""
        study = self._opened()
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if is_alive(trial):
                continue
            # First the new one: were we killed in between, the old one would be found dead again.
            if trial.number not in superseded(study.get_trials(deepcopy=False)):
                study.enqueue_trial(point_of(trial), user_attrs={RETRY_OF: trial.number})
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def _by_key(self, point: Point) -> dict[str, Parameter]:
        return {parameter.key: parameter for parameter in self.space.parameters if parameter.key in point}


def _first_difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    keys: Iterator[str] = (key for key in wanted if found.get(key) != wanted[key])
    names = {"base": "experiment around what varies", "space": "space", "seed": "sweep.seed"}
    key = next(keys)
    return names.get(key, f"sweep.{key}")
