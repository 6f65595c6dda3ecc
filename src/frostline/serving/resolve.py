"""Resolves the name of a finished run to its folder. A wrong name fails before slow imports."""

import re
import sys
from pathlib import Path

from frostline.base import project
from frostline.base.run_folder import FILES, WEIGHTS
from frostline.console.errors import FrostlineError, allowed
from frostline.console.progress import RUNS, waiting
from frostline.runs.local_copies import local_copy, local_weights
from frostline.tracking import local_store
from frostline.tracking.known_names import ID, known_names

URI = re.compile(r"(models|runs):/")


def folder(text: str) -> Path:
    """Return the folder of the run that `text` names; a model in MLflow's store is downloaded.

    Args:
        text: a run's folder, its id or name in MLflow, or a model there (models:/NAME@ALIAS,
            models:/NAME/VERSION, runs:/ID/model); or `best`, `last` or a study's name, see
            `comparison.runs.Results.chosen`. The folder that such a word stands for is printed.

    Raises:
        FrostlineError: no finished run has that name, or several have.
    """
    path = _resolved(text)
    for name in FILES:
        if not (path / name).is_file():
            inner = sorted(file.parent.name for file in path.glob(f"*/{WEIGHTS}"))
            hint = f"such as {path / inner[0]}" if inner else "a run writes it to its `out`"
            raise FrostlineError(f"{path}: no finished run, {name} is missing; name another folder, {hint}")
    return path


def _resolved(text: str) -> Path:
    path = Path(text)
    if path.is_dir():
        return path
    if URI.match(text):
        _check_store(text)
        from frostline.tracking.registry import Models

        return Models().fetch(text)
    if path.exists():
        folder = f"the run's folder, {path.parent}" if path.name in FILES else "the folder of a finished run"
        raise FrostlineError(f"{text} is a file; name {folder}, or models:/NAME@ALIAS")
    if path.parent != Path():
        there = {file.parent.name for file in path.parent.glob(f"*/{WEIGHTS}")}
        others = "name a run's folder, its id in MLflow, best, last, or models:/NAME@ALIAS"
        raise FrostlineError(
            f"{text}: there is no such folder; {allowed(path.name, there) if there else others}"
        )
    _check_store(text)
    _check_name(text)
    with waiting(RUNS):
        return _recorded(text)


def _recorded(text: str) -> Path:
    """Return the folder of the recorded run that `text` names."""
    from frostline.comparison.runs import Results
    from frostline.tracking import sync
    from frostline.tracking.registry import Models
    from frostline.tracking.store import Store

    sync.deliver_pending()
    store = Store(reading=True)
    models, results = Models(store), Results(store)
    with store.one_sentence(text):
        words = results.words()
        chosen = results.chosen(text, local_weights() | models.weights()) if text in words else []
    run_id, sha256, params = models.weights_of(chosen[0].id if chosen else text, words)
    path = local_copy(sha256, params) or models.fetch(f"runs:/{run_id}/model")
    if chosen:
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        print(f"frostline: {text} is {shown}, {chosen[0].name}", file=sys.stderr)
    return path


def _check_store(text: str) -> None:
    """Fail if there is no store, before the slow import of MLflow."""
    database = local_store.database()
    if database and not database.is_file():
        raise FrostlineError(
            f"{text}: no such folder, and there is no MLflow store at {project.store_uri()}; run this"
            " in the project, or set MLFLOW_TRACKING_URI"
        )


def _check_name(text: str) -> None:
    """Fail if the store has no such name, before the slow import of MLflow.

    Ids, and stores that can't be read or are not up to date, are left to MLflow.
    """
    names = None if ID.fullmatch(text) else known_names()
    if names and text not in names.runs | names.usable:
        raise FrostlineError(local_store.no_such_name(text, names.usable))
