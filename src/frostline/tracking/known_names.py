"""The names that the store knows, read without MLflow: a misspelt one is reported before its slow import."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from frostline.base import project
from frostline.console.errors import FrostlineError, allowed
from frostline.tracking import journal, local_store
from frostline.tracking.local_store import Names
from frostline.training.services import setting_of

ID = re.compile(r"[0-9a-f]{32}")


def known_names() -> Names | None:
    """Return the names in the project's experiment.

    None: MLflow has to read them, since the store is no local file, can't be read, or is not up to date.
    """
    database = local_store.database()
    if database is None or any(item.for_this_store for item in journal.pending()):
        return None
    names = local_store.names(database, project.experiment())
    return names if names and names.runs else None


def check_compared(runs: Sequence[str], study: str | None) -> None:
    """Refuse names of runs and studies that the store does not know.

    Args:
        runs: folders, ids, names, their beginnings, or words; see `comparison.runs.Results.named`.

    Raises:
        FrostlineError: with the nearest names.
    """
    words = [word for word in runs if not ID.fullmatch(word) and not Path(word).exists()]
    if not (words or study) or (names := known_names()) is None:
        return
    for word in words:
        settings = set(map(setting_of, names.runs))
        begins = any(setting.startswith(f"{word}·") for setting in settings)
        if not begins and word not in names.runs | names.usable | settings:
            raise FrostlineError(no_such_run(word, names.usable))
    if study is not None and study not in names.studies:
        raise FrostlineError(no_such_study(study, names.studies))


def no_such_run(word: str, known: Collection[str]) -> str:
    """Return a sentence: no run that can be compared has this name; without a seed, none is proposed."""
    if setting_of(word) == word:
        known = {setting_of(name) for name in known}
    return f"{word}: no finished run with that id or name; {allowed(word, known)}"


def no_such_study(study: str, known: Collection[str]) -> str:
    """Return a sentence: no study or sweep has this name."""
    return f"--study: there is no {study!r}; {allowed(study, known)}"
