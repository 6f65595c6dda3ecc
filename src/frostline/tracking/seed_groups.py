"""Gathers the runs of a setting, which differ in their seeds alone, under one that says what they came to."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mlflow.entities import Metric, Param, Run

from frostline.base.metrics import METRICS, score, spread
from frostline.tracking import metric_names as names
from frostline.training.services import TRIAL_STATE

if TYPE_CHECKING:
    from frostline.tracking.store import Store

OF_A_SETTING = ("study", "stage", "setting")
"""The tags that runs share which differ in their seeds alone."""
FINAL = ("best/", "test/", "train_seconds")
"""How the metrics begin that a run comes to, unlike those of each epoch."""


def gather(store: "Store", run_id: str, when: int | None = None) -> None:
    """Lay the seeds of a run's setting under a run of their own, which says what they came to.

    It has their mean of each final metric by the metric's own name, so that it stands among runs in a
    table, and ``.std``, ``.best`` and ``n``. A seed alone has none. They are recorded as of `when` (ms), so
    that a record which is delivered twice adds nothing.
    """
    one = store.client.get_run(run_id)
    setting = {key: one.data.tags.get(key, "") for key in OF_A_SETTING}
    finished = store.search(setting, "attributes.status = 'FINISHED'", limit=1000, order="ASC")
    seeds = {run.data.tags["seed"]: run for run in finished if counts(run)}  # the newest of each
    if len(seeds) < 2:
        return
    parent = parent_of(store, one.data.tags) or _made(store, one)
    for run in finished:
        if "seed" in run.data.tags and run.data.tags["mlflow.parentRunId"] != parent:
            store.client.set_tag(run.info.run_id, "mlflow.parentRunId", parent)
    found = over_seeds([run.data.metrics for run in seeds.values()])
    at = int(1000 * time.time()) if when is None else when
    store.log_metrics(parent, [Metric(names.key(key), value, at, len(seeds)) for key, value in found.items()])


def parent_of(store: "Store", tags: Mapping[str, str]) -> str | None:
    """Return the id of the run that the seeds of a setting lie under, if there is one."""
    if "seed" not in tags or "setting" not in tags:
        return None
    found = store.search({**{key: tags[key] for key in OF_A_SETTING}, "of": "seeds"}, order="ASC")
    return str(found[0].info.run_id) if found else None


def _made(store: "Store", run: Run) -> str:
    """Make the run that the seeds of a run's setting lie under, with what they have in common."""
    tags = run.data.tags
    wanted = {**{key: tags[key] for key in OF_A_SETTING}, "of": "seeds"}
    common = {str(key): tags[key] for key in ("arm", "backbone", "dataset", "freeze") if key in tags}
    name = str(run.info.run_name).removesuffix(f"·s{tags['seed']}")
    above = {"mlflow.parentRunId": store.study(tags["study"])}
    parent, made = store.parent(name, wanted, {**common, **above})
    if made or not store.client.get_run(parent).data.params:
        params = [Param(key, value) for key, value in run.data.params.items() if key != "seed"]
        store.log_params(parent, params)
    return parent


def over_seeds(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return what runs that differ in their seeds came to: each final metric's mean, ``.std`` and ``.best``.

    >>> over_seeds([{"test/loss": 1.0, "lr": 0.1}, {"test/loss": 3.0}])
    {'test/loss': 2.0, 'test/loss.std': 1.4142135623730951, 'test/loss.best': 1.0, 'n': 2.0}
    """
    found: dict[str, float] = {}
    for key in sorted({key for run in runs for key in run}):
        if key.startswith(FINAL):
            values = [run[key] for run in runs if key in run]
            told = spread(values)
            found |= {key: told["mean"], f"{key}.std": told["std"]}
            if key.rpartition("/")[2] in METRICS:
                found[f"{key}.best"] = max(values, key=lambda value: score(key, value))
    return {**found, "n": float(len(runs))}


def counts(run: Run) -> bool:
    """Say whether a finished run is one of a setting's seeds that ran to its end."""
    return "seed" in run.data.tags and run.data.tags.get(TRIAL_STATE, "complete") == "complete"
