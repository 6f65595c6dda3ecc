"""The tracker of a command that trains: it writes to a journal and starts the recorder process.

    training → .frostline/journal → `python -m frostline.tracking.recorder` → tracking.delivery → MLflow

Importing MLflow takes two seconds, drawing a run's plots takes one, and an unreachable store may block for
minutes. The recorder process does all of it beside the training. What MLflow has not recorded in the end
stays in the journal: see `frostline.tracking.journal`.
"""

import atexit
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import frostline
from frostline.base import project
from frostline.base.files import CHECKSUMS
from frostline.base.processes import process_key
from frostline.base.run_folder import FILES
from frostline.console.errors import FrostlineError, Pruned
from frostline.console.progress import WAITING_SECONDS, is_watched, say_once
from frostline.tracking import journal, recorder
from frostline.tracking.journal import Journal
from frostline.training.services import TRIAL_STATE, Evaluation, RunInfo, TrackedRun, Tracker

if TYPE_CHECKING:
    from torch import nn

    from frostline.freezing.plan import FreezePlan
    from frostline.models.input_spec import InputSpec
    from frostline.schema import Run
    from frostline.training.data_module import ImageData

MODEL_PATIENCE_SECONDS = 600.0
"""Like `recorder.PATIENCE_SECONDS`, where each run's network is stored too."""
JOURNAL_BYTES = 4 << 20
"""A larger journal is followed by a new one as soon as no run is open."""
SCHEMES = (
    *("sqlite", "postgresql", "mysql", "mssql"),
    *("http", "https", "file", "databricks", "databricks-uc", "uc"),
)
"""Beginnings of the addresses that MLflow has stores for."""
RECORDED_FILES = (".csv", ".json", ".yaml")
"""Suffixes of the files in a run folder that are recorded; DVC stores the weights."""


def _check_address(uri: str) -> None:
    """Refuse an address that MLflow has no store for; a path without a scheme is a folder.

    Raises:
        FrostlineError: its scheme is neither MLflow's nor that of an installed plug-in.
    """
    scheme, colon, _ = uri.partition(":")
    known = not colon or scheme.partition("+")[0] in SCHEMES
    if not known and not entry_points(group="mlflow.tracking_store", name=scheme):
        raise FrostlineError(
            f"MLFLOW_TRACKING_URI: found {project.without_password(uri)}, which is neither a database nor a"
            " server's address; give one such as sqlite:////FOLDER/mlflow.db or http://HOST:5000, or unset it"
            " to record in the project"
        )


class JournalTracker(Tracker):
    """Records runs through a journal and the recorder process."""

    _journal: Journal | None
    """None: the tracker is closed, or no journal can be written."""

    def __init__(self) -> None:
        # What is invalid is reported before training.
        project.wait_seconds()
        _check_address(project.store_uri())
        self._keys = count()
        self._open = 0
        self._runs: list[tuple[str, dict[str, str]]] = []
        """The runs of this process: place in a journal, tags."""
        self._start()

    @contextmanager
    def run(self, about: RunInfo) -> Iterator[TrackedRun]:
        """Record a run; it ends as failed or killed if the block raises."""
        key = next(self._keys)
        self.send(key, "begin", about)
        self._open += 1
        tracked_run = JournalRun(self, key)
        if self._journal:
            known = {**about.tags, "study": about.study, "stage": about.stage}
            self._runs.append((f"{self._journal.path.stem}/{key}", known))
            tracked_run.known = known
        try:
            yield tracked_run
        except Pruned as pruned:
            self._end(key, about, "FINISHED", "pruned", {"pruned": str(pruned)})
            raise
        except (KeyboardInterrupt, SystemExit) as error:  # Ctrl-C, and SIGTERM however it is raised
            self._end(key, about, "KILLED", "killed", {"error": _cause(error)})
            raise
        except BaseException as error:
            self._end(key, about, "FAILED", "failed", {"error": _cause(error)})
            raise
        else:
            self._end(key, about, "FINISHED", "complete", {})

    def annotate(self, evaluation: Evaluation) -> None:
        """Add final values, files and a plot of mistakes to the run that made these weights."""
        tags, sha256 = dict(evaluation.tags), evaluation.weights_sha256
        required = {"weights.sha256": sha256, **{key: value for key, value in tags.items() if value}}
        place = next(
            (place for place, known in reversed(self._runs) if required.items() <= known.items()), None
        )
        files, mistakes = contents(evaluation.folder), list(evaluation.mistakes)
        results = dict(evaluation.values), files, mistakes
        self.send(-1, "annotate", sha256, tags, *results, place, evaluation.subfolder)

    def study(self, result: Mapping[str, Any]) -> None:
        """Record the results of a study or sweep; `result`: the fields of `studies.StudyResult`."""
        self.send(-1, "study", dict(result))

    def send(self, key: int, what: str, *arguments: Any) -> None:
        """Write a record to the journal; never waits for the store."""
        if self._owner != os.getpid():  # in a fork: journal and recorder process belong to the parent
            for pipe in (self._wake, self._progress):
                os.close(pipe)
            if self._journal:
                self._journal.close()
            self._open = 0
            self._start()
        if self._journal is None:
            return
        self._sent = True
        self._journal.append(key, what, *arguments)
        with suppress(OSError):  # the recorder process is busy or dead; the journal has the record
            os.write(self._wake, b".")

    def _end(self, key: int, about: RunInfo, status: str, state: str, tags: dict[str, str]) -> None:
        """Close a run; a trial of a sweep gets its final state as a tag."""
        if TRIAL_STATE in about.tags:
            tags = {**tags, TRIAL_STATE: state}
        if tags:
            self.send(key, "tags", tags)
        self.send(key, "end", status)
        self._open = max(0, self._open - 1)
        if not self._open and self._journal and self._journal.size > JOURNAL_BYTES:
            full, self._journal = self._journal, _new_journal()
            full.close()

    def close(self) -> None:
        """Wait until everything is recorded while there is progress; the rest stays in the journal."""
        if self._owner != os.getpid() or self._journal is None:
            return
        try:
            self._journal.check()
        except OSError as error:
            journal.warn(
                f"the last records are lost: {self._journal.path} can't be written ({error.strerror})"
            )
        path = self._journal.path
        self._journal.close()
        self._journal = None
        if not self._sent and not journal.is_any_ready():
            self._stop(path)
        elif not self._wait() and journal.mine():
            self._launch()  # it was killed: a new one delivers the rest
            if not self._wait():
                journal.warn_pending("the process that delivers them ended")

    def _stop(self, path: Path) -> None:
        """End the recorder process, which may still import MLflow, and delete the journal without records."""
        for pipe in (self._wake, self._progress):
            os.close(pipe)
        self._process.kill()
        self._process.wait()
        journal.remove(path)

    def _wait(self) -> bool:
        """Wait for the recorder process to end; return False if it was killed."""
        os.close(self._wake)
        patience = MODEL_PATIENCE_SECONDS if project.logs_models() else recorder.PATIENCE_SECONDS
        quiet_until = time.monotonic() + WAITING_SECONDS
        try:
            while True:
                if (left := quiet_until - time.monotonic()) <= 0 and is_watched():
                    say_once("recording in MLflow …")  # not `waiting`: no thread can start at exit
                ready = select.select([self._progress], [], [], left if left > 0 else patience)[0]
                if ready and not os.read(self._progress, 1 << 16):  # the other end is closed
                    return self._process.wait(recorder.PATIENCE_SECONDS) == 0
                if not ready and left <= 0:
                    break
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            pass
        finally:
            os.close(self._progress)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
                journal.warn_pending("it did not take them in time")
        return True

    def _start(self) -> None:
        self._owner = os.getpid()
        self._journal = _new_journal()
        self._sent = False
        """Whether the journal has a record of a run or study."""
        self._launch()
        atexit.register(self.close)

    def _launch(self) -> None:
        source = str(Path(frostline.__file__).parents[1])
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        self._progress, stdout = os.pipe()
        stdin, self._wake = os.pipe()
        os.write(self._wake, f"{process_key()}\n".encode())
        os.set_blocking(self._wake, False)
        self._process = subprocess.Popen(
            # -P: a queue.py in the user's folder is not imported
            [sys.executable, "-P", "-m", recorder.__name__],
            stdin=stdin,
            stdout=stdout,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the training, which says what becomes of the run
        )
        os.close(stdout)
        os.close(stdin)


class JournalRun(TrackedRun):
    """A run that is being recorded."""

    def __init__(self, tracker: JournalTracker, key: int) -> None:
        self._tracker, self._key = tracker, key
        self.known: dict[str, str] = {}
        """The run's tags."""
        self._phases: list[PhaseMetrics] = []

    def log_plan(
        self, run: "Run", plan: "FreezePlan", network: "nn.Module", spec: "InputSpec", images: int
    ) -> None:
        """Record the plan that `frostline plan` prints: trainable groups, learning rates, cost by phase."""
        from frostline.planning.plan import of_run
        from frostline.planning.text import as_yaml

        self._phases = [PhaseMetrics.of(plan, phase, network) for phase in range(len(plan.phases))]
        run_plan = of_run(run, plan, network, spec, images)
        files = {"plan.json": run_plan.as_json().encode(), "plan.yaml": as_yaml(run_plan).encode()}
        self._tracker.send(self._key, "files", files)

    def log_images(self, data: "ImageData", classes: Sequence[str]) -> None:
        from frostline.tracking import training_images_plot

        sheet = training_images_plot.draw(data, classes)
        self._tracker.send(self._key, "files", {"training_images.jpg": sheet})

    def log_epoch(self, row: Mapping[str, float | int | None]) -> None:
        """Record a row of the history, with the trainable parameters and learning rates of its phase."""
        phase = row.get("phase")
        more = self._phases[int(phase)].values(row["lr"]) if self._phases and phase is not None else {}
        self._tracker.send(self._key, "epoch", {**row, **more})

    def log_metrics(self, values: Mapping[str, float]) -> None:
        self._tracker.send(self._key, "metrics", dict(values))

    def set_tags(self, values: Mapping[str, str]) -> None:
        self.known |= values
        self._tracker.send(self._key, "tags", dict(values))

    def log_initial_weights(self, sha256: str) -> None:
        self._tracker.send(self._key, "started_from", sha256)

    def log_outputs(self, folder: Path) -> None:
        """Record the run's files and plots, and its network if FROSTLINE_MODELS is on."""
        self._tracker.send(self._key, "files", contents(folder))
        if project.logs_models() and all((folder / name).is_file() for name in FILES):
            self._tracker.send(self._key, "model", _copied(folder).name)


@dataclass(frozen=True)
class PhaseMetrics:
    """What a phase changes, recorded as metrics of each epoch."""

    trainable: int
    """The number of trainable parameters."""
    shares: Mapping[str, float]
    """Group → its highest learning rate as a share of the highest of all groups; 0: frozen."""

    @classmethod
    def of(cls, plan: "FreezePlan", phase: int, network: "nn.Module") -> "PhaseMetrics":
        """Compute the metrics for a phase of a plan on its network."""
        places = plan.layers.places
        factors = {
            group: max(plan.group_factor(phase, group, places[name].depth) for name in names)
            for group, names in plan.groups.items()
        }
        highest = max(factors.values())
        shares = {group: factor / highest for group, factor in factors.items()}
        return cls(plan.trained_size(phase, network), shares)

    def values(self, lr: float | None) -> dict[str, float]:
        """Return the metrics of an epoch whose last step had `lr` as its highest learning rate.

        A phase's curve is the same for all groups, so a group's learning rate is its share of the highest.
        """
        rates = {} if lr is None else {f"lr/{group}": lr * share for group, share in self.shares.items()}
        return {"trainable_parameters": float(self.trainable), **rates}


def contents(folder: Path) -> dict[str, bytes]:
    """Return path in `folder` → content of the files that are recorded: all but weights and checksums."""
    paths = sorted(
        path for path in folder.rglob("*") if path.suffix in RECORDED_FILES and path.name != CHECKSUMS
    )
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _copied(folder: Path) -> Path:
    """Copy the files of a run into a temporary folder that exists until its model is logged."""
    place = project.scratch() / "models"
    place.mkdir(parents=True, exist_ok=True)
    copy = Path(tempfile.mkdtemp(dir=place, prefix="run-"))
    for name in FILES:
        shutil.copyfile(folder / name, copy / name)
    return copy


def _new_journal() -> Journal | None:
    try:
        return Journal()
    except OSError as error:
        journal.warn(f"nothing is recorded: {journal.folder()} can't be written ({error.strerror})")
        return None


def _cause(error: BaseException) -> str:
    """Return what ended a run, for its tag."""
    if isinstance(error, SystemExit):
        return f"ended with status {error.code}"
    return str(error) or type(error).__name__
