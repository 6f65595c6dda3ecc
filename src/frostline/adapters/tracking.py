"""Records runs in MLflow. The only module that imports it.

A store that is away must not cost a training: after one failure the rest of that run is not recorded, and a warning
says so. Runs are found by the content of the weights that they made, so that lineage survives copies and caches.
"""

import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from frostline import project
from frostline.files import canonical_json, exclusive
from frostline.services import RunInfo

# Before mlflow is imported: a store that is away is noticed in seconds, not in minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

EXPERIMENT = "frostline"
PARAM_LIMIT = 6000
FLUSH_SECONDS = 5.0
BATCH = 900
"""Metrics in one request; the server takes 1,000."""
RECORDED_PACKAGES = ("frostline", "torch", "torchvision", "timm", "pytorch-lightning", "mlflow", "numpy")


def store_uri() -> str:
    """Return the store: MLFLOW_TRACKING_URI, else `mlflow.db` in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project.home() / 'mlflow.db'}"


class MlflowTracker:
    """Opens runs in the store; implements `services.Tracker`."""

    def __init__(self) -> None:
        self.uri = store_uri()
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._away = False

    def connect(self) -> MlflowClient | None:
        """Return the client, None if the store is away. The first process prepares a fresh store while others wait."""
        if self._client is None and not self._away:
            with self.tolerant("the MLflow store can't be reached"):
                with exclusive(project.scratch() / "locks" / "mlflow.lock"):
                    self._client = MlflowClient(self.uri)
                    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
                    found = self._client.get_experiment_by_name(name)
                    self._experiment = found.experiment_id if found else self._create_experiment(name)
        return None if self._away else self._client

    @contextmanager
    def run(self, about: RunInfo) -> Iterator["RecordedRun"]:
        """Record a run under its study's parent; it ends as failed or killed if the block raises."""
        client = self.connect()
        run: Run | None = None
        if client:
            with self.tolerant("the run can't be recorded"):
                parent = self._study(client, about.study)
                self._reap(client, parent)
                run = client.create_run(
                    self._experiment,
                    run_name=about.name,
                    tags={"mlflow.parentRunId": parent, **_tags(about)},
                )
        recorded = RecordedRun(self, client if run else None, run)
        recorded.begin(about)
        try:
            yield recorded
        except BaseException as error:
            recorded.tags({"error": str(error)[:PARAM_LIMIT]})
            recorded.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        recorded.end("FINISHED")

    def annotate(self, weights_sha256: str, values: Mapping[str, float]) -> None:
        """Add final values to the newest run that made these weights."""
        if client := self.connect():
            with self.tolerant("the test results can't be recorded"):
                if run := self.by_weights(client, weights_sha256):
                    now = int(time.time() * 1000)
                    client.log_batch(run.info.run_id, metrics=[Metric(k, v, now, 0) for k, v in values.items()])

    def by_weights(self, client: MlflowClient, sha256: str) -> Run | None:
        """Return the newest run that made the weights of this hash."""
        found = client.search_runs(
            [self._experiment],
            f"tags.`weights.sha256` = '{sha256}'",
            max_results=1,
            order_by=["attributes.start_time DESC"],
        )
        return found[0] if found else None

    def _create_experiment(self, name: str) -> str:
        assert self._client is not None
        # Artifacts of the default store lie beside it, wherever the command was started.
        local = f"file://{project.home() / 'mlartifacts'}" if self.uri.startswith("sqlite:") else None
        return str(self._client.create_experiment(name, artifact_location=local))

    def _study(self, client: MlflowClient, study: str) -> str:
        """Return the id of the study's parent run, made by the first run that needs it."""
        with exclusive(project.scratch() / "locks" / "mlflow.lock"):
            found = client.search_runs(
                [self._experiment],
                f"tags.study = '{study}' and tags.stage = 'study'",
                max_results=1,
                order_by=["attributes.start_time ASC"],
            )
            if found:
                return str(found[0].info.run_id)
            run = client.create_run(self._experiment, run_name=study, tags={"study": study, "stage": "study"})
            client.set_terminated(run.info.run_id)
            return str(run.info.run_id)

    def _reap(self, client: MlflowClient, parent: str) -> None:
        """Mark as killed the runs of this study that a process of this machine left behind."""
        running = client.search_runs(
            [self._experiment],
            f"attributes.status = 'RUNNING' and tags.host = '{socket.gethostname()}'"
            f" and tags.`mlflow.parentRunId` = '{parent}'",
            run_view_type=ViewType.ACTIVE_ONLY,
        )
        for run in running:
            pid = int(run.data.tags.get("pid", "0"))
            if pid != os.getpid() and not _alive(pid):
                client.set_terminated(run.info.run_id, status="KILLED")

    @contextmanager
    def tolerant(self, what: str) -> Iterator[None]:
        """Warn instead of raising, and take the store for away."""
        try:
            yield
        except Exception as error:
            self._away = True
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            print(
                f"frostline: warning: {what} at {self.uri} ({reason}); training goes on unrecorded,"
                " its files are complete",
                file=sys.stderr,
            )


class RecordedRun:
    """One run in the store; implements `services.Recorded`."""

    def __init__(self, tracker: MlflowTracker, client: MlflowClient | None, run: Run | None) -> None:
        self._tracker, self._client = tracker, client
        self.id = run.info.run_id if run else ""
        self._waiting: list[Metric] = []
        self._flushed = time.monotonic()

    def begin(self, about: RunInfo) -> None:
        """Record the parameters and the data set."""
        values = dict(_flat(about.config))
        long = {name: text for name, text in values.items() if len(text) > PARAM_LIMIT}
        params = [Param(k, "see artifact long_params.json" if k in long else v) for k, v in values.items()]
        dataset = Dataset(
            name=about.dataset["name"],
            digest=about.dataset["fingerprint"][:36],
            source_type="local",
            source=json.dumps({"kind": about.dataset["kind"]}),
        )

        def send(client: MlflowClient) -> None:
            for i in range(0, len(params), 100):
                client.log_batch(self.id, params=params[i : i + 100])
            client.log_inputs(self.id, [DatasetInput(dataset, [InputTag("mlflow.data.context", about.context)])])
            if long:
                client.log_text(self.id, canonical_json(long), "long_params.json")

        self._send(send)

    def epoch(self, row: Mapping[str, float | int | None]) -> None:
        """Record a row of the history; rows travel together every few seconds."""
        self._wait({k: float(v) for k, v in row.items() if v is not None and k != "epoch"}, int(row["epoch"] or 0))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def metrics(self, values: Mapping[str, float]) -> None:
        """Record final values."""
        self._wait(values, 0)

    def tags(self, values: Mapping[str, str]) -> None:
        """Record short texts."""
        tags = [RunTag(key, value) for key, value in values.items()]
        self._send(lambda client: client.log_batch(self.id, tags=tags))

    def started_from(self, sha256: str) -> None:
        """Name the run that made the weights of this hash."""

        def send(client: MlflowClient) -> None:
            made = self._tracker.by_weights(client, sha256)
            known = {"start.run_id": made.info.run_id, "start.run_name": made.info.run_name} if made else {}
            self.tags({"start.sha256": sha256, **known})

        self._send(send)

    def finished(self, folder: Path) -> None:
        """Record the run's files, but not the weights, which DVC keeps, and draw its pictures."""
        from frostline.adapters.run_plots import draw

        def send(client: MlflowClient) -> None:
            for path in sorted(p for p in folder.rglob("*") if p.suffix in (".csv", ".json", ".yaml")):
                place = path.relative_to(folder).parent.as_posix()
                client.log_artifact(self.id, str(path), None if place == "." else place)
            for name, figure in draw(folder):
                client.log_figure(self.id, figure, name)

        self._send(send)

    def end(self, status: str) -> None:
        """Send what waits and close the run."""
        self._flush()
        self._send(lambda client: client.set_terminated(self.id, status=status))

    def _wait(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self._waiting += [Metric(key, float(value), now, step) for key, value in values.items()]

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._flushed = time.monotonic()

        def send(client: MlflowClient) -> None:
            for i in range(0, len(waiting), BATCH):
                client.log_batch(self.id, metrics=waiting[i : i + BATCH])

        self._send(send)

    def _send(self, action: Callable[[MlflowClient], object]) -> None:
        """Do `action` with the client, unless the store has gone away; the first failure is the last attempt."""
        if self._client is None:
            return
        with self._tracker.tolerant("the run can't be recorded further"):
            action(self._client)
            return
        self._client = None


def _tags(about: RunInfo) -> dict[str, str]:
    fixed = {
        "stage": about.stage,
        "study": about.study,
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "mlflow.source.name": "frostline",
    }
    return {**fixed, **_git(), **_versions(), **about.tags}


def _git() -> dict[str, str]:
    def git(*arguments: str) -> str:
        result = subprocess.run(
            ["git", *arguments], cwd=project.find_root(), capture_output=True, text=True, timeout=20, check=True
        )
        return result.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        dirty = str(bool(git("status", "--porcelain", "--untracked-files=no"))).lower()
    except (OSError, subprocess.SubprocessError):
        return {"git.commit": "none"}
    return {"git.commit": commit, "git.dirty": dirty, "mlflow.source.git.commit": commit}


def _versions() -> dict[str, str]:
    found = {}
    for package in RECORDED_PACKAGES:
        with suppress(PackageNotFoundError):
            found[f"version.{package}"] = version(package)
    return found


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested config → dotted names and the text of each value, JSON where it is not a scalar."""
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner if isinstance(inner, str) else json.dumps(inner)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
