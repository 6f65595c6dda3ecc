"""Delivers journals to MLflow: failures are retried, records that MLflow refuses are named in a warning.

A record may be delivered twice, since a store that answers too late has recorded it nevertheless. So a run is
looked up by its place in the journal before it is created, and everything else overwrites an equal value.
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

UNKNOWN = {"git.commit": "unknown"}
"""The tags of runs whose recorder process was killed before it recorded the machine and the code."""
TRIES = 5
"""Attempts for a record that the store does not take, although it answers other requests."""


class Unreachable(Exception):
    """The store can't record now; the message says why."""

    def __init__(self, error: Exception) -> None:
        super().__init__(reason(error))
        self.transient = "database is locked" in str(error)
        """Whether it may be over soon: another process writes to SQLite."""


class Deliverer:
    """Delivers a project's journals, the oldest first.

    Args:
        owner: the process whose journals are delivered while they are written; None: there is none.
        progress: called after each record.
        has_unread: whether records may still be added to a journal, although its process has closed it.
    """

    def __init__(
        self,
        owner: str | None = None,
        progress: Callable[[], None] = lambda: None,
        has_unread: Callable[[Path], bool] = lambda path: False,
    ) -> None:
        self._owner, self._progress, self._has_unread = owner, progress, has_unread
        self._stores: dict[str, Store] = {}
        self._open: dict[Path, Delivery] = {}
        self.delivered = 0
        """The number of delivered records."""
        self.drawing = False
        """Whether plots are being drawn, which does not depend on the store."""

    def step(self, *, ended: bool = False) -> None:
        """Deliver the records that the journals hold now.

        Args:
            ended: whether the owner's journals are complete.

        Raises:
            Unreachable: the store can't record now; the next call resumes there.
        """
        failed: dict[str, Unreachable] = {}
        for path in journal.paths():
            try:
                delivery = self._open.get(path) or self._claimed(path, ended)
            except Unreachable as error:
                failed[""] = error
                continue
            if delivery is None or delivery.header.experiment in failed:
                continue
            try:
                delivery.step()
                if (ended and delivery.owned) or not (journal.is_written(path) or self._has_unread(path)):
                    delivery.finish()
                    self._close(path)
                elif not delivery.owned:
                    self._close(path)  # its own process delivers the rest
            except Unreachable as error:
                failed[delivery.header.experiment] = error
        if failed:
            raise next(iter(failed.values()))

    @property
    def pending_plots(self) -> int:
        """The number of runs whose plots are not drawn yet."""
        return sum(len(store.plots) for store in self._stores.values())

    def draw(self) -> None:
        """Draw and record the plots of the best run that lacks some.

        Raises:
            Unreachable: the store can't record now.
        """
        store = next(store for store in self._stores.values() if store.plots)
        self.drawing = True
        run_id, drawn = store.plots.draw()
        self.drawing = False
        try:
            store.plots.record(run_id, drawn)
        except Exception as error:
            raise Unreachable(error) from error

    def _claimed(self, path: Path, ended: bool) -> "Delivery | None":
        header = journal.header_of(path)
        if header is None or header.store != journal.store_name():
            return None
        owned = header.process == self._owner
        around = journal.surroundings(path)
        if owned and around is None and not ended:
            return None  # the recorder process is about to record them
        if self._owner and not owned and journal.is_written(path):
            return None
        try:
            claim = journal.claim(path)
        except OSError as error:
            raise Unreachable(error) from error
        if claim is None:
            return None
        store = self._stores.setdefault(header.experiment, Store(header.experiment))
        self._open[path] = Delivery(claim, header, store, owned, around or UNKNOWN, self._count)
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
    """Whether the process that this recorder belongs to writes it."""
    around: Mapping[str, str]
    """The tags that describe the machine and the code."""
    progress: Callable[[], None]

    def __post_init__(self) -> None:
        self._runs: dict[int, StoredRun] = {}
        self._waiting: set[int] = set()
        """The runs with metrics that are not sent yet."""
        self._running: dict[int, int] = {}
        """Run → the time of its last record."""
        self._position = 0
        self._restored = self.claim.position == 0
        """Whether the runs that the delivered records began are known: there were none, or they were read."""
        self._may_be_sent_twice = not self._restored
        """Whether a request may have been sent twice, and so may have created a second run."""
        self._tries = 0
        self._damaged = 0

    def step(self) -> None:
        """Deliver the records that the journal holds now.

        Raises:
            Unreachable: the store can't record now.
        """
        if not self._restored:
            self._try(self._replay)
        for end, record in journal.read(self.claim.path, self._position):
            if record:
                self._try(partial(self._deliver, record), needed=record.what == "begin")
            else:
                self._damaged += 1
            self._position = end
            if record and record.what not in journal.OF_THE_JOURNAL:
                self.progress()
            if not self._waiting:
                self.claim.delivered(end)
        if any(self._runs[key].due for key in self._waiting):
            self._try(self._flush)
            self.claim.delivered(self._position)

    def finish(self) -> None:
        """Deliver the rest of a complete journal and delete it; runs that are still open were killed.

        Raises:
            Unreachable: the store can't record now.
        """
        self.step()
        self._try(self._flush)
        self.claim.delivered(self._position)
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
                self._position = 0  # unknown which of them has which records: one gets all of them
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
        elif what not in journal.OF_THE_JOURNAL:
            self._flush()
        match what:
            case "begin":
                self._runs[key] = self.store.begin(
                    arguments[0], self.header.process, when=when, place=self._place(key), around=self.around
                )
            case "annotate":
                if not self.store.annotate(EvaluatedRun(*arguments), when=when):
                    others = (item for item in journal.pending() if item.path != self.claim.path)
                    if any(item.here and item.records for item in others):
                        raise Unreachable(LookupError("its run is not delivered yet"))
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

    def _try(self, action: Callable[[], None], *, needed: bool = False) -> None:
        """Call `action`; if the store refuses it for good, warn and continue.

        If the action is `needed` for a run, retry it, for example until a deleted experiment is restored.

        Raises:
            Unreachable: a later attempt may succeed.
        """
        try:
            action()
        except Unreachable:
            raise
        except Exception as error:
            self._tries += 1
            self._may_be_sent_twice = True
            code = getattr(error, "error_code", "")
            if needed:
                passed_over = code == "INVALID_PARAMETER_VALUE"
            else:
                passed_over = code in REFUSALS or (self._tries >= TRIES and self.store.answers())
            if not passed_over:
                raise Unreachable(error) from error
            self.store.warn(f"MLflow refused a record ({reason(error)}); the rest is recorded")
        self._tries = 0


def store_model(store: Store, run_id: str | None, name: str) -> None:
    """Store a run's network from its copy of the run's files, and delete the copy.

    Args:
        run_id: the run; None: it is not recorded, so nothing is stored.
        name: of the folder in the project's `.frostline/models`; one that does not exist was stored before.
    """
    from frostline.runs.trained_run import TrainedRun
    from frostline.tracking.registry import Models

    folder = project.scratch() / "models" / Path(name).name
    if run_id is None or not folder.is_dir():
        return
    try:
        Models(store).keep(TrainedRun.read(folder), run_id)
    except FrostlineError as error:
        store.warn(f"the model is not stored: {error}")
    shutil.rmtree(folder, ignore_errors=True)
