"""A sweep's trials in Optuna's store, shared by all processes that work on them; only this module imports it.

    waiting ──take──▶ running ──finish──▶ complete, pruned or failed
       ▲                 │ its process died
       └────the same point, as another trial

A grid's points, and those of a random search, are functions of the settings alone, so that a sweep that was
killed and continued has the same trials as one that was not.
"""

import contextlib
import fcntl
import json
import os
import random
import re
import socket
import sqlite3
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
import sqlalchemy
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from frostline import schema
from frostline.base import devices, project
from frostline.base.files import set_aside
from frostline.base.formats import canonical_json
from frostline.base.hashes import content_key
from frostline.base.locks import exclusive
from frostline.base.metrics import score
from frostline.base.processes import lives, name_of_this
from frostline.config.space import Interval, Parameter, Point, Space, Value, Values
from frostline.console.errors import Busy, FrostlineError

optuna.logging.set_verbosity(optuna.logging.ERROR)

State = Literal["waiting", "running", "complete", "pruned", "failed"]
BEAT_SECONDS = 30.0
"""How often a running trial says that it lives."""
SILENCE_SECONDS = 300.0
"""Without a beat, after which a trial of another machine is taken for dead; here its process is asked."""
LEAST_TRIALS = 4
"""Complete, of which it is said which parameter mattered…"""
MOST_TRIALS = 300
"""…and so many of them, since the forest takes its time."""
WAIT_SECONDS = 120.0
"""How long a process waits for others that write to an SQLite store; there may be many."""
PROCESS = "process"
"""Note of a trial that was taken: whose it is."""
AGAIN = "again"
"""Note of a trial that has the point of one whose process died, or that is tried again: that one's number."""
AT_ONCE = "at once"
"""Note of a trial that was run at once with others: alone, it would be the same but for rounding."""
RECORD = "record"
"""Note of a complete trial: the hash of its point and values, which tells that one was changed afterwards."""
PASSING = "passing"
"""Note of a trial that failed for what may be over: no memory or disk, or another process."""
ENDED = ("complete", "pruned", "failed")
_STATES: dict[TrialState, State] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def direction(objective: str) -> Literal["maximize", "minimize"]:
    """Say which way an objective is better."""
    return "minimize" if score(objective, 1.0) < 0 else "maximize"


def drawing(settings: schema.Sweep) -> dict[str, Any]:
    """Return what of a sweep's settings makes it another study: how trials are drawn, judged and stopped."""
    return settings.model_dump(include={"sampler", "pruner", "objectives", "seed"})


@contextlib.contextmanager
def store_failures() -> Iterator[None]:
    """Turn a failure of a study's store, in the block or the decorated function, into one sentence.

    Raises:
        FrostlineError: it failed.
    """
    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        (reason, *_) = str(error.__cause__ or error).splitlines()
        raise FrostlineError(
            f"sweep.store: failed ({reason[:200]}); see that it can be reached, and that no process is"
            " stopped while it holds it; the same command goes on"
        ) from None


@dataclass(frozen=True)
class Trial:
    """A trial as it stands in the store."""

    number: int
    point: Point
    state: State
    values: Sequence[float] = ()
    """Of the objectives, where it is complete."""
    seconds: float = 0.0
    """From its start to its end, or to now."""
    ended: float = 0.0
    """When it did, in seconds since 1970."""
    reported: tuple[int, float] | None = None
    """The last epoch that it reported, and the first objective then."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """``name``, ``out`` and ``metrics`` of a complete one, ``reason`` and ``kind`` of a failed one."""
    killed: bool = False
    """Whether its point was given to another: its process died, or it failed for what may be over, or its run
    is gone."""


@dataclass(frozen=True)
class Left:
    """What of a study has not ended."""

    open: int
    """Trials to be taken; of those that are yet to be drawn, one where only time is a limit."""
    running: int
    """Trials whose processes live, as far as one can tell."""


class Taken:
    """A trial that this process runs."""

    def __init__(self, study: "Study", trial: optuna.Trial, point: Point) -> None:
        self._study, self._trial, self.point = study, trial, point

    @property
    def number(self) -> int:
        """The trial's, in the study."""
        return self._trial.number

    @property
    def again(self) -> int | None:
        """The number of the trial whose point this one has, since that one's process died."""
        return self._trial.user_attrs.get(AGAIN)

    def beat(self) -> None:
        """Say that it lives."""
        self._trial.set_user_attr("beat", time.time())

    def report(self, epoch: int, value: float) -> bool:
        """Report the objective after an epoch; return whether to stop.

        It stops since others were better by then, or since it was taken for dead: another has its point.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a run that goes on tells of its first epochs again
            try:
                self._trial.report(value, epoch)
            except optuna.exceptions.UpdateFinishedTrialError:
                return True
        return self._trial.should_prune()

    def complete(self, values: Sequence[float], notes: Mapping[str, Any]) -> None:
        """End it with the values of the objectives."""
        record = {RECORD: _record(self.point, values)}
        self._end({**notes, **record}, TrialState.COMPLETE, values)

    def pruned(self) -> None:
        """End it without results."""
        self._end({}, TrialState.PRUNED)

    def failed(self, notes: Mapping[str, Any]) -> None:
        """End it with the reason."""
        self._end(notes, TrialState.FAIL)

    def _end(
        self, notes: Mapping[str, Any], state: TrialState, values: Sequence[float] | None = None
    ) -> None:
        # One that was taken for dead has ended, and another has its point.
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            for key, value in notes.items():
                self._trial.set_user_attr(key, value)
            self._study.tell(self._trial, state, values)


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
            Busy: it is to be forgotten, and another command, or one of its trials, runs.
            FrostlineError: the store can't be opened, or has a study of that name with other settings.
        """
        self._use(alone=fresh)
        with self._lock():
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
        with self._lock():
            again = [t for t in self.trials() if t.state in ENDED and not t.killed and which(t)]
            for trial in again:
                self._opened().enqueue_trial(dict(trial.point), user_attrs={AGAIN: trial.number})
        return len(again)

    def missing(self) -> list[Point]:
        """Return the combinations of a grid that no trial has yet."""
        there = [trial.point for trial in self.trials() if not trial.killed]
        points = self.space.combinations()[: self.settings.trials]
        return [point for point in points if point not in there]

    def fill(self) -> None:
        """Let each combination of a grid wait that no trial has; nothing for other samplers."""
        if self.settings.sampler.kind == "grid":
            with self._lock():
                self._reclaim()
                for point in self.missing():
                    self._opened().enqueue_trial(point)

    def take(self) -> Taken | None:
        """Return the next trial to run, None where there is none left; one whose process died comes first."""
        with self._lock():
            study = self._opened()
            self._reclaim()
            if not self._waiting():
                drawn = [trial for trial in self.trials() if not trial.killed]
                limit = self.settings.trials
                if self.settings.sampler.kind == "grid" or (limit is not None and len(drawn) >= limit):
                    return None
                if self.settings.sampler.kind == "random":
                    study.enqueue_trial(self.space.random(self.settings.seed, len(drawn)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trial = study.ask()
                point = self.space.draw(lambda parameter: _suggested(trial, parameter))
            notes = {"host": socket.gethostname(), PROCESS: name_of_this()}
            if devices.VISIBLE in os.environ:
                notes[devices.VISIBLE] = os.environ[devices.VISIBLE]
            for key, value in notes.items():
                trial.set_user_attr(key, value)
            taken = Taken(self, trial, point)
            taken.beat()
            return taken

    def left(self) -> Left:
        """Say what has not ended: also trials whose processes died, which the next `take` finds."""
        found = self._opened().get_trials(deepcopy=False)
        running = [trial for trial in found if trial.state == TrialState.RUNNING]
        alive = sum(map(_alive, running))
        waiting = sum(trial.state == TrialState.WAITING for trial in found) + len(running) - alive
        if self.settings.sampler.kind == "grid":
            return Left(waiting, alive)
        if self.settings.trials is None:
            return Left(max(waiting, 1), alive)
        drawn = len(found) - len(_given_away(found))
        return Left(waiting + max(self.settings.trials - drawn, 0), alive)

    def known(self, point: Point) -> Trial | None:
        """Return a complete trial of this point, if there is one: its result would be the same."""
        found = (t for t in self.trials() if t.state == "complete" and not t.killed)
        return next((trial for trial in found if trial.point == point), None)

    def add(self, point: Point, values: Sequence[float], notes: Mapping[str, Any]) -> None:
        """Take in a trial that was run at once with others, without having been taken."""
        study = self._opened()
        distributions = {key: _distribution(parameter) for key, parameter in self._by_key(point).items()}
        study.add_trial(
            create_trial(
                params=dict(point),
                distributions=distributions,
                values=[*values],
                user_attrs={**notes, AT_ONCE: True, RECORD: _record(point, values)},
            )
        )

    def trials(self) -> list[Trial]:
        """Return all trials, in the order in which they were made."""
        found = self._opened().get_trials(deepcopy=False)
        killed = _given_away(found)
        return [_seen(trial, killed=trial.number in killed) for trial in found]

    def importances(self) -> dict[str, float]:
        """Return parameter → share of the first objective's variance, the largest first.

        Empty where there are few trials, or one parameter. Functional ANOVA (Hutter et al. 2014) by a random
        forest with a fixed seed, of the parameters that all complete trials have, over the latest trials.
        """
        complete = [trial for trial in self.trials() if trial.state == "complete"][-MOST_TRIALS:]
        if len(complete) < LEAST_TRIALS or len({trial.values[0] for trial in complete}) < 2:
            return {}
        shared = [p for p in self.space.parameters if all(p.key in trial.point for trial in complete)]
        varied = [p for p in shared if len({trial.point[p.key] for trial in complete}) > 1]
        if len(varied) < 2:
            return {}
        study = optuna.create_study()
        ranges = {parameter.key: _range(parameter) for parameter in varied}
        for trial in complete:
            places = {parameter.key: _place(parameter, trial.point[parameter.key]) for parameter in varied}
            study.add_trial(create_trial(params=places, distributions=ranges, value=trial.values[0]))
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
        return {key: float(share) for key, share in found.items()}

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
            raise Busy(
                f"--fresh: another command runs {self.name} right now; end it, or wait for it"
            ) from None

    def _set_aside_if_damaged(self) -> None:
        """Start anew where the project's own store is damaged; one that was named stays."""
        path = Path(self.store.removeprefix(project.SQLITE))
        if self.settings.store is None and path.is_file() and (flaw := _flaw(path) or self._altered()):
            for suffix in ("-journal", "-wal", "-shm"):  # they belong to the damaged file
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            set_aside(path, f"is damaged ({flaw})")

    def _altered(self) -> str | None:
        """Return which complete trial is not as it was recorded, None where all are."""
        try:
            trials = optuna.load_study(study_name=self.name, storage=self._storage()).trials
        except KeyError:
            return None
        return next((f"trial {trial.number}: not as written" for trial in trials if not _intact(trial)), None)

    def _forget(self) -> None:
        storage = self._storage()
        try:
            study = optuna.load_study(study_name=self.name, storage=storage)
        except KeyError:
            return
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if alive := sum(map(_alive, running)):
            raise Busy(
                f"--fresh: {alive} of the trials of {self.name} run right now; end the command that runs"
                " them, or wait for it"
            )
        optuna.delete_study(study_name=self.name, storage=storage)

    def _opened(self) -> optuna.Study:
        if self._study is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that some settings are new in Optuna
                study = optuna.create_study(
                    study_name=self.name,
                    storage=self._storage(),
                    directions=[direction(name) for name in self.settings.objectives],
                    pruner=_pruner(self.settings.pruner),
                    load_if_exists=True,
                )
                study.sampler = self._sampler(len(study.get_trials(deepcopy=False)))
            self._study = study
        return self._study

    def _storage(self) -> Any:
        store = self.store
        with self._sentence():
            if store.endswith(".journal"):
                from optuna.storages import JournalStorage
                from optuna.storages.journal import JournalFileBackend

                Path(store).parent.mkdir(parents=True, exist_ok=True)
                return JournalStorage(JournalFileBackend(store))
            if not store.startswith(project.SQLITE):
                return optuna.storages.RDBStorage(store)
            Path(store.removeprefix(project.SQLITE)).parent.mkdir(parents=True, exist_ok=True)
            return optuna.storages.RDBStorage(store, {"connect_args": {"timeout": WAIT_SECONDS}})

    @contextlib.contextmanager
    def _sentence(self) -> Iterator[None]:
        """Say of a store that can't be opened why, without its password."""
        try:
            yield
        except Exception as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            if isinstance(error, ImportError) and self.store.startswith("postgresql"):
                reason = "the package psycopg is missing; install frostline[postgres]"
            shown = re.sub(r"(://[^:/@]+):[^@]*@", r"\1:…@", self.store)
            raise FrostlineError(f"sweep.store: {shown} can't be opened ({reason})") from None

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep all others off the store: those that share this folder, and of a PostgreSQL everybody."""
        key = content_key(self.store)
        with (
            exclusive(project.scratch() / "locks" / f"sweep-{key[:16]}.lock"),
            contextlib.ExitStack() as stack,
        ):
            if self.store.startswith("postgresql"):
                with self._sentence():
                    engine = sqlalchemy.create_engine(self.store, poolclass=sqlalchemy.NullPool)
                    connection = stack.enter_context(engine.connect())
                    # Held until the connection is closed.
                    statement = sqlalchemy.text("SELECT pg_advisory_lock(:key)")
                    connection.execute(statement, {"key": int(key[:15], 16)})
            yield

    def _sampler(self, trials: int) -> optuna.samplers.BaseSampler:
        # A seed that does not move would draw the first trials again when a sweep goes on.
        seed = random.Random(f"{self.settings.seed}/sampler/{trials}/{self.worker}").getrandbits(32)
        match self.settings.sampler:
            case schema.TpeSampler(startup=startup, multivariate=multivariate):
                return optuna.samplers.TPESampler(
                    n_startup_trials=startup, multivariate=multivariate, group=multivariate, seed=seed
                )
            case schema.CmaEsSampler(startup=startup):
                return optuna.samplers.CmaEsSampler(n_startup_trials=startup, seed=seed)
            case schema.Nsga2Sampler(population=population):
                return optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)

    def _waiting(self) -> bool:
        return bool(self._opened().get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _reclaim(self) -> None:
        """Give the points of trials whose process died to trials that wait."""
        study = self._opened()
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if _alive(trial):
                continue
            # First the new one: were we killed in between, the old one would be found dead again.
            if trial.number not in _given_away(study.get_trials(deepcopy=False)):
                study.enqueue_trial(_point(trial), user_attrs={AGAIN: trial.number})
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def _by_key(self, point: Point) -> dict[str, Parameter]:
        return {parameter.key: parameter for parameter in self.space.parameters if parameter.key in point}


def _flaw(path: Path) -> str | None:
    """What SQLite finds wrong with the content of a file; None: nothing, or it can't be read now."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=WAIT_SECONDS)) as connection:
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.OperationalError:
        return None
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == "ok" else " ".join(str(found).split())[:100]


def _record(point: Point, values: Sequence[float]) -> str:
    return content_key([sorted(point.items()), list(values)])


def _intact(trial: FrozenTrial) -> bool:
    """Whether a trial that says so is as it was recorded."""
    written = trial.user_attrs.get(RECORD)
    return (
        trial.state != TrialState.COMPLETE
        or written is None
        or written == _record(_point(trial), trial.values)
    )


def _alive(trial: FrozenTrial) -> bool:
    notes = trial.user_attrs
    if PROCESS not in notes:  # killed between taking it and saying so
        return False
    if notes.get("host") == socket.gethostname():
        return lives(notes[PROCESS])
    return time.time() - float(notes.get("beat", 0.0)) < SILENCE_SECONDS


def _given_away(trials: Iterable[FrozenTrial]) -> set[int]:
    """The numbers of the trials whose points others have got, since their processes died."""
    return {trial.user_attrs[AGAIN] for trial in trials if AGAIN in trial.user_attrs}


def _seen(trial: FrozenTrial, *, killed: bool) -> Trial:
    begun, ended = trial.datetime_start, trial.datetime_complete
    until = ended.timestamp() if ended else time.time()
    reported = max(trial.intermediate_values.items(), default=None)
    return Trial(
        trial.number,
        _point(trial),
        _STATES[trial.state],
        trial.values or (),
        until - begun.timestamp() if begun else 0.0,
        until if ended else 0.0,
        reported,
        trial.user_attrs,
        killed,
    )


def _point(trial: FrozenTrial) -> Point:
    """A trial's point; what is not suggested yet was given when it was enqueued."""
    return {**_fixed(trial), **trial.params}


def _fixed(trial: FrozenTrial) -> Point:
    return dict(trial.system_attrs.get("fixed_params", {}))


def _suggested(trial: optuna.Trial, parameter: Parameter) -> Value:
    match parameter.domain:
        case Values(options):
            return str(trial.suggest_categorical(parameter.key, options))
        case Interval(low, high, log, True):
            return trial.suggest_int(parameter.key, int(low), int(high), log=log)
        case Interval(low, high, log):
            return trial.suggest_float(parameter.key, low, high, log=log)


def _distribution(parameter: Parameter) -> BaseDistribution:
    match parameter.domain:
        case Values(options):
            return CategoricalDistribution(options)
        case Interval(low, high, log, True):
            return IntDistribution(int(low), int(high), log)
        case Interval(low, high, log):
            return FloatDistribution(low, high, log)


def _range(parameter: Parameter) -> BaseDistribution:
    """As `_distribution`, but a list's n values are numbered: fANOVA takes 2ⁿ steps for as many names."""
    match parameter.domain:
        case Values(options):
            return IntDistribution(0, len(options) - 1)
        case Interval():
            return _distribution(parameter)


def _place(parameter: Parameter, value: Value) -> Value:
    """Where a value lies in its parameter's `_range`."""
    match parameter.domain:
        case Values(options):
            return options.index(str(value))
        case Interval():
            return value


def _pruner(config: schema.Pruner) -> optuna.pruners.BasePruner:
    match config.kind:
        case "none":
            return optuna.pruners.NopPruner()
        case "median":
            return optuna.pruners.MedianPruner(config.startup, config.warmup)
        case "halving":
            return optuna.pruners.SuccessiveHalvingPruner(config.first, config.factor)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(config.first, reduction_factor=config.factor)
        case "patience":
            return optuna.pruners.PatientPruner(None, config.patience, config.min_delta)


def _first_difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    keys: Iterator[str] = (key for key in wanted if found.get(key) != wanted[key])
    names = {"base": "experiment around what varies", "space": "space", "seed": "sweep.seed"}
    key = next(keys)
    return names.get(key, f"sweep.{key}")
