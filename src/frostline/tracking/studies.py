"""The runs of whole studies and sweeps in MLflow's store: above all others, with results and views."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException

from frostline.base.metrics import ACCURACY, MAP
from frostline.data.prepared.index import MULTI_LABEL
from frostline.tracking import metric_names, views
from frostline.tracking.run_tags import MEAN_RUN, STUDY_RUN
from frostline.tracking.stored_run import NOTE
from frostline.training.services import SWEEP_KEYS, SWEEP_OBJECTIVE, TASK

if TYPE_CHECKING:
    from frostline.tracking.store import Store

COMPARED, OBJECTIVE, STAGE = "compared", "objective", "compared.stage"
"""Tags of a study's run: the keys in which its runs differ, with commas; a sweep's objective; their stage."""
CHANGED = "params.changed"
"""Tag of a study's run: the parameters that had other values in an earlier report, as MLflow changes none."""
GAIN = ".gain"
"""The end of the key of an arm's gain over the baseline in a study's results."""
MOST_RUNS = 5000
MOST_COMPARED = 5
"""Columns of a study whose arms were changed: the arm, and four of the parameters that differ."""


@dataclass(frozen=True)
class StudyResult:
    """The results of a study or a sweep when it ends."""

    study: str
    sentence: str
    """The verdict."""
    table: str
    """In Markdown."""
    values: Mapping[str, float] = field(default_factory=dict)
    """The headline metrics."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Path → content: the report."""


class Studies:
    """The studies of a store."""

    def __init__(self, store: "Store") -> None:
        self._store = store
        self._known: dict[str, views.Study] = {}
        """The studies whose views are recorded."""

    def begin(self, name: str, tags: dict[str, str]) -> str:
        """Return the id of a study's run, which the first run creates; record what the study compares.

        Args:
            tags: of a run of the study; those about its sweep are moved to the study's run.
        """
        run_id = self._store.parent(name, {"study": name, "stage": "study"}, {"kind": STUDY_RUN})[0]
        before = self._known.get(name) or self.read(run_id, name)
        study = _extended(before, tags)
        if study != before or name not in self._known:
            texts = {
                COMPARED: ",".join(study.compared),
                OBJECTIVE: study.objective or "",
                STAGE: study.stage or "",
                TASK: MULTI_LABEL if study.headline == MAP else "",
            }
            self._store.log_tags(run_id, {key: text for key, text in texts.items() if text})
        self._show(study)
        return run_id

    def has_means(self, name: str) -> None:
        """Record that a study has runs with means over seeds, which its views then show."""
        self._show(replace(self.known(name), means=True))

    def known(self, name: str) -> views.Study:
        """Return what is recorded of a study; one that is not there yet begins."""
        if name not in self._known:
            self.begin(name, {})
        return self._known[name]

    def vary(self, name: str, keys: Sequence[str]) -> None:
        """Record parameters in which runs of the same arm differ; the views show the first of them."""
        run_id = self.begin(name, {})
        study = self._known[name]
        compared = tuple(dict.fromkeys((*study.compared, *keys)))[:MOST_COMPARED]
        if len(compared) > len(study.compared):
            self._store.log_tags(run_id, {COMPARED: ",".join(compared)})
            self._show(replace(study, compared=compared))

    def end(self, result: StudyResult, when: int) -> None:
        """Record the results of a study in its run.

        Args:
            when: milliseconds since 1970.
        """
        name = result.study
        run_id = self.begin(name, {})
        values = {metric_names.key(key): metric_names.number(value) for key, value in result.values.items()}
        # MLflow deletes no metric: those of an earlier report, of arms that are gone, become NaN.
        earlier = self._store.client.get_run(run_id).data.metrics
        values = {**dict.fromkeys(earlier, math.nan), **values}
        self._store.log_metrics(run_id, [Metric(key, value, when, 0) for key, value in values.items()])
        links = " · ".join(
            f"[{title}]({views.page(self._store.experiment, name, view)[1:]})"
            for view, title in views.TITLES.items()
            if view in views.states(self._known[name])
        )
        note = f"{result.sentence}\n\n{links}\n\n{result.table}"
        self._store.log_tags(run_id, {NOTE: note, "verdict": result.sentence})
        study = self._known[name].runs
        runs = self._store.search({"study": name}, study, "tags.seed LIKE '%'", limit=MOST_RUNS)
        self._share_params(run_id, [run.data.params for run in runs])
        self._log_duration(run_id, runs)
        self._log_gains(result, when)
        self._store.log_files(run_id, result.files.items())

    def _log_gains(self, result: StudyResult, when: int) -> None:
        """Record each arm's gain over the baseline in the row of its results, and give the view a column.

        An arm may have rows of earlier hyperparameters: its own is the one with the reported test metric.
        """
        known, shown = self._known[result.study], metric_names.rounded
        gains = {key.removesuffix(GAIN): value for key, value in result.values.items() if key.endswith(GAIN)}
        for arm, gain in gains.items():
            reported = result.values.get(f"{arm}.{known.headline}", math.nan)
            tags = {"study": result.study, "arm": arm, "stage": "finetune"}
            for run in self._store.search(tags, "tags.kind LIKE '%run'", limit=MOST_RUNS):
                if shown(run.data.metrics.get(known.metric, math.nan)) == shown(reported):
                    self._store.log_metrics(run.info.run_id, [Metric("gain", shown(gain), when, 0)])
        if gains:
            self._show(replace(known, gains=True))

    def _log_duration(self, run_id: str, runs: Sequence[Run]) -> None:
        """Make the duration of a study's run the sum of its runs' durations."""
        took = sum(max((run.info.end_time or 0) - run.info.start_time, 0) for run in runs)
        begun = self._store.client.get_run(run_id).info.start_time
        self._store.client.set_terminated(run_id, end_time=begun + took)

    def _share_params(self, run_id: str, runs: Sequence[Mapping[str, str]]) -> None:
        """Record the parameters that all runs of a study share; those that others had before become a tag."""
        if not runs:
            return
        shared = {
            key: value for key, value in runs[0].items() if all(other.get(key) == value for other in runs)
        }
        recorded = self._store.client.get_run(run_id).data.params
        new = [Param(key, value) for key, value in shared.items() if key not in recorded and key != "seed"]
        self._store.log_params(run_id, new)
        if changed := sorted(key for key, value in recorded.items() if shared.get(key) != value):
            self._store.log_tags(run_id, {CHANGED: ", ".join(changed)})

    def read(self, run_id: str, name: str) -> views.Study:
        """Return what the study's run, which has this id, records of it."""
        run = self._store.client.get_run(run_id).data
        tags = run.tags
        compared = tuple(filter(None, tags.get(COMPARED, "").split(",")))
        headline = MAP if tags.get(TASK) == MULTI_LABEL else ACCURACY
        gains = any(key.endswith(GAIN) for key in run.metrics)
        study = views.Study(name, compared, tags.get(OBJECTIVE), tags.get(STAGE), False, headline, gains)
        means = self._store.search({"study": name, "kind": MEAN_RUN}, study.runs)
        return replace(study, means=bool(means))

    def _show(self, study: views.Study) -> None:
        if self._known.get(study.name) == study:
            return
        # Opened before the store's lock is held, which this takes, too.
        client, experiment = self._store.client, self._store.experiment
        with self._store.lock():
            try:
                views.record(client, experiment, study)
            except MlflowException:
                views.record(client, experiment, study)  # another machine has just added one of the tags
        self._known[study.name] = study


def _extended(study: views.Study, tags: dict[str, str]) -> views.Study:
    """Return the study with what the tags of one of its runs say."""
    if tags.get(TASK) == MULTI_LABEL:
        study = replace(study, headline=MAP)
    keys, objective = tags.pop(SWEEP_KEYS, None), tags.pop(SWEEP_OBJECTIVE, None)
    if keys is not None:
        compared = tuple(dict.fromkeys((*study.compared, *filter(None, keys.split(",")))))
        return replace(study, compared=compared, objective=objective, stage=tags.get("stage"))
    if tags.get("arm") and tags.get("stage") == "finetune" and "arm" not in study.compared:
        return replace(study, compared=("arm", *study.compared), stage="finetune")
    return study
