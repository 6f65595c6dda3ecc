"""Keeps runs in MLflow's store. Only modules of `adapters` import mlflow.

It runs in the process that `adapters.recorder` starts. A store that is away costs a warning, no training.
Runs are found by the content of the weights that they made, so that lineage survives copies and caches.
"""

import getpass
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import frostline
from frostline import local_store, project
from frostline.errors import FrostlineError
from frostline.files import canonical_json, content_key, exclusive, write_bytes
from frostline.processes import lives
from frostline.services import RUN_KEY, TRIAL_AGAIN, TRIAL_NUMBER, TRIAL_STATE, Mistake, RunInfo

# Before mlflow is imported: a store that is away is noticed in seconds, not in minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
if not sys.stderr.isatty():
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow.entities import Dataset, DatasetInput, Experiment, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from frostline.adapters import machine_load, seeds

PARAM_LIMIT = 6000
"""Characters; MLflow cuts longer values without a word."""
LONG_PARAMS = "long_params.json"
TAG_LIMIT = 5000
"""Characters; only an error's text may be longer."""
PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 900
"""In one request; the server takes 100 and 1,000."""
FLUSH_SECONDS = 5.0
"""The least time between two batches of a run's curves."""
RETRY_SECONDS = 60.0
"""How long a store that failed is left alone before another run tries it."""
RUNNING = "attributes.status = 'RUNNING'"
"""A condition of MLflow's search."""
RECORDED_PACKAGES = ("torch", "torchvision", "timm", "pytorch-lightning", "mlflow", "numpy")

Client = MlflowClient


def now() -> int:
    """Return the time as MLflow counts it: milliseconds since 1970."""
    return int(time.time() * 1000)


@dataclass
class Owed:
    """What a run's pictures, which are not drawn yet, are to be drawn of."""

    files: dict[str, bytes] = field(default_factory=dict)
    mistakes: Sequence[Mistake] = ()
    value: float = 0.0
    """Accuracy on validation: the best are drawn first."""


class Store:
    """MLflow's store, which may be unreachable.

    Args:
        reading: nothing is written to it, nor made: a project that may only be read is enough.
    """

    def __init__(self, *, reading: bool = False) -> None:
        self.uri = project.store_uri()
        self.shown = project.shown_store()
        self._reading = reading
        self._database = local_store.database(self.uri)
        self._failed = -RETRY_SECONDS
        self._owed: dict[str, Owed] = {}

    @property
    def away(self) -> bool:
        """Whether it failed so recently that trying again would be a waste of time."""
        return time.monotonic() - self._failed < RETRY_SECONDS

    @contextmanager
    def tolerant(self, what: str) -> Iterator[None]:
        """Warn instead of raising, and take the store for away."""
        try:
            yield
        except Exception as error:
            self._failed = time.monotonic()
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            print(
                f"frostline: warning: {what} at {self.shown} ({reason});"
                " training goes on, its files are whole",
                file=sys.stderr,
                flush=True,
            )

    @cached_property
    def _connection(self) -> tuple[Client, str]:
        """The client and the experiment's id. The first process makes a fresh store, while others wait."""
        if self._reading:
            return self._opened_to_read()
        name = project.experiment()
        with self._one_at_a_time():
            if self._database and self._database.exists():
                local_store.follow(self._database)
            client = MlflowClient(local_store.address(self._database) if self._database else self.uri)
            if found := client.get_experiment_by_name(name):
                _restored(client, found)
                return client, str(found.experiment_id)
            artifacts = local_store.artifacts_uri(self._database) if self._database else None
            # Else the UI takes it for an experiment with language models, and hides what runs measured.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            try:
                return client, str(client.create_experiment(name, artifact_location=artifacts, tags=kind))
            except MlflowException as error:
                # Another machine has just made it, which no lock of ours keeps from it.
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = client.get_experiment_by_name(name)
            assert found is not None
            return client, str(found.experiment_id)

    def _opened_to_read(self) -> tuple[Client, str]:
        """The client and the experiment's id.

        Raises:
            FrostlineError: there is no store, no experiment, or MLflow can't read it.
        """
        name, none = project.experiment(), "no run is recorded yet; `frostline finetune …` makes one"
        uri = self.uri
        if self._database:
            if local_store.is_empty(self._database):
                raise FrostlineError(f"{self.shown}: {none}")
            if problem := local_store.problem(self._database):
                raise FrostlineError(f"{self.shown} {problem.reason}; {problem.fix}")
            local_store.note_move(self._database)
            uri = local_store.readable(self._database)
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(name)
        if found is None:
            raise FrostlineError(f"{self.shown}: {none}")
        if found.lifecycle_stage != "active":
            raise FrostlineError(
                f"the MLflow experiment {name!r} at {self.shown} was deleted; the next run restores it"
            )
        return client, str(found.experiment_id)

    @property
    def client(self) -> Client:
        """The connection, made when it is first needed."""
        return self._connection[0]

    @property
    def experiment(self) -> str:
        """The id of the experiment that holds all runs."""
        return self._connection[1]

    def connect(self) -> bool:
        """Reach for the store, before a run needs it; say whether it is there."""
        if not self.away:
            with self.tolerant("runs can't be recorded"):
                return bool(self._connection)
        return False

    def begin(self, about: RunInfo, process: str, *, when: int) -> "StoredRun":
        """Open a run under its study's parent; runs that a dead process left open are closed."""
        run = None
        if self.connect():
            with self.tolerant("the run can't be recorded"):
                self._reap(about)
                if about.late and self._has(about):
                    return StoredRun(self, None)
                tags = _tags(about, process)
                tags["mlflow.parentRunId"] = seeds.parent_of(self, tags) or self.study(about.study)
                run = self.client.create_run(self.experiment, when, tags, about.name)
        watched = run and about.context == "training" and not about.late and machine_load.wanted()
        load = machine_load.MachineLoad() if watched else None
        stored = StoredRun(self, run.info.run_id if run else None, load)
        stored.describe(about)
        return stored

    def annotate(
        self,
        weights_sha256: str,
        tags: Mapping[str, str],
        values: Mapping[str, float],
        files: Mapping[str, bytes],
        mistakes: Sequence[Mistake] = (),
    ) -> None:
        """Add final values, files and pictures to the newest run with these tags that made these weights."""
        if self.away:
            return
        with self.tolerant("the test results can't be recorded"):
            given = {key: value for key, value in tags.items() if value}
            if found := self.search({"weights.sha256": weights_sha256, **given}):
                run = StoredRun(self, found[0].info.run_id)
                run.metrics(values)
                run.files(files)
                self.owe(found[0].info.run_id, Owed(dict(files), mistakes))
                if "setting" in found[0].data.tags:
                    seeds.gather(self, found[0].info.run_id)

    @property
    def owes(self) -> int:
        """How many runs' pictures are still to be drawn."""
        return len(self._owed)

    def owe(self, run_id: str, owed: Owed) -> None:
        """Take in what a run's pictures are to be drawn of, with what is known of it already."""
        known = self._owed.setdefault(run_id, Owed())
        known.files |= owed.files
        known.mistakes = owed.mistakes or known.mistakes
        known.value = owed.value or known.value

    def draw(self) -> None:
        """Draw and record the pictures of the best run that lacks some, if there is one."""
        if not self._owed:
            return
        from frostline.adapters.run_plots import draw
        from frostline.report import mistakes_picture

        run_id = max(self._owed, key=lambda each: self._owed[each].value)
        owed = self._owed.pop(run_id)
        with self.tolerant("a run's pictures can't be recorded"), tempfile.TemporaryDirectory() as folder:
            for name, content in owed.files.items():
                write_bytes(Path(folder, name), content)
            drawn = list(draw(Path(folder)))
            if owed.mistakes:
                drawn.append(("mistakes.png", mistakes_picture.draw(owed.mistakes)))
            self.log_files(run_id, drawn)

    def log_params(self, run_id: str, params: Sequence[Param]) -> None:
        """Record parameters, as many at once as a server takes."""
        for i in range(0, len(params), PARAMS_AT_ONCE):
            self.client.log_batch(run_id, params=params[i : i + PARAMS_AT_ONCE])

    def log_files(self, run_id: str, files: Iterable[tuple[str, bytes]]) -> None:
        """Record files by their paths among a run's artifacts."""
        with tempfile.TemporaryDirectory(prefix="frostline-") as folder:
            for name, content in files:
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            if self._database:
                self.upload(str(self.client.get_run(run_id).info.artifact_uri), Path(folder))
            else:
                self.client.log_artifacts(run_id, folder)

    def upload(self, uri: str, folder: Path) -> None:
        """Copy a folder's files to an artifacts' URI of this SQLite store, wherever its project is now."""
        get_artifact_repository(self.here(uri)).log_artifacts(str(folder))

    def here(self, uri: str) -> str:
        """Return an artifacts' URI of this store as it is now: its project may have been moved."""
        return local_store.here(uri, self._database) if self._database else uri

    @property
    def is_local(self) -> bool:
        """Whether it is an SQLite file."""
        return self._database is not None

    def maker(self, sha256: str) -> Run | None:
        """Return the newest run that made the weights of this hash; one that only passed them on did not."""
        runs = self.search({"weights.sha256": sha256}, limit=1000)
        return next((run for run in runs if run.data.tags.get("start.sha256") != sha256), None)

    def search(
        self, tags: Mapping[str, str], *conditions: str, limit: int = 1, order: str = "DESC"
    ) -> list[Run]:
        """Return the runs that have these tags, newest first unless `order` is ASC."""
        filters = [*(_equals(key, value) for key, value in tags.items()), *conditions]
        by_time = [f"attributes.start_time {order}"]
        return list(self.client.search_runs([self.experiment], " and ".join(filters), 1, limit, by_time))

    def study(self, study: str) -> str:
        """Return the id of the study's parent run, made by the first run that needs it."""
        return self.parent(study, {"study": study, "stage": "study"})[0]

    def parent(
        self, name: str, wanted: Mapping[str, str], more: Mapping[str, str] | None = None
    ) -> tuple[str, bool]:
        """Return the id of the run with the tags `wanted`, under which others lie, and whether it is new."""
        with self._one_at_a_time():
            if found := self.search(wanted, order="ASC"):
                return str(found[0].info.run_id), False
            tags = {**wanted, **(more or {}), **_who()}
            made = self.client.create_run(self.experiment, tags=tags, run_name=name)
            self.client.set_terminated(made.info.run_id)
            # Another machine may have made one at the same time: all take the first.
            first = self.search(wanted, order="ASC")[0].info.run_id
            if first != made.info.run_id:
                self.client.delete_run(made.info.run_id)
            return str(first), first == made.info.run_id

    @contextmanager
    def plainly(self, what: str) -> Iterator[None]:
        """Turn what MLflow says into a sentence."""
        try:
            yield
        except FrostlineError:
            raise
        except Exception as error:
            if not type(error).__module__.startswith(("mlflow", "requests", "urllib3", "sqlalchemy")):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            reason = reason.partition(" with exception ")[0][:200].rstrip(".")  # not urllib3's retries
            raise FrostlineError(
                f"{what}: MLflow at {self.shown} says: {reason}; fix that, or set MLFLOW_TRACKING_URI"
            ) from None

    def _reap(self, about: RunInfo) -> None:
        """Mark as killed the runs that a process of this machine left; one that lives on corrects it.

        Of another machine's dead processes the study knows: the run that repeats one's trial names it.
        """
        for run in self.search({"host": socket.gethostname()}, RUNNING, limit=1000):
            if not lives(run.data.tags.get("process", "")):
                self._killed(run)
        if number := about.tags.get(TRIAL_AGAIN):
            for run in self.search({"study": about.study, TRIAL_NUMBER: number}, RUNNING, limit=1000):
                self._killed(run)

    def _has(self, about: RunInfo) -> bool:
        """Whether the run is recorded in its study, and as that arm, or being so."""
        wanted = {name: about.tags.get(name) for name in (RUN_KEY, "arm")} | {"study": about.study}
        found = self.search({name: value for name, value in wanted.items() if value}, limit=1000)
        return any(run.info.status in ("FINISHED", "RUNNING") for run in found)

    def _killed(self, run: Run) -> None:
        if TRIAL_STATE in run.data.tags:
            self.client.set_tag(run.info.run_id, TRIAL_STATE, "killed")
        self.client.set_terminated(run.info.run_id, status="KILLED")

    def _one_at_a_time(self) -> AbstractContextManager[None]:
        if self._database:
            return exclusive(self._database.with_name(f"{self._database.name}.lock"))
        return nullcontext()


class StoredRun:
    """One run in the store; after its first failure the rest of it is not recorded."""

    def __init__(
        self, store: Store, run_id: str | None, load: machine_load.MachineLoad | None = None
    ) -> None:
        self._store, self._id, self._load = store, run_id, load
        self._samples = 0
        self._waiting: list[Metric] = []
        self._owed = Owed()
        self._flushed = time.monotonic()
        self._of_sweep = False

    def describe(self, about: RunInfo) -> None:
        """Record the parameters and the data set."""
        self._of_sweep = TRIAL_STATE in about.tags
        values = dict(_flat(about.config))
        long = {name: text for name, text in values.items() if len(text) > PARAM_LIMIT}
        params = [Param(k, f"see artifact {LONG_PARAMS}" if k in long else v) for k, v in values.items()]
        dataset = Dataset(
            name=about.dataset["name"],
            digest=about.dataset["fingerprint"][:36],
            source_type="local",
            source=json.dumps({"kind": about.dataset["kind"]}),
        )

        def send(client: Client, run_id: str) -> None:
            self._store.log_params(run_id, params)
            inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", about.context)])]
            try:
                client.log_inputs(run_id, inputs)
            except MlflowException:
                # Two runs brought a new data set at once: MLflow looks for it before it inserts it.
                client.log_inputs(run_id, inputs)
            if long:
                self._store.log_files(run_id, [(LONG_PARAMS, canonical_json(long).encode())])

        self._send(send)

    def epoch(self, row: Mapping[str, float | int | None], *, when: int | None = None) -> None:
        """Record a row of the history; rows travel together every few seconds."""
        values = {k: float(v) for k, v in row.items() if v is not None and k not in ("epoch", "step")}
        self._wait(values, int(row["epoch"] or 0), when)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def metrics(self, values: Mapping[str, float], *, when: int | None = None) -> None:
        """Record final values."""
        self._owed.value = values.get("best/val/accuracy", self._owed.value)
        self._wait(values, 0, when)
        self._flush()

    def tags(self, values: Mapping[str, str], *, when: int | None = None) -> None:
        """Record short texts."""
        tags = [RunTag(key, value[:TAG_LIMIT]) for key, value in values.items()]
        self._send(lambda client, run_id: client.log_batch(run_id, tags=tags))

    def started_from(self, sha256: str, *, when: int | None = None) -> None:
        """Name the run that made the weights of this hash."""

        def send(client: Client, run_id: str) -> None:
            made = self._store.maker(sha256)
            known = {"start.run_id": made.info.run_id, "start.run_name": made.info.run_name} if made else {}
            client.log_batch(
                run_id, tags=[RunTag(k, v) for k, v in {"start.sha256": sha256, **known}.items()]
            )

        self._send(send)

    def files(self, files: Mapping[str, bytes], *, when: int | None = None) -> None:
        """Record files by their paths in the run's folder."""
        self._owed.files |= files
        self._send(lambda _, run_id: self._store.log_files(run_id, files.items()))

    def model(self, folder: Path, *, when: int | None = None) -> None:
        """Store the network of the run whose files are in `folder`, which is removed."""
        from frostline.adapters.models import Models
        from frostline.trained import Trained

        try:
            if self._id is not None:
                Models(self._store).keep(Trained.read(folder), self._id)
        except FrostlineError as error:
            print(f"frostline: warning: the model is not stored: {error}", file=sys.stderr, flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def watch_machine(self, *, at_end: bool = False) -> None:
        """Record the machine's load if it is time, and as the run ends."""
        if self._load and self._id and (at_end or self._load.due):
            self._wait(self._load.sample(), self._samples, None)
            self._samples += 1
            self._flush()

    def end(self, status: str, *, when: int | None = None) -> None:
        """Send what waits, and close the run. Its pictures come later: drawing takes what training wants."""
        self.watch_machine(at_end=True)
        self._flush()
        if status == "KILLED" and self._of_sweep:
            self.tags({TRIAL_STATE: "killed"})
        self._send(lambda _, run_id: self._store.owe(run_id, self._owed))
        self._send(lambda client, run_id: client.set_terminated(run_id, status, when))
        self._send(lambda client, run_id: seeds.gather(self._store, run_id))

    def _wait(self, values: Mapping[str, float], step: int, when: int | None) -> None:
        self._waiting += [Metric(key, float(value), when or now(), step) for key, value in values.items()]

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._flushed = time.monotonic()

        def send(client: Client, run_id: str) -> None:
            for i in range(0, len(waiting), METRICS_AT_ONCE):
                client.log_batch(run_id, metrics=waiting[i : i + METRICS_AT_ONCE])

        self._send(send)

    def _send(self, action: Callable[[Client, str], object]) -> None:
        if self._id is None:
            return
        run_id, self._id = self._id, None
        with self._store.tolerant("the run can't be recorded further"):
            action(self._store.client, run_id)
            self._id = run_id


def _restored(client: Client, experiment: Experiment) -> None:
    """Restore the experiment if it was deleted: no run could be recorded in it."""
    if experiment.lifecycle_stage == "active":
        return
    client.restore_experiment(experiment.experiment_id)
    print(
        f"frostline: the MLflow experiment {experiment.name!r} had been deleted and is restored: runs are"
        " recorded in it; to record in another, set MLFLOW_EXPERIMENT_NAME",
        file=sys.stderr,
        flush=True,
    )


def _tags(about: RunInfo, process: str) -> dict[str, str]:
    fixed = {
        "stage": about.stage,
        "study": about.study,
        "dataset.fingerprint": about.dataset["fingerprint"],
        "host": socket.gethostname(),
        "process": process,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "mlflow.source.name": f"frostline {about.stage}",
    }
    experiment = {"dvc.experiment": name} if (name := os.environ.get("DVC_EXP_NAME")) else {}
    found = {**fixed, **_who(), **experiment, **_git(), **_versions(), **about.tags}
    if about.seed is not None:
        alike = {key: value for key, value in about.config.items() if key != "seed"}
        found["setting"] = content_key([alike, about.dataset["fingerprint"]])[:16]
    return found


def _who() -> dict[str, str]:
    with suppress(OSError, KeyError):  # no such user, as in a container that runs under a bare number
        return {"mlflow.user": getpass.getuser()}
    return {}


def _git() -> dict[str, str]:
    def git(*arguments: str) -> str:
        result = subprocess.run(
            ["git", *arguments],
            cwd=project.find_root(),
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        return result.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        dirty = str(bool(git("status", "--porcelain", "--untracked-files=no"))).lower()
    except (OSError, subprocess.SubprocessError):
        return {"git.commit": "none"}
    return {"git.commit": commit, "git.dirty": dirty, "mlflow.source.git.commit": commit}


def _versions() -> dict[str, str]:
    found = {"version.frostline": frostline.__version__}
    for package in RECORDED_PACKAGES:
        with suppress(PackageNotFoundError):
            found[f"version.{package}"] = version(package)
    return found


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested config → dotted names and the text of each value, JSON where it is not a string."""
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False)


def _equals(tag: str, value: str) -> str:
    """A condition of MLflow's search."""
    return f"tags.`{tag}` = {quoted(value)}"


def quoted(value: str) -> str:
    """Return a value as MLflow's search has it, which knows two quotation marks and no way to escape them."""
    mark = '"' if "'" in value else "'"
    return f"{mark}{value}{mark}"
