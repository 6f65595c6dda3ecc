"""Groups runs that differ only in seed or fold under a parent run, which has their mean metrics."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from mlflow.entities import Metric, Param, Run

from frostline.base.metrics import ACCURACY, MAP, spread
from frostline.data.reading.names import telling_name
from frostline.stats.transfer import estimate, fold_overlap
from frostline.tracking import metric_names
from frostline.tracking.run_tags import MEAN_RUN, REPEATED, SEED_RUN
from frostline.tracking.views import CATEGORIES, ENDED_WELL
from frostline.training.services import TRIAL_STATE, setting_of

if TYPE_CHECKING:
    from frostline.tracking.store import Store

GROUP_TAGS = ("study", "stage", "setting")
"""The tags that runs of a group share."""
HEADLINES = ("test/accuracy", "best/val/accuracy", "test/mAP", "best/val/mAP", "best/val/loss")
"""The metrics whose means have an interval."""
OPTION_TAGS = {
    **{param: key for key, param in CATEGORIES.items() if key != "arm"},
    "backbone.kind": "backbone",
    "dataset.root": "dataset",
}
"""Parameter that names the option of a config group → the tag with that name."""
LONGEST_VALUE = 32
"""Characters: longer values, such as a schedule's phases, are too long for a legend."""
FINAL = ("best/", metric_names.BEST_EPOCH, "test/", "train_seconds")
"""The prefixes of final metrics, in contrast to those of each epoch."""


def gather(store: "Store", run_id: str, when: int | None = None) -> None:
    """Put a run, and the runs that differ from it only in seed or fold, under a parent run.

    The parent gets the mean of each final metric under the metric's own name, so that tables compare it with
    runs, and the number of runs, ``n``; the headline metrics also have ``.std`` and, unless all values are
    equal, the 95 % interval ``.low`` to ``.high``. A run without others has none. The metrics' time stamp is
    computed from `when` (ms) and the runs, so that a record which is delivered twice adds nothing, and a mean
    over more runs is newer. Their step is 0, since MLflow draws lines instead of bars for other steps.
    """
    run = store.client.get_run(run_id)
    if not _is_grouped(store, run.data.tags):
        return
    group = {key: run.data.tags.get(key, "") for key in GROUP_TAGS}
    finished = store.search(group, "attributes.status = 'FINISHED'", limit=1000, order="ASC")
    finished = [member for member in finished if _is_grouped(store, member.data.tags)]
    if run.data.tags.get("arm") and (not finished or finished[0].info.run_id == run_id):
        _compare_with_earlier(store, run)  # once for a group, whose runs have the same parameters
    # The newest of each fold and seed.
    seeds = {(m.data.tags.get("fold"), m.data.tags["seed"]): m for m in finished if counts(m)}
    if len(seeds) < 2:
        return
    parent = parent_of(store, run.data.tags) or _create_parent(store, run)
    mean_run = store.client.get_run(parent)
    for member in finished:
        if "seed" in member.data.tags and member.data.tags["mlflow.parentRunId"] != parent:
            store.log_tags(member.info.run_id, {"mlflow.parentRunId": parent, "kind": SEED_RUN})
    used = len({fold for fold, _ in seeds})
    overlap = fold_overlap(used, int(run.data.params.get("dataset.folds", used)))
    metrics = over_seeds([member.data.metrics for member in seeds.values()], overlap)
    # MLflow deletes no metric: bounds of an earlier, wider mean become NaN where all values are equal now.
    earlier = mean_run.data.metrics
    bounds = [f"{key}{end}" for key in metrics for end in (".low", ".high")]
    metrics |= {key: math.nan for key in bounds if key not in metrics and metric_names.key(key) in earlier}
    ends = [member.info.end_time or 0 for member in seeds.values()]
    at = max(int(1000 * time.time()) if when is None else when, *ends) + len(seeds)
    store.log_metrics(parent, [Metric(metric_names.key(key), value, at, 0) for key, value in metrics.items()])
    took = fmean(max((m.info.end_time or 0) - m.info.start_time, 0) for m in seeds.values())
    store.client.set_terminated(
        parent, end_time=mean_run.info.start_time + int(took)
    )  # its duration is the mean of theirs
    if store.studies.known(run.data.tags["study"]).compares(run.data.tags):
        store.studies.has_means(run.data.tags["study"])


def _compare_with_earlier(store: "Store", run: Run) -> None:
    """Let a study's views show the parameters whose values an arm has changed since it was trained before."""
    tags = {key: run.data.tags.get(key, "") for key in ("study", "stage", "arm")}
    other = f"tags.setting != '{run.data.tags.get('setting', '')}'"
    for earlier in store.search(tags, other, "tags.seed LIKE '%'", ENDED_WELL):
        store.studies.vary(tags["study"], what_differs(earlier.data.params, run.data.params))


def what_differs(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the keys of a table's columns, or of a legend, that tell runs with these parameters apart.

    If the option of a config group differs, its tag stands for all keys below it. ``setting`` stands for long
    values.

    >>> what_differs({"freeze_name": "full", "dropout": "0"}, {"freeze_name": "mine", "dropout": "1"})
    ['freeze', 'dropout']
    """
    different = [key for key in now if key not in REPEATED and before.get(key, "null") != now[key]]
    tagged = [key for key in different if key in OPTION_TAGS and not _alike(before.get(key, ""), now[key])]
    options = dict.fromkeys(OPTION_TAGS[key] for key in tagged)
    decided = {*options, "selection", *(["input"] if "backbone" in options else [])}
    others = [key for key in different if key not in tagged and key.partition(".")[0] not in decided]
    long = {key for key in others if max(len(before.get(key, "")), len(now[key])) > LONGEST_VALUE}
    return list(dict.fromkeys([*options, *("setting" if key in long else key for key in others)]))


def _alike(path: str, other: str) -> bool:
    """Return whether two folders have the same name, which is their data set's, such as ``a/pets``."""
    return path != other and telling_name(Path(path)) == telling_name(Path(other))


def _is_grouped(store: "Store", tags: Mapping[str, str]) -> bool:
    """Return whether a run may be one of a group's seeds; one that repeats a trial of a sweep is not."""
    study = store.studies.known(tags["study"])
    return study.objective is None or study.compares(tags)


def parent_of(store: "Store", tags: Mapping[str, str]) -> str | None:
    """Return the id of a group's parent run, if there is one."""
    if "seed" not in tags or "setting" not in tags or not _is_grouped(store, tags):
        return None
    parents = store.search({**{key: tags[key] for key in GROUP_TAGS}, "kind": MEAN_RUN}, order="ASC")
    return str(parents[0].info.run_id) if parents else None


def _create_parent(store: "Store", run: Run) -> str:
    """Create the parent run of a run's group, with the tags and parameters that its runs share."""
    tags = run.data.tags
    group = {**{key: tags[key] for key in GROUP_TAGS}, "kind": MEAN_RUN}
    common = {str(key): tags[key] for key in ("arm", "backbone", "dataset", "freeze") if key in tags}
    if TRIAL_STATE in tags:
        common[TRIAL_STATE] = "complete"  # means are over complete trials
    name = setting_of(str(run.info.run_name))
    above = {"mlflow.parentRunId": store.studies.begin(tags["study"], tags)}
    parent, created = store.parent(name, group, {**common, **above})
    if created or not store.client.get_run(parent).data.params:
        params = [Param(key, value) for key, value in run.data.params.items() if key not in REPEATED]
        store.log_params(parent, params)
    return parent


def over_seeds(runs: Sequence[Mapping[str, float]], overlap: float = 0.0) -> dict[str, float]:
    """Return the mean of each final metric over runs that differ in their seeds, and `gather`'s other values.

    >>> over_seeds([{"test/loss": 1.0, "lr": 0.1}, {"test/loss": 3.0}])
    {'test/loss': 2.0, 'n': 2.0}
    """
    results: dict[str, float] = {}
    for key in sorted({key for run in runs for key in run}):
        if key.startswith(FINAL):
            values = [run[key] for run in runs if key in run]
            results[key] = fmean(values)
            if key in HEADLINES:
                bounds = (0.0, 1.0) if key.endswith((ACCURACY, MAP)) else (-math.inf, math.inf)
                over = estimate(values, bounds=bounds, overlap=overlap)
                results[f"{key}.std"] = spread(values)["std"]
                if over.low is not None and over.high is not None and over.low < over.high:
                    results |= {f"{key}.low": over.low, f"{key}.high": over.high}
    return {**{key: metric_names.rounded(value) for key, value in results.items()}, "n": float(len(runs))}


def counts(run: Run) -> bool:
    """Return whether a finished run has a seed and was trained to its end."""
    return "seed" in run.data.tags and run.data.tags.get(TRIAL_STATE, "complete") == "complete"
