"""MLflow's store: its experiment, runs and files.

`tracking.delivery` repeats requests that failed, so methods must tolerate it: a second call writes the same
values. Runs are found by the hash of the weights that they made, so that lineage survives copies and caches.
"""

import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow.entities import Experiment, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from frostline.base import project
from frostline.base.locks import exclusive
from frostline.base.processes import process_is_alive
from frostline.console.errors import FrostlineError
from frostline.tracking import journal, local_store, metric_names, new_store, seed_groups
from frostline.tracking.mlflow_errors import REFUSALS, reason
from frostline.tracking.plot_queue import PendingPlots, PlotQueue, below, write_inside
from frostline.tracking.run_tags import SEED_RUN, environment_tags, kind_of, tags_of, user
from frostline.tracking.stored_run import StoredRun
from frostline.tracking.studies import Studies
from frostline.training.services import (
    RUN_KEY,
    TRIAL_AGAIN,
    TRIAL_NUMBER,
    TRIAL_STATE,
    Misclassified,
    RunInfo,
)

PARAMS_BATCH, METRICS_BATCH = 100, 900
"""Items of a request; a server takes at most 100 and 1,000."""
RUNNING = "attributes.status = 'RUNNING'"
"""A filter of MLflow's search."""
JOURNAL = "journal"
"""The tag with a run's place in a journal, by which a repeated delivery finds the run."""


@dataclass(frozen=True)
class EvaluatedRun:
    """Results that were measured after a run had ended."""

    weights_sha256: str
    """The hash of the weights that were evaluated."""
    tags: Mapping[str, str]
    """Those that distinguish the run from others with these weights."""
    values: Mapping[str, float]
    files: Mapping[str, bytes]
    """Path → content."""
    mistakes: Sequence[Misclassified] = ()
    """The images to draw."""
    place: str | None = None
    """The run's place in a journal; None: another process trained it."""
    subfolder: str = ""
    """Where files and plots go among the run's artifacts; empty: beside its own."""


class Store:
    """MLflow's store, which may be unreachable.

    Args:
        experiment: the name of the MLflow experiment; None: the project's.
        reading: whether the store is only read, so that read permission is enough.
    """

    def __init__(self, experiment: str | None = None, *, reading: bool = False) -> None:
        self.uri = project.store_uri()
        self.shown = project.store_uri_without_password()
        self._name = experiment
        self._reading = reading
        self._database = local_store.database(self.uri)
        self.plots = PlotQueue(self)
        """The runs whose plots are not drawn yet."""
        self._warnings: set[str] = set()
        self.studies = Studies(self)
        """The runs of whole studies, and their views."""

    @cached_property
    def _connection(self) -> tuple[MlflowClient, str]:
        """The client and the experiment's id. The first process creates the store while others wait."""
        if self._reading:
            return self._open_read_only()
        name = self._name or project.experiment()
        with self.lock():
            if self._database and local_store.is_empty(self._database):
                new_store.create(self._database)
            elif self._database:
                local_store.follow(self._database)
            client = MlflowClient(local_store.address(self._database) if self._database else self.uri)
            if experiment := client.get_experiment_by_name(name):
                _restore(client, experiment)
                return client, str(experiment.experiment_id)
            artifacts = local_store.artifacts_uri(self._database) if self._database else None
            # Without this tag the UI treats it as an experiment with language models and hides metrics.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            try:
                return client, str(client.create_experiment(name, artifact_location=artifacts, tags=kind))
            except MlflowException as error:
                # Another machine has just created it; the lock holds on this machine only.
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            experiment = client.get_experiment_by_name(name)
            assert experiment is not None
            return client, str(experiment.experiment_id)

    def _open_read_only(self) -> tuple[MlflowClient, str]:
        """Return the client and the experiment's id.

        Raises:
            FrostlineError: there is no store or no experiment, or MLflow can't read it.
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
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise FrostlineError(f"{self.shown}: {none}")
        if experiment.lifecycle_stage != "active":
            raise FrostlineError(
                f"the MLflow experiment {name!r} at {self.shown} was deleted; the next run restores it"
            )
        return client, str(experiment.experiment_id)

    @property
    def client(self) -> MlflowClient:
        """The client; the connection is opened on first use."""
        return self._connection[0]

    @property
    def experiment(self) -> str:
        """The id of the experiment that holds all runs."""
        return self._connection[1]

    def connect(self) -> bool:
        """Return whether the store can be reached; warn if it can't."""
        try:
            return bool(self._connection)
        except Exception as error:
            self.warn(f"MLflow at {self.shown} can't be reached ({reason(error)})")
            return False

    def answers(self) -> bool:
        """Return whether the store answers a simple request."""
        try:
            self.client.get_experiment(self.experiment)
        except Exception:
            return False
        return True

    def warn(self, sentence: str) -> None:
        """Print a warning once."""
        if sentence not in self._warnings:
            self._warnings.add(sentence)
            journal.warn(sentence)

    def begin(
        self,
        about: RunInfo,
        process: str,
        *,
        when: int,
        place: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> "StoredRun":
        """Open a run under its study's parent run, and close the runs of dead processes.

        Args:
            process: the one that trains the run, as `processes.process_key` names it.
            when: milliseconds since 1970.
            place: the run's place in a journal, under which it may have been opened before.
            environment: the tags that describe the machine and the code; None: those of this process.
        """
        stored = StoredRun(self, None, place)
        if stored.id is None:
            self._close_dead_runs(about)
            if about.late and self._is_recorded(about):
                return stored
            tags = tags_of(about, process, environment_tags() if environment is None else environment)
            tags |= {JOURNAL: place} if place else {}
            study = self.studies.begin(about.study, tags)
            tags |= {"mlflow.parentRunId": study, "kind": kind_of(about)}
            if above := seed_groups.parent_of(self, tags):
                tags |= {"mlflow.parentRunId": above, "kind": SEED_RUN}
            tags = {metric_names.key(key): metric_names.text(value) for key, value in tags.items()}
            name = metric_names.text(about.name, metric_names.KEY_LIMIT)
            stored.id = str(self.client.create_run(self.experiment, when, tags, name).info.run_id)
        stored.describe(about)
        return stored

    def at(self, place: str) -> list[str]:
        """Return the ids of the runs with this place in a journal; several if a request was repeated."""
        return sorted(str(run.info.run_id) for run in self.search({JOURNAL: place}, limit=100))

    def annotate(self, evaluated: EvaluatedRun, *, when: int | None = None) -> bool:
        """Add an evaluation to the run that made its weights.

        Args:
            evaluated: the results. Of several runs that made these weights, the newest without these metrics
                gets them, else the newest. (After a clock was set back, the newest may have them already.)
            when: milliseconds since 1970; None: now.

        Returns:
            Whether there is such a run.
        """
        tags = {"weights.sha256": evaluated.weights_sha256}
        tags |= {key: value for key, value in evaluated.tags.items() if value}
        runs = self.search({**tags, JOURNAL: evaluated.place}) if evaluated.place else []
        if runs := runs or self.search(tags, limit=1000):
            runs.sort(key=lambda run: evaluated.values.keys() <= run.data.metrics.keys())
            run_id = runs[0].info.run_id
            run = StoredRun(self, run_id)
            run.metrics(evaluated.values, when=when)
            run.flush()
            run.describe_results({**runs[0].data.metrics, **evaluated.values})
            run.files({below(evaluated.subfolder, name): file for name, file in evaluated.files.items()})
            plots = PendingPlots(dict(evaluated.files), evaluated.mistakes)
            self.plots.add(run_id, plots, evaluated.subfolder)
            if "setting" in runs[0].data.tags:
                seed_groups.gather(self, run_id, when)
        return bool(runs)

    def log_params(self, run_id: str, params: Sequence[Param]) -> None:
        """Record parameters in batches."""
        self._log(run_id, "params", params, PARAMS_BATCH)

    def log_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        """Record metrics in batches."""
        self._log(run_id, "metrics", metrics, METRICS_BATCH)

    def log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Record tags."""
        items = [RunTag(metric_names.key(key), metric_names.text(value)) for key, value in tags.items()]
        self._log(run_id, "tags", items, PARAMS_BATCH)

    def _log(self, run_id: str, kind: str, items: Sequence[Any], size: int) -> None:
        """Record items in batches of `size`; if MLflow refuses one, warn and record the others."""
        for i in range(0, len(items), size):
            batch = items[i : i + size]
            arguments: Any = {kind: batch}
            try:
                self.client.log_batch(run_id, **arguments)
            except MlflowException as error:
                if error.error_code not in REFUSALS:
                    raise
                if self.client.get_run(run_id).info.lifecycle_stage != "active":
                    raise  # the run was deleted: no single item is to blame
                if len(batch) > 1:
                    self._log(run_id, kind, batch, max(1, len(batch) // 2))
                else:
                    item = f"{kind.removesuffix('s')} {batch[0].key!r}"
                    self.warn(f"MLflow refused the {item} ({reason(error)}); the rest is recorded")

    def log_files(self, run_id: str, files: Iterable[tuple[str, bytes]]) -> None:
        """Record files as artifacts of a run."""
        with tempfile.TemporaryDirectory(prefix="frostline-") as folder:
            for name, content in files:
                write_inside(Path(folder), name, content)
            if self._database:
                self.upload(str(self.client.get_run(run_id).info.artifact_uri), Path(folder))
            else:
                self.client.log_artifacts(run_id, folder)

    def upload(self, uri: str, folder: Path) -> None:
        """Copy a folder's files to an artifact URI of this SQLite store, wherever its project is now."""
        get_artifact_repository(self.here(uri)).log_artifacts(str(folder))

    def here(self, uri: str) -> str:
        """Return an artifact URI of this store as it is now: its project may have been moved."""
        return local_store.here(uri, self._database) if self._database else uri

    @property
    def is_local(self) -> bool:
        """Whether the store is an SQLite file."""
        return self._database is not None

    def maker(self, sha256: str) -> Run | None:
        """Return the newest run that trained the weights of this hash, not one that starts from them."""
        runs = self.search({"weights.sha256": sha256}, limit=1000)
        return next((run for run in runs if run.data.tags.get("start.sha256") != sha256), None)

    def search(
        self, tags: Mapping[str, str], *conditions: str, limit: int = 1, order: str = "DESC"
    ) -> list[Run]:
        """Return the runs that have these tags, newest first unless `order` is ASC."""
        tags = {key: metric_names.text(value) for key, value in tags.items()}
        filters = [*(metric_names.equals(f"tags.`{key}`", value) for key, value in tags.items()), *conditions]
        exact = all(metric_names.EXACT.fullmatch(value) for value in tags.values())
        by_time = [f"attributes.start_time {order}"]
        runs = self.client.search_runs(
            [self.experiment], " and ".join(filters), 1, limit if exact else 1000, by_time
        )
        return [run for run in runs if tags.items() <= run.data.tags.items()][:limit]

    def parent(
        self, name: str, tags: Mapping[str, str], more: Mapping[str, str] | None = None
    ) -> tuple[str, bool]:
        """Return the id of the parent run with these tags, and whether it was created now."""
        client = self.client  # opened first: that takes the same lock
        with self.lock():
            parents = self.search(tags, limit=100, order="ASC")
            if created := not parents:
                all_tags = {**tags, **(more or {}), **user()}
                client.create_run(
                    self.experiment,
                    tags={key: metric_names.text(value) for key, value in all_tags.items()},
                    run_name=metric_names.text(name, metric_names.KEY_LIMIT),
                )
                parents = self.search(tags, limit=100, order="ASC")
            first, *others = parents
            if first.info.status == "RUNNING":
                client.set_terminated(first.info.run_id)
            # Another machine, or a repeated request, may have created one as well: all use the first.
            for other in others:
                if not self.search({"mlflow.parentRunId": str(other.info.run_id)}):
                    with suppress(MlflowException):  # another machine has just deleted it
                        client.delete_run(other.info.run_id)
            return str(first.info.run_id), created

    @contextmanager
    def one_sentence(self, subject: str) -> Iterator[None]:
        """Turn MLflow's errors into one sentence that begins with `subject`."""
        try:
            yield
        except FrostlineError:
            raise
        except Exception as error:
            if not type(error).__module__.startswith(("mlflow", "requests", "urllib3", "sqlalchemy")):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            reason = reason.partition(" with exception ")[0][:200].rstrip(".")  # without urllib3's retries
            raise FrostlineError(
                f"{subject}: MLflow at {self.shown} says: {reason}; fix that, or set MLFLOW_TRACKING_URI"
            ) from None

    def _close_dead_runs(self, about: RunInfo) -> None:
        """Mark the open runs of this machine's dead processes as killed, unless a journal still has records.

        A run that repeats a trial of another machine's dead process marks that trial's run, too.
        """
        for run in self.search({"host": socket.gethostname()}, RUNNING, limit=1000):
            pending = journal.exists(run.data.tags.get(JOURNAL, ""))
            if not pending and not process_is_alive(run.data.tags.get("process", "")):
                self._mark_killed(run)
        if number := about.tags.get(TRIAL_AGAIN):
            for run in self.search({"study": about.study, TRIAL_NUMBER: number}, RUNNING, limit=1000):
                self._mark_killed(run)

    def _is_recorded(self, about: RunInfo) -> bool:
        """Return whether its study has a run of the same key and arm that finished or is being recorded."""
        tags = {name: about.tags.get(name) for name in (RUN_KEY, "arm")} | {"study": about.study}
        runs = self.search({name: value for name, value in tags.items() if value}, limit=1000)
        return any(run.info.status in ("FINISHED", "RUNNING") for run in runs)

    def _mark_killed(self, run: Run) -> None:
        if TRIAL_STATE in run.data.tags:
            self.client.set_tag(run.info.run_id, TRIAL_STATE, "killed")
        self.client.set_terminated(run.info.run_id, status="KILLED")

    def lock(self) -> AbstractContextManager[None]:
        """Hold the lock of an SQLite store, which its processes on this machine share."""
        if self._database:
            return exclusive(self._database.with_name(f"{self._database.name}.lock"))
        return nullcontext()


def _restore(client: MlflowClient, experiment: Experiment) -> None:
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
