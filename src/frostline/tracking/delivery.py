"""Delivers journals to MLflow: failures are retried; if MLflow refuses a record, a warning gives the reason.

The recorder (`tracking.recorder`) delivers the journals of its owner, the process that trains, and adds
records on the machine to them; `frostline sync` delivers the rest.

A record may be delivered more than once: a request that timed out may still have been carried out. A repeated
delivery changes nothing: each run has a tag with its place in the journal and is created only if no run has
this tag, and other records write the same value again.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from frostline.base import project
from frostline.console.errors import FrostlineError
from frostline.tracking import journal
from frostline.tracking.journal import Claim, Header, Record
from frostline.tracking.mlflow_errors import REFUSALS, reason
from frostline.tracking.store import EvaluatedRun, Store
from frostline.tracking.stored_run import StoredRun
from frostline.tracking.studies import StudyResult

UNKNOWN_ENVIRONMENT = {"git.commit": "unknown"}
"""The environment tags of runs whose recorder process was killed before it recorded them."""
TRIES = 5
"""Attempts before a record is dropped with a warning, if the store answers other requests."""


class RetryLater(Exception):
    """A record can't be delivered now; the message says why."""

    def __init__(self, error: Exception) -> None:
        super().__init__(reason(error))
        self.transient = "database is locked" in str(error)
        """Whether the cause is no more than another process's write lock on SQLite."""


class Deliverer:
    """Delivers a project's journals, the oldest first.

    Args:
        owner: the process whose journals are delivered while they are written; None: there is none.
        progress: called after each record.
        may_grow: whether the recorder may still add records to a journal that its owner has closed.
    """

    def __init__(
        self,
        owner: str | None = None,
        progress: Callable[[], None] = lambda: None,
        may_grow: Callable[[Path], bool] = lambda path: False,
    ) -> None:
        self._owner, self._progress, self._may_grow = owner, progress, may_grow
        self._stores: dict[str, Store] = {}
        self._open: dict[Path, Delivery] = {}
        self.delivered = 0
        """The number of delivered records."""
        self.drawing = False
        """Whether plots are being drawn: this time is not the store's delay."""

    def step(self, *, ended: bool = False) -> None:
        """Deliver the records that the journals hold now.

        Args:
            ended: whether the owner's journals are complete.

        Raises:
            RetryLater: a record can't be delivered now; the next call resumes there.
        """
        failed: dict[str, RetryLater] = {}
        for path in journal.paths():
            try:
                delivery = self._open.get(path) or self._claimed(path, ended)
            except RetryLater as error:
                failed[""] = error  # of no experiment: the journal could not be claimed
                continue
            if delivery is None or delivery.header.experiment in failed:
                continue
            try:
                delivery.step()
                if (ended and delivery.owned) or not (journal.is_written(path) or self._may_grow(path)):
                    delivery.finish()
                    self._close(path)
                elif not delivery.owned:
                    self._close(path)  # the recorder of the process that writes it delivers the rest
            except RetryLater as error:
                failed[delivery.header.experiment] = error
        if failed:
            raise next(iter(failed.values()))

    @property
    def pending_plots(self) -> int:
        """The number of runs whose plots are not drawn yet."""
        return sum(len(store.plots) for store in self._stores.values())

    def draw(self) -> None:
        """Draw and record the plots of a run whose plots are missing: of these, the one with the best metric.

        Raises:
            RetryLater: a record can't be delivered now.
        """
        store = next(store for store in self._stores.values() if store.plots)
        self.drawing = True
        place, drawn = store.plots.draw()
        self.drawing = False
        try:
            store.plots.record(place, drawn)
        except Exception as error:
            raise RetryLater(error) from error

    def _claimed(self, path: Path, ended: bool) -> "Delivery | None":
        header = journal.header_of(path)
        if header is None or header.store != journal.store_name():
            return None
        owned = header.process == self._owner
        environment = journal.environment_tags(path)
        if owned and environment is None and not ended:
            return None  # the recorder process is about to record the environment tags
        if self._owner and not owned and journal.is_written(path):
            return None
        try:
            claim = journal.claim(path)
        except OSError as error:
            raise RetryLater(error) from error
        if claim is None:
            return None
        store = self._stores.setdefault(header.experiment, Store(header.experiment))
        self._open[path] = Delivery(
            claim, header, store, owned, environment or UNKNOWN_ENVIRONMENT, self._count
        )
        return self._open[path]

    def _count(self) -> None:
        self.delivered += 1
        self._progress()

    def _close(self, path: Path) -> None:
        self._open.pop(path).claim.close()


@dataclass
class Delivery:
    """Delivers one journal."""

    claim: Claim
    header: Header
    store: Store
    owned: bool
    """Whether it is the journal of the recorder's owner."""
    environment: Mapping[str, str]
    """The tags that describe the machine and the code, recorded with each run."""
    progress: Callable[[], None]

    def __post_init__(self) -> None:
        self._runs: dict[int, StoredRun] = {}
        self._waiting: set[int] = set()
        """The runs with metrics that are not sent yet."""
        self._running: dict[int, int] = {}
        """Run → the time of its last record."""
        self._position = 0
        self._restored = self.claim.position == 0
        """Whether the runs of records that an earlier process delivered are in `_runs`."""
        self._may_be_sent_twice = not self._restored
        """Whether a request may have been sent twice, and so may have created a second run."""
        self._tries = 0
        self._damaged = 0

    def step(self) -> None:
        """Deliver the records that the journal holds now.

        Raises:
            RetryLater: a record can't be delivered now.
        """
        if not self._restored:
            self._try(self._replay)
        for end, record in journal.read(self.claim.path, self._position):
            if record:
                self._try(partial(self._deliver, record), creates_run=record.what == "begin")
            else:
                self._damaged += 1
            self._position = end
            if record and record.what not in journal.INTERNAL_RECORDS:
                self.progress()
            if not self._waiting:
                self.claim.mark_delivered(end)
        if any(self._runs[key].due for key in self._waiting):
            self._try(self._flush)
            self.claim.mark_delivered(self._position)

    def finish(self) -> None:
        """Deliver the rest of a complete journal and delete it; runs that are still open were killed.

        Raises:
            RetryLater: a record can't be delivered now.
        """
        self.step()
        self._try(self._flush)
        self.claim.mark_delivered(self._position)
        for key, when in list(self._running.items()):
            self._try(partial(self._run(key).end, "KILLED", when=when))
            del self._running[key]
        if self._may_be_sent_twice:
            for run in self._runs.values():
                self._try(run.delete_duplicates)
        if self._damaged:
            self.store.warn(f"{self.claim.path}: {self._damaged} damaged records could not be read")
        self.claim.remove()

    def _replay(self) -> None:
        """Restore the state after the records that another process has delivered."""
        self._runs.clear()
        self._running.clear()
        for end, record in journal.read(self.claim.path):
            if end > self.claim.position:
                break
            if record:
                self._note_time(record)
                if record.what == "files":
                    self._run(record.run).add_plot_data(*record.arguments)
                elif record.what == "end":
                    self._run(record.run).queue_plots()
                    self._running.pop(record.run, None)
            self._position = end
        for run in self._runs.values():
            if len(self.store.at(run.place)) > 1:
                self._position = 0  # it was created twice: deliver all records to one of the two
        self._restored = True

    def _note_time(self, record: Record) -> None:
        if record.what == "begin" or record.run in self._running:
            self._running[record.run] = record.at

    def _deliver(self, record: Record) -> None:
        key, when, what, arguments = record.run, record.at, record.what, record.arguments
        self._note_time(record)
        if what in ("epoch", "metrics", "load"):
            getattr(self._run(key), what)(*arguments, when=when)
            self._waiting.add(key)
        elif what not in journal.INTERNAL_RECORDS:
            self._flush()
        match what:
            case "begin":
                self._runs[key] = self.store.begin(
                    arguments[0],
                    self.header.process,
                    when=when,
                    place=self._place(key),
                    environment=self.environment,
                )
            case "annotate":
                if not self.store.annotate(EvaluatedRun(*arguments), when=when):
                    others = (item for item in journal.pending() if item.path != self.claim.path)
                    if any(item.for_this_store and item.records for item in others):
                        raise RetryLater(LookupError("the run that was evaluated is not delivered yet"))
            case "study":
                self.store.studies.end(StudyResult(**arguments[0]), when)
            case "model":
                store_model(self.store, self._run(key).id, *arguments)
            case "tags" | "files" | "started_from" | "end":
                getattr(self._run(key), what)(*arguments, when=when)
        if what == "end":
            self._running.pop(key, None)

    def _run(self, key: int) -> StoredRun:
        if key not in self._runs:
            self._runs[key] = StoredRun(self.store, None, self._place(key))
        return self._runs[key]

    def _place(self, key: int) -> str:
        return f"{self.claim.path.stem}/{key}"

    def _flush(self) -> None:
        for key in list(self._waiting):
            self._runs[key].flush()
            self._waiting.discard(key)

    def _try(self, action: Callable[[], None], *, creates_run: bool = False) -> None:
        """Call `action`; if the store refuses it for good, warn and continue.

        A record is refused for good if MLflow's error code says so, or after `TRIES` attempts if the store
        answers other requests. An action that creates a run is retried, for example until a deleted
        experiment is restored, unless a value is invalid.

        Raises:
            RetryLater: a later attempt may succeed.
        """
        try:
            action()
        except RetryLater:
            raise
        except Exception as error:
            self._tries += 1
            self._may_be_sent_twice = True
            code = getattr(error, "error_code", "")
            if creates_run:
                passed_over = code == "INVALID_PARAMETER_VALUE"
            else:
                passed_over = code in REFUSALS or (self._tries >= TRIES and self.store.answers())
            if not passed_over:
                raise RetryLater(error) from error
            self.store.warn(f"MLflow refused a record ({reason(error)}); the rest is recorded")
        self._tries = 0


def store_model(store: Store, run_id: str | None, name: str) -> None:
    """Log a run's model from the temporary copy of its files, and delete the copy.

    Args:
        run_id: the run; None: it is not recorded, and no model is logged.
        name: of the copy's folder in the project's `.frostline/models`; if it does not exist, the model was
            logged earlier.
    """
    from frostline.runs.trained_run import TrainedRun
    from frostline.tracking.registry import Models

    folder = project.scratch() / "models" / Path(name).name
    if run_id is None or not folder.is_dir():
        return
    try:
        Models(store).keep(TrainedRun.read(folder), run_id)
    except FrostlineError as error:
        store.warn(f"the model is not logged: {error}")
    shutil.rmtree(folder, ignore_errors=True)
