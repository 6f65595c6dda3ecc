"""Find finished runs in MLflow's store, to compare them."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from frostline.base.hashes import content_key
from frostline.comparison.statistics import Result
from frostline.console.errors import FrostlineError, allowed
from frostline.tracking import metric_names as names
from frostline.tracking.seed_groups import counts
from frostline.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

COMPARED = 5000
"""The most runs that are read."""
TRAINED = ("pretrain", "finetune")


class Results:
    """The finished runs of a store.

    Args:
        store: an open one.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def finished(self, tags: Mapping[str, str], *conditions: str) -> list[Result]:
        """Return the finished training runs with these tags, oldest first.

        Args:
            tags: required tags.
            conditions: more MLflow filters.
        """
        found = self._store.search(
            tags, "attributes.status = 'FINISHED'", *conditions, limit=COMPARED, order="ASC"
        )
        return [_result(run) for run in found if run.data.tags.get("stage") in TRAINED and counts(run)]

    def named(self, word: str) -> list[Result]:
        """Return the finished runs of an id, a name, or a name without the seed (all seeds).

        Raises:
            FrostlineError: there is none.
        """
        if re.fullmatch(r"[0-9a-f]{32}", word):
            found = self.finished({}, f"attributes.run_id = '{word}'")
        else:
            found = self.finished({}, names.equals("attributes.run_name", word))
            found = [run for run in found if run.name == word][-1:]
        if not found:
            found = self.finished({}, names.begins("attributes.run_name", f"{word}·s"))
            found = [run for run in found if run.name == f"{word}·s{run.seed}"]
        if not found:
            known = {run.name for run in self.finished({})}
            raise FrostlineError(f"{word}: no finished run of that id or name; {allowed(word, known)}")
        return found

    def studies(self) -> list[str]:
        """Return the studies' names, the newest first."""
        found = self._store.search({"stage": "study"}, limit=COMPARED)
        return [str(run.data.tags.get("study", run.info.run_name)) for run in found]


def _result(run: "Run") -> Result:
    tags = run.data.tags
    params = {key: value for key, value in run.data.params.items() if key != "seed"}
    configuration = f"{tags.get('study')}/{tags.get('setting') or content_key(params)}"
    seed = int(tags.get("seed", 0))
    return Result(run.info.run_id, run.info.run_name, configuration, seed, params, run.data.metrics)
