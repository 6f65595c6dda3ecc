"""Trained networks in MLflow's store and registry, as models that plain MLflow loads."""

import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urlparse

from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModel, LoggedModelOutput, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from frostline.base import project
from frostline.base.files import publish
from frostline.base.hashes import content_key, sha256_of
from frostline.base.metrics import headline
from frostline.base.run_folder import WEIGHTS
from frostline.console.errors import FrostlineError, allowed
from frostline.runs.local_copies import GONE, local_weights
from frostline.tracking import local_store, metric_names
from frostline.tracking.store import Store

if TYPE_CHECKING:
    from frostline.runs.trained_run import TrainedRun
from frostline.tracking.logged_model import RUN, save

NAME = "model"
"""The name of a run's model: runs:/ID/model."""
RECORDED = ("dataset.fingerprint", "git.commit", "git.dirty", "version.frostline")
"""The tags of a run that its model version gets, too."""
NO_WEIGHTS = "made no weights; name one of a finished pretrain or finetune"
METRICS = ("accuracy", "balanced_accuracy", "mAP", "f1_micro", "f1_macro", "loss", "ece")
"""The test and validation metrics that become tags of a version."""


@dataclass(frozen=True)
class Registered:
    """A version of a registered model."""

    name: str
    version: str
    new: bool
    """Whether it was created now; otherwise there was a version with these weights."""
    moved: str | None
    """The version that the alias pointed at before; None: no other one."""
    difference: float | None
    """Largest difference of a probability between the stored model and the network; None: not stored now."""
    tried_on: str
    """The images that it was checked on, in words."""
    description: str
    """The run's name and accuracy."""


@dataclass(frozen=True)
class Stored:
    """A model in the store."""

    location: str
    """The URI of its files."""
    sha256: str
    """The hash of the run's weights; empty: not recorded."""

    @classmethod
    def of(cls, model: LoggedModel) -> Self:
        """Return the stored model that MLflow's record describes."""
        return cls(str(model.artifact_location), model.tags.get("weights.sha256", ""))

    @property
    def is_local(self) -> bool:
        """Whether its files are on this machine, rather than on a server."""
        return urlparse(self.location).scheme in ("", "file")

    def is_intact(self, folder: Path) -> bool:
        """Return whether the weights in the run folder `folder` are those that were stored."""
        if not self.sha256 or not folder.is_dir():
            return True
        path = folder / WEIGHTS
        return path.is_file() and sha256_of(path) == self.sha256


class Models:
    """The models of a project's MLflow store.

    Args:
        store: an open store; None: the project's, to read from.
    """

    def __init__(self, store: Store | None = None) -> None:
        self._store = store or Store(reading=True)

    def fetch(self, uri: str) -> Path:
        """Return a folder with the files of the run whose model is at `uri`; it is downloaded once.

        Args:
            uri: models:/NAME@ALIAS, models:/NAME/VERSION, models:/ID or runs:/ID/model.

        Raises:
            FrostlineError: there is no such model, or frostline did not make it.
        """
        scheme, _, rest = uri.partition(":/")
        rest = rest.strip("/")
        with self._store.one_sentence(uri):
            stored = self._of_run(rest, uri) if scheme == "runs" else self._of_version(rest, uri)
            folder = self._folder(stored)
            if not stored.is_intact(folder) and not stored.is_local:
                shutil.rmtree(folder)  # a damaged cached copy
                folder = self._folder(stored)
        if not folder.is_dir():
            raise FrostlineError(
                f"{uri}: holds no run of frostline's; make one with frostline register, or load it in MLflow"
            )
        if not stored.is_intact(folder):
            raise FrostlineError(
                f"{uri}: {folder / WEIGHTS} is missing or differs from what was registered (sha256"
                f" {stored.sha256[:12]}…); register the run again: frostline register RUN --name NAME"
            )
        return folder

    def weights(self) -> set[str]:
        """Return the sha256 of the weights of all runs whose model is in the store."""
        stored = [Stored.of(model) for model in self._models()]
        return {model.sha256 for model in stored if not model.is_local or self._folder(model).is_dir()}

    def weights_of(self, text: str, words: Collection[str] = ()) -> tuple[str, str, dict[str, str]]:
        """Return the id, the sha256 of the weights and the parameters of the run with this id or name.

        Args:
            words: others that the caller accepts, for the error.

        Raises:
            FrostlineError: no run has this id or name, or several have, or the run made no weights.
        """
        with self._store.one_sentence(text):
            run = self._run(text, words)
        if sha256 := run.data.tags.get("weights.sha256"):
            return str(run.info.run_id), sha256, run.data.params
        raise FrostlineError(f"{text}: this run {NO_WEIGHTS}")

    def register(self, trained: "TrainedRun", name: str, alias: str | None) -> Registered:
        """Register a finished run's network as a version of the model `name`, and point `alias` at it.

        If there is a version with the same weights, it is used.

        Raises:
            FrostlineError: the store is unreachable or refuses the name or the alias; or the network can't be
                exported, or its export gives other results.
        """
        difference, tried_on = None, ""
        _check_names(name, alias)
        with self._store.one_sentence("register"):
            client = self._store.client
            run = self._maker(trained)
            version = self._version_with(name, trained)
            if new := version is None:
                model = self._stored(trained)
                if model is None:
                    model, difference, tried_on = self._store_model(trained, run)
                try:
                    client.create_registered_model(name)
                except MlflowException as error:
                    if error.error_code != "RESOURCE_ALREADY_EXISTS":
                        raise
                version = client.create_model_version(
                    name,
                    model.artifact_location,
                    run.info.run_id if run else None,
                    tags=_tags(trained, run),
                    description=_described(trained, run),
                    # Without a run, MLflow would look the model up in its default store.
                    model_id=model.model_id if run or self._store.uri.startswith("http") else None,
                )
            assert version is not None
            moved = self._point(name, alias, str(version.version)) if alias else None
        return Registered(
            name, str(version.version), new, moved, difference, tried_on, str(version.description)
        )

    def keep(self, trained: "TrainedRun", run_id: str) -> None:
        """Store a run's network as runs:/ID/model.

        Raises:
            FrostlineError: the network can't be exported, or the store is unreachable.
        """
        with self._store.one_sentence("model"):
            self._store_model(trained, self._store.client.get_run(run_id))

    def _store_model(self, trained: "TrainedRun", run: Run | None) -> tuple[LoggedModel, float, str]:
        """Write the model, check it, and store it."""
        client = self._store.client
        experiment = run.info.experiment_id if run else self._store.experiment
        with tempfile.TemporaryDirectory(prefix="frostline-") as scratch:
            folder = Path(scratch, NAME)
            run_id = str(run.info.run_id) if run else None
            # Written and checked before it is stored: a network that can't be exported leaves no record.
            about = Model(run_id=run_id)
            difference, tried_on = save(trained, folder, about)
            tags = {"weights.sha256": trained.sha256}
            model = client.create_logged_model(str(experiment), NAME, run_id, tags, model_type="classifier")
            about.artifact_path, about.model_id = model.artifact_location, model.model_id
            about.model_uuid = model.model_id
            about.save(str(folder / "MLmodel"))
            try:
                if self._store.is_local:
                    self._store.upload(str(model.artifact_location), folder)
                else:
                    client.log_model_artifacts(model.model_id, str(folder))
            except BaseException:
                client.finalize_logged_model(model.model_id, "FAILED")
                raise
        client.finalize_logged_model(model.model_id, "READY")
        if run_id:
            client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
        return model, difference, tried_on

    def _stored(self, trained: "TrainedRun") -> LoggedModel | None:
        """An intact model of these weights that the store already has."""
        ready = self._models(f" AND tags.`weights.sha256` = '{trained.sha256}'")
        return next((model for model in ready if self._holds(str(model.artifact_location), trained)), None)

    def _models(self, condition: str = "") -> Iterator[LoggedModel]:
        """The completely stored models that match a filter of MLflow's search."""
        token = None
        while True:
            page = self._store.client.search_logged_models(
                [self._store.experiment], f"name = '{NAME}'{condition}", page_token=token
            )
            yield from (model for model in page if str(model.status) == "READY")
            if not (token := page.token):
                return

    def _holds(self, location: str, trained: "TrainedRun") -> bool:
        """Whether a run's weights are intact at `location`; on a server they are assumed to be."""
        stored = Stored(location, trained.sha256)
        if not stored.is_local:
            return True
        folder = self._folder(stored)
        return folder.is_dir() and stored.is_intact(folder)

    def _maker(self, trained: "TrainedRun") -> Run | None:
        """The newest recorded run that made these weights, preferably with this config."""
        run = trained.run
        tags = {"weights.sha256": trained.sha256, "stage": run.stage, "seed": str(run.seed)}
        runs = self._store.search(tags | {"freeze": run.freeze_name}) or self._store.search(tags)
        return runs[0] if runs else self._store.maker(trained.sha256)

    def _version_with(self, name: str, trained: "TrainedRun") -> ModelVersion | None:
        """The newest version with these weights whose files are intact."""
        versions = self._store.client.search_model_versions(
            metric_names.equals("name", name), max_results=10_000
        )
        same = [version for version in versions if version.tags.get("weights.sha256") == trained.sha256]
        for version in sorted(same, key=lambda version: int(version.version), reverse=True):
            location = self._store.client.get_model_version_download_uri(name, str(version.version))
            if self._holds(str(location), trained):
                return version
        return None

    def _point(self, name: str, alias: str, version: str) -> str | None:
        """Point an alias at a version; return the other version that it pointed at before."""
        client = self._store.client
        before = {str(k): str(v) for k, v in client.get_registered_model(name).aliases.items()}
        client.set_registered_model_alias(name, alias, version)
        return before[alias] if before.get(alias) not in (None, version) else None

    def _of_version(self, rest: str, uri: str) -> Stored:
        client = self._store.client
        name, at, alias = rest.partition("@")
        name, slash, version = name.partition("/")
        if not at and not slash:
            return Stored.of(client.get_logged_model(name))
        try:
            model = client.get_registered_model(name)
        except MlflowException:
            known = [registered.name for registered in client.search_registered_models(max_results=1000)]
            advice = allowed(name, known) if known else f"register one: frostline register RUN --name {name}"
            raise FrostlineError(
                f"{uri}: no model {name!r} is registered at {self._store.shown}; {advice}"
            ) from None
        try:
            found = client.get_model_version_by_alias if at else client.get_model_version
            registered_version = found(name, alias or version)
        except MlflowException:
            if at:
                raise FrostlineError(f"{uri}: no alias {alias!r}; {allowed(alias, model.aliases)}") from None
            versions = client.search_model_versions(metric_names.equals("name", name))
            there = allowed(version, [str(registered.version) for registered in versions])
            raise FrostlineError(f"{uri}: no version {version!r}; {there}") from None
        location = client.get_model_version_download_uri(name, str(registered_version.version))
        return Stored(str(location), registered_version.tags.get("weights.sha256", ""))

    def _of_run(self, rest: str, uri: str) -> Stored:
        run_id, _, name = rest.partition("/")
        run = self._run(run_id)
        outputs = run.outputs.model_outputs if run.outputs else []
        for output in reversed(outputs):
            model = self._store.client.get_logged_model(output.model_id)
            if model.name == (name or NAME) and str(model.status) == "READY":
                return Stored.of(model)
        if not (sha256 := run.data.tags.get("weights.sha256")):
            raise FrostlineError(f"{uri}: this run {NO_WEIGHTS}")
        for model in self._models(f" AND tags.`weights.sha256` = '{sha256}'"):
            return Stored.of(model)  # of another run with these weights
        if sha256 not in local_weights():
            raise FrostlineError(f"{uri}: this run has no model, and its weights were {GONE}")
        raise FrostlineError(
            f"{uri}: this run has no model yet; give it one: frostline register {run_id} --name NAME"
        )

    def _run(self, text: str, words: Collection[str] = ()) -> Run:
        with suppress(MlflowException):
            return self._store.client.get_run(text)
        runs = self._store.search({}, metric_names.equals("attributes.run_name", text), limit=100)
        runs = [run for run in runs if run.info.run_name == text]
        runs = [run for run in runs if "weights.sha256" in run.data.tags] or runs
        if len(runs) == 1:
            return runs[0]
        if runs:
            ids = ", ".join(run.info.run_id for run in runs[:3])
            raise FrostlineError(
                f"{text}: {len(runs)} runs have this name; give an id, such as {ids}, or a folder"
            )
        recent = self._store.search({}, limit=1000)
        known = {str(run.info.run_name) for run in recent if "weights.sha256" in run.data.tags} | {*words}
        raise FrostlineError(local_store.no_such_name(text, known))

    def _folder(self, stored: Stored) -> Path:
        """The folder with the files of the model's run, downloaded if it is remote."""
        location = stored.location
        if stored.is_local:
            return Path(unquote(urlparse(self._store.here(location)).path), RUN)
        cached = project.scratch() / "models" / content_key(location)[:24]  # a stored model never changes
        if not cached.is_dir():
            with tempfile.TemporaryDirectory(prefix="frostline-") as scratch:
                try:
                    files = download_artifacts(
                        artifact_uri=f"{location.rstrip('/')}/{RUN}",
                        dst_path=scratch,
                        tracking_uri=self._store.uri,
                    )
                except MlflowException as error:
                    if "RESOURCE_DOES_NOT_EXIST" in str(error):
                        return cached
                    raise
                with publish(cached) as work:
                    shutil.copytree(files, work, dirs_exist_ok=True)
        return cached


def _check_names(name: str, alias: str | None) -> None:
    """Check names that the registry or a model URI can't hold, before anything is stored."""
    if not name.strip() or any(mark in name for mark in "/:@"):
        raise FrostlineError(f"--name: found {name!r}; a name has no /, : or @, and is not empty")
    reserved = re.compile(r"v\d+|latest", re.IGNORECASE)
    if alias is not None and (not re.fullmatch(r"[\w-]+", alias) or reserved.fullmatch(alias)):
        raise FrostlineError(
            f"--alias: found {alias!r}; give letters, digits, _ and -, but neither latest nor v1, v2, …"
        )


def _tags(trained: "TrainedRun", run: Run | None) -> dict[str, str]:
    from frostline.schema import backbone_name

    known: Mapping[str, str] = run.data.tags if run else {}
    config = trained.run
    own = {
        "weights.sha256": trained.sha256,
        "run.name": str(run.info.run_name) if run else trained.folder.name,
        "stage": config.stage,
        "backbone": backbone_name(config.backbone),
        "dataset": config.dataset.kind,
        "classes": str(len(trained.classes)),
    }
    recorded = {key: known[key] for key in RECORDED if key in known}
    return {**own, **recorded, **{k: f"{v:.6g}" for k, v in _metrics(trained, run).items()}}


def _metrics(trained: "TrainedRun", run: Run | None) -> dict[str, float]:
    """The test and validation metrics: those of the run folder, else the recorded ones."""
    recorded = {k: v for k, v in run.data.metrics.items() if k.startswith("test/")} if run else {}
    return {
        name: value
        for name, value in (recorded | trained.metrics).items()
        if name.partition("/")[0] in ("test", "val") and name.partition("/")[2] in METRICS
    }


def _described(trained: "TrainedRun", run: Run | None) -> str:
    values = _metrics(trained, run)
    names = (f"{split}/{headline(values)}" for split in ("test", "val"))
    shown = [f"{name.replace('/', ' ')} {values[name]:.4f}" for name in names if name in values]
    name = str(run.info.run_name) if run else trained.folder.name
    return ": ".join([name, ", ".join(shown)]) if shown else name
