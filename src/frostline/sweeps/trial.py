"""A sweep's trials as Optuna stores them.

waiting → running → complete, pruned or failed
   ↑         | its process died
   └─────────┘ the same point, as another trial
"""

import contextlib
import socket
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from frostline.base.hashes import content_key
from frostline.base.processes import process_is_alive
from frostline.config.space import Point

if TYPE_CHECKING:
    from frostline.sweeps.study import Study

State = Literal["waiting", "running", "complete", "pruned", "failed"]
BEAT_SECONDS = 30.0
"""Between two heartbeats of a running trial."""
SILENCE_SECONDS = 300.0
"""Without a heartbeat, a trial of another machine counts as dead; on this one, its process is looked up."""
PROCESS = "process"
"""User attribute of a trial that has begun: the name of its process."""
RETRY_OF = "again"
"""User attribute of a trial that repeats the point of another one: that one's number."""
BATCHED = "at once"
"""User attribute of a trial that was trained in a batch with others: its result differs by rounding only."""
RECORD = "record"
"""User attribute of a complete trial: the hash of its point and values, which shows later changes."""
TRANSIENT = "passing"
"""User attribute of a trial that failed for a cause that may be over: no memory, no disk space, a lock."""
ENDED = ("complete", "pruned", "failed")
_STATES: dict[TrialState, State] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


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
    user_attrs: Mapping[str, Any] = field(default_factory=dict)
    """``name``, ``out`` and ``metrics`` of a complete one, ``reason`` and ``kind`` of a failed one."""
    superseded: bool = False
    """Whether another trial repeats its point: its process died, its failure was retried or its run lost."""


@dataclass(frozen=True)
class Remaining:
    """How many trials of a study have not ended."""

    open: int
    """Trials to run; without a limit on their number, at least one."""
    running: int
    """Trials whose processes live, as far as one can tell."""


class RunningTrial:
    """A trial that this process runs."""

    def __init__(self, study: "Study", trial: optuna.Trial, point: Point) -> None:
        self._study, self._trial, self.point = study, trial, point

    @property
    def number(self) -> int:
        """The trial's number in the study."""
        return self._trial.number

    @property
    def retry_of(self) -> int | None:
        """The number of the trial whose point this one repeats; None: it repeats none."""
        return self._trial.user_attrs.get(RETRY_OF)

    def beat(self) -> None:
        """Record a heartbeat."""
        self._trial.set_user_attr("beat", time.time())

    def report(self, epoch: int, value: float) -> bool:
        """Report the objective after an epoch; return whether to stop the trial.

        It stops if the pruner says so, or if it counted as dead and another trial has its point.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a resumed run reports its first epochs again
            try:
                self._trial.report(value, epoch)
            except optuna.exceptions.UpdateFinishedTrialError:
                return True
        return self._trial.should_prune()

    def complete(self, values: Sequence[float], user_attrs: Mapping[str, Any]) -> None:
        """End the trial with the values of the objectives."""
        record = {RECORD: record_hash(self.point, values)}
        self._end({**user_attrs, **record}, TrialState.COMPLETE, values)

    def pruned(self) -> None:
        """End the trial without results."""
        self._end({}, TrialState.PRUNED)

    def failed(self, user_attrs: Mapping[str, Any]) -> None:
        """End the trial with the reason of its failure."""
        self._end(user_attrs, TrialState.FAIL)

    def _end(
        self, user_attrs: Mapping[str, Any], state: TrialState, values: Sequence[float] | None = None
    ) -> None:
        # A trial that counted as dead has ended, and another has its point.
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            for key, value in user_attrs.items():
                self._trial.set_user_attr(key, value)
            self._study.tell(self._trial, state, values)


def record_hash(point: Point, values: Sequence[float]) -> str:
    """Return the hash of a trial's point and values."""
    return content_key([sorted(point.items()), list(values)])


def is_intact(trial: FrozenTrial) -> bool:
    """Return whether a complete trial is as it was recorded."""
    written = trial.user_attrs.get(RECORD)
    return (
        trial.state != TrialState.COMPLETE
        or written is None
        or written == record_hash(point_of(trial), trial.values)
    )


def is_alive(trial: FrozenTrial) -> bool:
    """Return whether the process of a running trial lives, as far as one can tell."""
    user_attrs = trial.user_attrs
    if PROCESS not in user_attrs:  # killed between the request for the trial and the first note of it
        return False
    if user_attrs.get("host") == socket.gethostname():
        return process_is_alive(user_attrs[PROCESS])
    return time.time() - float(user_attrs.get("beat", 0.0)) < SILENCE_SECONDS


def superseded(trials: Iterable[FrozenTrial]) -> set[int]:
    """Return the numbers of the trials whose points other trials repeat."""
    return {trial.user_attrs[RETRY_OF] for trial in trials if RETRY_OF in trial.user_attrs}


def stored_trial(trial: FrozenTrial, *, superseded: bool) -> Trial:
    """Return a trial of Optuna's as a `Trial`."""
    begun, ended = trial.datetime_start, trial.datetime_complete
    until = ended.timestamp() if ended else time.time()
    reported = max(trial.intermediate_values.items(), default=None)
    return Trial(
        trial.number,
        point_of(trial),
        _STATES[trial.state],
        trial.values or (),
        until - begun.timestamp() if begun else 0.0,
        until if ended else 0.0,
        reported,
        trial.user_attrs,
        superseded,
    )


def point_of(trial: FrozenTrial) -> Point:
    """Return a trial's point; parameters that are not suggested yet come from its enqueued values."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}
