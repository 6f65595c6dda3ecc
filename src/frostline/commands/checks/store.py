"""Checks of tracking: the MLflow store and the journals."""

import base64
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

from frostline.base import project
from frostline.commands.checks.finding import Finding, shell
from frostline.commands.checks.project import held_by
from frostline.console.errors import first_line
from frostline.tracking import local_store

ANSWER_SECONDS = 5.0


def store() -> Iterator[Finding]:
    """Check that runs can be recorded."""
    uri, shown = project.store_uri(), project.store_uri_without_password()
    if os.environ.get("FROSTLINE_TRACKING") == "off":
        fix = "unset FROSTLINE_TRACKING"
        yield Finding("mlflow", "note", "FROSTLINE_TRACKING=off: no run is recorded", fix)
    if database := local_store.database(uri):
        yield _sqlite(shown, database)
    elif uri.startswith(("http://", "https://")):
        yield _server(uri, shown)
    elif uri.partition(":")[0].partition("+")[0] in ("postgresql", "mysql", "mssql"):
        yield _other_database(uri, shown)
    else:
        fix = "unset MLFLOW_TRACKING_URI to record in the project"
        yield Finding("mlflow", "broken", f"{shown} is neither a database nor a server's address", fix)


def _sqlite(uri: str, database: Path) -> Finding:
    problem = local_store.problem(database) or local_store.unwritable(database)
    if problem:
        return Finding("mlflow", "broken", f"{uri} {problem.reason}", problem.fix)
    lock = database.with_name(f"{database.name}.lock")
    if holder := held_by(lock):
        return Finding("mlflow", "note", f"{uri} is being opened by {holder}", "wait for it, or end it")
    if local_store.is_empty(database):
        return Finding("mlflow", "ok", f"{uri} will be created by the first run")
    if old := local_store.moved_from(database):
        message = f"{uri}: this project was moved or copied from {local_store.folder_of(old[0])}"
        fix = "nothing to do: the next run, frostline register or frostline ui updates the store's paths"
        return Finding("mlflow", "note", message, fix)
    experiment = local_store.experiment(database, project.experiment())
    if experiment and experiment.stage != "active":
        return _deleted(uri, local_store.address(database), experiment.id)
    if (runs := local_store.runs(database)) and not (database.parent / local_store.ARTIFACTS).exists():
        message = f"{uri}, {runs:,} runs, whose files are missing"
        fix = f"copy {local_store.ARTIFACTS}/ from where the store comes from to {database.parent}"
        return Finding("mlflow", "note", message, fix)
    return Finding("mlflow", "ok", f"{uri}, {runs:,} runs")


def _server(uri: str, shown: str) -> Finding:
    """Send a tracking server the first request of a run."""
    query = urllib.parse.urlencode({"experiment_name": project.experiment()})
    address = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/get-by-name?{query}"
    project_store = "unset MLFLOW_TRACKING_URI to record in the project"
    try:
        request = urllib.request.Request(address, headers=_authorization())
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            experiment = json.load(answer)["experiment"]
        if experiment["lifecycle_stage"] != "active":
            return _deleted(shown, uri, experiment["experiment_id"])
    except urllib.error.HTTPError as error:
        with error:
            text = error.read(1 << 16)
        if error.code in (401, 403):
            fix = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            return Finding("mlflow", "broken", f"{shown} refuses access ({error.code})", fix)
        if error.code != HTTPStatus.NOT_FOUND or b"RESOURCE_DOES_NOT_EXIST" not in text:
            what = f"{shown} answers {error.code} {error.reason}, unlike a working MLflow server"
            return Finding("mlflow", "broken", what, f"see the server's log, or {project_store}")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        fix = f"name an MLflow server, or {project_store}"
        return Finding("mlflow", "broken", f"{shown} is not an MLflow server", fix)
    except Exception as error:
        fix = f"start the server, or {project_store}"
        return Finding("mlflow", "broken", f"{shown} is unreachable ({first_line(error)})", fix)
    return Finding("mlflow", "ok", f"{shown} answers")


def _other_database(uri: str, shown: str) -> Finding:
    from sqlalchemy import create_engine, inspect

    try:
        seconds = {"connect_timeout": int(ANSWER_SECONDS)} if uri.startswith("postgresql") else {}
        has_tables = inspect(create_engine(uri, connect_args=seconds)).has_table("alembic_version")
    except Exception as error:  # each driver has its own
        fix = "start the database, or unset MLFLOW_TRACKING_URI to record in the project"
        return Finding("mlflow", "broken", f"{shown} is unreachable ({first_line(error)})", fix)
    return Finding(
        "mlflow",
        "ok",
        f"{shown} {'answers' if has_tables else 'answers; the first run will create the tables'}",
    )


def _deleted(shown: str, uri: str, identity: object) -> Finding:
    command = f"{shell(sys.executable)} -m mlflow experiments restore --experiment-id {identity}"
    return Finding(
        "mlflow",
        "note",
        f"{shown}: the experiment {project.experiment()!r} was deleted",
        f"the next run restores it; to restore it now: MLFLOW_TRACKING_URI={shell(uri)} {command}",
    )


def _authorization() -> dict[str, str]:
    """Return the header with which MLflow's client authenticates."""
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    name, word = (os.environ.get(f"MLFLOW_TRACKING_{what}", "") for what in ("USERNAME", "PASSWORD"))
    if name and word:
        return {"Authorization": f"Basic {base64.b64encode(f'{name}:{word}'.encode()).decode()}"}
    return {}


def journals() -> Iterator[Finding]:
    """Report records that are not delivered to MLflow yet."""
    from frostline.tracking import journal

    for path in journal.paths():
        if journal.header_of(path) is None:
            yield Finding("journal", "note", f"{path} is damaged, and its store is unknown", f"remove {path}")
    for pending in journal.pending():
        if pending.records and not pending.live:
            text = f"{pending.records} records are pending in {pending.path} for {pending.header.store}"
            yield Finding("journal", "note", text, pending.command)
