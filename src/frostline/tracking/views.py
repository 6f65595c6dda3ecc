"""Shared views of MLflow's run table: what the page of a study or a sweep shows at first sight.

MLflow opens the state in the experiment's tag ``mlflow.sharedViewState.KEY`` with
``#/experiments/ID/runs?viewStateShareKey=KEY``. Versions that don't know such tags ignore them.
A state with charts needs `compareRunCharts` and `compareRunSections`: with one of them alone, the page makes
charts of its own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from frostline.base.hashes import content_key
from frostline.tracking import metric_names
from frostline.training.services import TRIAL_STATE

if TYPE_CHECKING:
    from mlflow import MlflowClient  # `frostline ui` needs addresses alone, and MLflow takes two seconds

PREFIX = "mlflow.sharedViewState."
RESULTS, SEEDS, CURVES, PARALLEL = "results", "seeds", "curves", "parallel"
"""The views of a study."""
CHARTS = (CURVES, PARALLEL)
"""The views that are charts."""
LINE = {
    "lineSmoothness": 0,
    "xAxisKey": "step",
    "xAxisScaleType": "linear",
    "scaleType": "linear",
    "yAxisKey": "metric",
    "displayPoints": True,
    "ignoreOutliers": False,
    "useGlobalXaxisKey": False,
    "useGlobalLineSmoothing": False,
}
"""A line chart as it is: MLflow would smooth it."""
CHART_SECTION = "frostline"
COLUMNS, COLUMNS_OF_AXES = 2, 1
"""Charts in a row: MLflow would draw three, too narrow at 1,280 px for a legend or for several axes."""
OTHER_SECTIONS = ("best/val", "test", "train", "val", "Model metrics", "System metrics")
"""The sections of charts that the page adds; they are closed."""
TITLES = {
    RESULTS: "results, the best first",
    SEEDS: "all seeds",
    CURVES: "learning curves",
    PARALLEL: "parallel coordinates of the hyperparameters",
}
PIXELS, MARGIN, LEAST_WIDTH, WIDTH_OF_N = 8, 24, 110, 60
"""A column's width: pixels per character of its heading, and a margin, at least; and that of the column n."""
TAG_KEYS = ("arm", "freeze", "backbone", "dataset", "setting")
"""Keys that are tags of each run."""
CATEGORIES = {
    "freeze": "freeze_name",
    "arm": "arm",
    "backbone": "backbone.name",
    "dataset": "dataset.kind",
}
"""Key → the parameter with the same value: an axis of a chart can't be a tag."""
ENDED_WELL = "attributes.status != 'FAILED' AND attributes.status != 'KILLED'"
"""A filter of MLflow's search: finished runs, and those that are being trained."""
GROUP_PARAMS = {
    "optimizer": "optimizer.name",
    **{group: f"{group}.kind" for group in ("weights", "loss", "adapter", "averaging", "regularizer")},
}
"""Config group → the parameter that names its option."""


@dataclass(frozen=True)
class Study:
    """What a study's views depend on."""

    name: str
    compared: tuple[str, ...] = ()
    """The keys in which its runs differ: ``arm``, or the hyperparameters of a sweep; empty: not known."""
    objective: str | None = None
    """The first objective of a sweep; None: it is no sweep."""
    stage: str | None = None
    """That of the compared runs; None: any."""
    means: bool = False
    """Whether it has runs with means over seeds."""
    headline: str = "accuracy"
    """The metric of its results; mAP with several labels per image."""
    gains: bool = False
    """Whether its arms have a metric `gain`, over the from-scratch baseline: once it was reported."""

    @property
    def metric(self) -> str:
        """The metric that orders the runs; a sweep selects on validation, a study reports the test split."""
        return f"best/{self.objective}" if self.objective else f"test/{self.headline}"

    @property
    def own_tag(self) -> str | None:
        """The tag that only runs of its arms, or its trials, have; None: all its runs are compared.

        Other runs of a study are single runs of its experiment, and repeated trials.
        """
        if bool(self.objective) == ("arm" in self.compared):  # neither, or trials and arms in one study
            return None
        return TRIAL_STATE if self.objective else "arm"

    def compares(self, tags: Mapping[str, str]) -> bool:
        """Return whether a run with these tags is one of its arms or trials."""
        return self.own_tag is None or bool(tags.get(self.own_tag))

    @property
    def runs(self) -> str:
        """The filter of MLflow's search for the runs of its arms, or its trials."""
        own = metric_names.equals("tags.`study`", metric_names.text(self.name))
        own += f" AND tags.`stage` = '{self.stage}'" if self.stage else ""
        return own + (f" AND tags.`{self.own_tag}` != ''" if self.own_tag else "")


def key(study: str, view: str = RESULTS) -> str:
    """Return the key of a study's view: what the page's address has after `viewStateShareKey=`."""
    return f"{view}-{content_key(study)[:12]}"


def page(experiment: str, study: str, view: str = RESULTS) -> str:
    """Return the path of a study's view in MLflow's pages."""
    mode = "&compareRunsMode=CHART" if view in CHARTS else ""
    share = f"viewStateShareKey={key(study, view)}"
    return f"/#/experiments/{experiment}/runs?{share}&workflowType=machine_learning{mode}"


def record(client: "MlflowClient", experiment: str, study: Study) -> None:
    """Record a study's views in tags of the experiment with this id, as far as a tag can hold them."""
    known = client.get_experiment(experiment).tags
    for view, state in states(study).items():
        tag, text = f"{PREFIX}{key(study.name, view)}", json.dumps(state)
        if known.get(tag) != text and len(text) <= metric_names.TAG_LIMIT:
            client.set_experiment_tag(experiment, tag, text)


def states(study: Study) -> dict[str, dict[str, Any]]:
    """Return view → its state; results have a row per setting, be it a mean over seeds or a single run.

    Failed and killed runs are in the view of all seeds only.
    """
    from frostline.base import metrics

    rows = f"{study.runs} AND tags.`kind` LIKE '%run' AND {ENDED_WELL}"
    seeds = f"{study.runs} AND tags.`seed` LIKE '%'"
    smaller = metrics.score(study.metric, 1.0) < 0
    better = {"orderByKey": f"metrics.`{study.metric}`", "orderByAsc": smaller}
    columns = {key: _column(key) for key in study.compared or ("freeze", "backbone", "dataset")}
    hyperparameters = [column for column in columns.values() if column is not None]
    names = dict.fromkeys([study.metric, f"test/{study.headline}", f"best/val/{study.headline}"])
    headline = [f"metrics.`{name}`" for name in names]
    interval = [f"metrics.`{study.metric}.{end}`" for end in ("low", "high")] + ["metrics.`n`"]
    results = [headline[0], *(["metrics.`gain`"] if study.gains else []), *(interval if study.means else [])]
    results += [*headline[1:], "metrics.`train_seconds`"]
    found = {
        RESULTS: {
            **better,
            "searchFilter": rows,
            "selectedColumns": [*hyperparameters, *results],
        },
        SEEDS: {
            **better,
            "searchFilter": seeds,
            "selectedColumns": [
                *hyperparameters, "tags.`seed`", *headline, "metrics.`best_epoch`", "metrics.`train_seconds`"
            ],
        },
        CURVES: {**better, "searchFilter": f"{seeds} AND {ENDED_WELL}", **_curves(study)},
    }  # fmt: skip
    if study.objective:
        axes = {key: CATEGORIES.get(key) or _param(key) for key in columns}
        if params := [param for param in axes.values() if param is not None]:
            found[PARALLEL] = {**better, "searchFilter": rows, **_parallel(params, study)}
    for view, state in found.items():
        if view not in CHARTS:
            state["columnOrder"] = state["selectedColumns"]
            state["columnWidths"] = {column: _width(column) for column in state["selectedColumns"]}
    return found


def _curves(study: Study) -> dict[str, Any]:
    """Return the state of charts over epochs; the seeds of a setting are one line, their mean.

    Its name in the legend has the values of what differs.
    """
    charts = [
        (f"val/{study.headline}", f"Validation {study.headline} by epoch"),
        ("val/loss", "Validation loss by epoch"),
        ("train/loss", "Training loss by epoch"),
        ("phase", "Phase of the freeze schedule by epoch"),
        ("lr", "Highest learning rate by epoch"),
    ]
    lines = [
        {**_chart("LINE", metric, title), **LINE, "metricKey": metric, "selectedMetricKeys": [metric]}
        for metric, title in charts
    ]
    found = _charts("Learning curves", lines, COLUMNS)
    if "arm" in study.compared or study.means:
        names = [(name, _param(name)) for name in study.compared]
        groups = [
            {"mode": "tag" if param is None else "param", "groupByData": param or name}
            for name, param in names
            if param or name in TAG_KEYS
        ]
        if groups:
            found["groupBy"] = {"aggregateFunction": "average", "groupByKeys": groups}
    return found


def _parallel(params: Sequence[str], study: Study) -> dict[str, Any]:
    """Return the state of a chart with an axis per hyperparameter, and one for the objective."""
    chart = {
        **_chart("PARALLEL", "parallel", f"Hyperparameters and {study.metric}"),
        "selectedParams": list(params),
        "selectedMetrics": [study.metric],
        "showAllRuns": True,
    }
    return _charts("Parallel coordinates", [chart], COLUMNS_OF_AXES)


def _chart(kind: str, name: str, title: str) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": f"frostline-{name}",
        "metricSectionId": CHART_SECTION,
        "displayName": title,
        "runsCountToCompare": 100,
        "deleted": False,
        "isGenerated": False,
    }


def _charts(title: str, charts: Sequence[dict[str, Any]], columns: int) -> dict[str, Any]:
    """Return the state of an open section of charts; the page's own sections are closed, below it."""
    open_section = {"uuid": CHART_SECTION, "name": title, "display": True, "isReordered": True}
    sections: list[dict[str, Any]] = [{**open_section, "columns": columns}]
    sections += [
        {"uuid": f"{CHART_SECTION}-{name}", "name": name, "display": False, "isReordered": True}
        for name in OTHER_SECTIONS
    ]
    return {
        "compareRunCharts": list(charts),
        "compareRunSections": sections,
        "isAccordionReordered": True,
        "runsHiddenMode": "SHOW_ALL",
    }


def _column(name: str) -> str | None:
    """Return the column with the values of a key; None: there is none, and names tell the runs apart."""
    if name in TAG_KEYS:
        return f"tags.`{name}`"
    return None if (param := _param(name)) is None else f"params.`{param}`"


def _param(name: str) -> str | None:
    """Return the parameter with the values of a key that is no tag; None: there is none."""
    if name in TAG_KEYS:
        return None
    return GROUP_PARAMS.get(name, name if "." in name and "@" not in name else None)


def _width(column: str) -> int:
    """Return the width of a column in pixels, so that its heading and usual values are whole."""
    if column == "metrics.`n`":
        return WIDTH_OF_N
    return max(PIXELS * len(column.split("`")[1]) + MARGIN, LEAST_WIDTH)
