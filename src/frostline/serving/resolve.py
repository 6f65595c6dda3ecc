"""From what people call a finished run to its folder. Nothing heavy is imported for a name that is wrong."""

import re
from contextlib import suppress
from pathlib import Path

from frostline.base import project
from frostline.base.formats import read_json
from frostline.base.hashes import sha256_cached
from frostline.base.run_folder import FILES, TRAINING, WEIGHTS
from frostline.console.errors import FrostlineError, allowed
from frostline.tracking import local_store

URI = re.compile(r"(models|runs):/")


def folder(text: str) -> Path:
    """Return the folder of the run that `text` names; one in MLflow's store is fetched.

    Args:
        text: a run's folder, its id or name in MLflow, or a model there (models:/NAME@ALIAS,
            models:/NAME/VERSION, runs:/ID/model).

    Raises:
        FrostlineError: there is no finished run, or more than one of that name.
    """
    found = _named(text)
    for name in FILES:
        if not (found / name).is_file():
            inner = sorted(path.parent.name for path in found.glob(f"*/{WEIGHTS}"))
            hint = f"such as {found / inner[0]}" if inner else "a run leaves it in its `out`"
            raise FrostlineError(f"{found}: no finished run, {name} is missing; name another folder, {hint}")
    return found


def _named(text: str) -> Path:
    path = Path(text)
    if path.is_dir():
        return path
    if URI.match(text):
        _check_store(text)
        from frostline.tracking.registry import Models

        return Models().fetch(text)
    if path.exists():
        raise FrostlineError(f"{text} is a file; name the folder of a finished run, or models:/NAME@ALIAS")
    if path.parent != Path():
        there = {each.parent.name for each in path.parent.glob(f"*/{WEIGHTS}")}
        others = "name a run's folder, its id in MLflow, or models:/NAME@ALIAS"
        raise FrostlineError(
            f"{text}: there is no such folder; {allowed(path.name, there) if there else others}"
        )
    _check_store(text)
    from frostline.tracking.registry import Models

    models = Models()
    run_id, sha256 = models.weights_of(text)
    return local_copy(sha256) or models.fetch(f"runs:/{run_id}/model")


def _check_store(text: str) -> None:
    """Say that there is no store, before MLflow is imported, which takes seconds."""
    database = local_store.database()
    if database and not database.is_file():
        raise FrostlineError(
            f"{text}: no such folder, and there is no MLflow store at {project.store_uri()}; run this"
            " in the project, or set MLFLOW_TRACKING_URI"
        )


def local_copy(sha256: str) -> Path | None:
    """Return a folder of this project whose run made these weights; None: no run here did."""
    roots = dict.fromkeys((Path.cwd(), project.find_root(), project.home()))
    places = [root / name for root in roots for name in ("runs", "artifacts")]
    for place in (*places, project.project_scratch() / "pretrain"):
        for path in sorted(place.rglob(TRAINING)):
            with suppress(FrostlineError, OSError):
                recorded = read_json(path).get("weights_sha256")
                if recorded == sha256 and sha256_cached(path.parent / WEIGHTS) == sha256:
                    return path.parent
    return None
