"""Records runs in MLflow's store.

It is used by `tracking.delivery`, which delivers the journal and tries again what failed: all that is
recorded here may be recorded a second time, and changes nothing then.
Runs are found by the content of the weights that they made, so that lineage survives copies and caches.
"""

import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
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
from frostline.tracking import journal, local_store
from frostline.tracking import metric_names as names
from frostline.tracking import seed_groups as seeds
from frostline.tracking.mlflow_errors import REFUSALS, reason
from frostline.tracking.plot_queue import PendingPlots, PlotQueue, write_inside
from frostline.tracking.run_tags import surroundings, tags_of, user
from frostline.tracking.stored_run import StoredRun
from frostline.training.services import RUN_KEY, TRIAL_AGAIN, TRIAL_NUMBER, TRIAL_STATE, Mistake, RunInfo

PARAMS_AT_ONCE, METRICS_AT_ONCE = 100, 900
"""In one request; the server takes 100 and 1,000."""
RUNNING = "attributes.status = 'RUNNING'"
"""A condition of MLflow's search."""
JOURNAL = "journal"
"""The tag with a run's place in a journal, by which it is found when the journal is delivered again."""

Client = MlflowClient


class Store:
    """MLflow's store, which may be unreachable.

    Args:
        experiment: the name of MLflow's experiment that holds the runs; None: the project's.
        reading: nothing is written to it, nor made: a project that may only be read is enough.
    """

    def __init__(self, experiment: str | None = None, *, reading: bool = False) -> None:
        self.uri = project.store_uri()
        self.shown = project.store_uri_without_password()
        self._name = experiment
        self._reading = reading
        self._database = local_store.database(self.uri)
        self.plots = PlotQueue(self)
        """The runs whose plots are still to be drawn."""
        self._refused: set[str] = set()

    @cached_property
    def _connection(self) -> tuple[Client, str]:
        """The client and the experiment's id. The first process makes a fresh store, while others wait."""
        if self._reading:
            return self._opened_to_read()
        name = self._name or project.experiment()
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
        """Say whether the store can be reached, and warn if it can't be."""
        try:
            return bool(self._connection)
        except Exception as error:
            self.warn(f"MLflow at {self.shown} can't be reached ({reason(error)})")
            return False

    def answers(self) -> bool:
        """Say whether the store answers a simple request."""
        try:
            self.client.get_experiment(self.experiment)
        except Exception:
            return False
        return True

    def warn(self, what: str) -> None:
        """Print a warning, once."""
        if what not in self._refused:
            self._refused.add(what)
            print(f"frostline: warning: {what}", file=sys.stderr, flush=True)

    def begin(
        self,
        about: RunInfo,
        process: str,
        *,
        when: int,
        place: str = "",
        around: Mapping[str, str] | None = None,
    ) -> "StoredRun":
        """Open a run under its study's parent; runs that a dead process left open are closed.

        Args:
            about: the run.
            process: that trains it, as `processes.process_key` names it.
            when: milliseconds since 1970.
            place: the run's place in a journal, under which it may have been opened before.
            around: the tags that say in what surroundings it trains; None: in these.
        """
        stored = StoredRun(self, None, place)
        if stored.id is None:
            self._reap(about)
            if about.late and self._has(about):
                return stored
            tags = tags_of(about, process, surroundings() if around is None else around)
            tags |= {JOURNAL: place} if place else {}
            tags["mlflow.parentRunId"] = seeds.parent_of(self, tags) or self.study(about.study)
            tags = {names.key(key): names.text(value) for key, value in tags.items()}
            name = names.text(about.name, names.KEY_LIMIT)
            stored.id = str(self.client.create_run(self.experiment, when, tags, name).info.run_id)
        stored.describe(about)
        return stored

    def at(self, place: str) -> list[str]:
        """Return the ids of the runs with a place in a journal; more than one if a request was repeated."""
        return sorted(str(run.info.run_id) for run in self.search({JOURNAL: place}, limit=100))

    def annotate(
        self,
        weights_sha256: str,
        tags: Mapping[str, str],
        values: Mapping[str, float],
        files: Mapping[str, bytes],
        mistakes: Sequence[Mistake] = (),
        place: str | None = None,
        *,
        when: int | None = None,
    ) -> bool:
        """Add final values, files and plots to the run with these tags that made these weights.

        Args:
            weights_sha256: of the weights that were measured.
            tags: that tell the run from others.
            values: name → value.
            files: path → content.
            mistakes: to draw.
            place: of the run in a journal; None: the process that measured has not trained it. Of several
                runs, the newest that lacks these values is meant: clocks may have been set back.
            when: in milliseconds since 1970; None: now.

        Returns:
            whether there is such a run.
        """
        given = {"weights.sha256": weights_sha256, **{key: value for key, value in tags.items() if value}}
        found = self.search({**given, JOURNAL: place}) if place else []
        if found := found or self.search(given, limit=1000):
            found.sort(key=lambda run: values.keys() <= run.data.metrics.keys())
            run = StoredRun(self, found[0].info.run_id)
            run.metrics(values, when=when)
            run.flush()
            run.files(files)
            self.plots.add(found[0].info.run_id, PendingPlots(dict(files), mistakes))
            if "setting" in found[0].data.tags:
                seeds.gather(self, found[0].info.run_id, when)
        return bool(found)

    def log_params(self, run_id: str, params: Sequence[Param]) -> None:
        """Record parameters, as many at once as a server takes."""
        self._log(run_id, "params", params, PARAMS_AT_ONCE)

    def log_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        """Record metrics, as many at once as a server takes."""
        self._log(run_id, "metrics", metrics, METRICS_AT_ONCE)

    def log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Record short texts."""
        made = [RunTag(names.key(key), names.text(value)) for key, value in tags.items()]
        self._log(run_id, "tags", made, PARAMS_AT_ONCE)

    def _is_active(self, run_id: str) -> bool:
        return bool(self.client.get_run(run_id).info.lifecycle_stage == "active")

    def _log(self, run_id: str, kind: str, items: Sequence[Any], at_once: int) -> None:
        """Record items; those that MLflow refuses are named in a warning, and cost no other."""
        for i in range(0, len(items), at_once):
            some = items[i : i + at_once]
            given: Any = {kind: some}
            try:
                self.client.log_batch(run_id, **given)
            except MlflowException as error:
                # A run that was deleted is no matter of one item.
                if error.error_code not in REFUSALS or not self._is_active(run_id):
                    raise
                if len(some) > 1:
                    self._log(run_id, kind, some, max(1, len(some) // 2))
                else:
                    what = f"{kind.removesuffix('s')} {some[0].key!r}"
                    self.warn(f"MLflow refused the {what} ({reason(error)}); the rest is recorded")

    def log_files(self, run_id: str, files: Iterable[tuple[str, bytes]]) -> None:
        """Record files by their paths among a run's artifacts."""
        with tempfile.TemporaryDirectory(prefix="frostline-") as folder:
            for name, content in files:
                write_inside(Path(folder), name, content)
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
        tags = {key: names.text(value) for key, value in tags.items()}
        filters = [*(names.equals(f"tags.`{key}`", value) for key, value in tags.items()), *conditions]
        exact = all(names.EXACT.fullmatch(value) for value in tags.values())
        by_time = [f"attributes.start_time {order}"]
        found = self.client.search_runs(
            [self.experiment], " and ".join(filters), 1, limit if exact else 1000, by_time
        )
        return [run for run in found if tags.items() <= run.data.tags.items()][:limit]

    def study(self, study: str) -> str:
        """Return the id of the study's parent run, made by the first run that needs it."""
        return self.parent(study, {"study": study, "stage": "study"})[0]

    def parent(
        self, name: str, wanted: Mapping[str, str], more: Mapping[str, str] | None = None
    ) -> tuple[str, bool]:
        """Return the id of the run with the tags `wanted`, under which others lie, and whether it is new."""
        with self._one_at_a_time():
            found = self.search(wanted, limit=100, order="ASC")
            if made := not found:
                tags = {key: names.text(value) for key, value in {**wanted, **(more or {}), **user()}.items()}
                self.client.create_run(self.experiment, tags=tags, run_name=names.text(name, names.KEY_LIMIT))
                found = self.search(wanted, limit=100, order="ASC")
            first, *others = found
            if first.info.status == "RUNNING":
                self.client.set_terminated(first.info.run_id)
            # Another machine may have made one at the same time, or a server one of a request that was
            # repeated: all take the first.
            for other in others:
                if not self.search({"mlflow.parentRunId": str(other.info.run_id)}):
                    with suppress(MlflowException):  # another machine deletes it as well
                        self.client.delete_run(other.info.run_id)
            return str(first.info.run_id), made

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
        """Mark as killed the runs that a process of this machine left, unless a journal knows more of them.

        Of another machine's dead processes the study knows: the run that repeats one's trial names it.
        """
        for run in self.search({"host": socket.gethostname()}, RUNNING, limit=1000):
            pending = journal.exists(run.data.tags.get(JOURNAL, ""))
            if not pending and not process_is_alive(run.data.tags.get("process", "")):
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
