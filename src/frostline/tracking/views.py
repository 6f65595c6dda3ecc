"""Shared views of MLflow's run table: what a study's page shows at first sight.

MLflow opens the state in the experiment's tag ``mlflow.sharedViewState.KEY`` with
``#/experiments/ID/runs?viewStateShareKey=KEY``. Versions that don't know such tags ignore them.
"""

import json
from typing import TYPE_CHECKING

from frostline.base.hashes import content_key
from frostline.tracking import metric_names

if TYPE_CHECKING:
    from mlflow import MlflowClient  # `frostline ui` needs addresses alone, and MLflow takes two seconds

PREFIX = "mlflow.sharedViewState."
COLUMNS = (
    "tags.`arm`",
    "metrics.`test/accuracy`",
    "metrics.`test/accuracy.std`",
    "metrics.`n`",
    "metrics.`best/val/accuracy`",
    "metrics.`train_seconds`",
)


def key(study: str) -> str:
    """Return the key of a study's view: what the page's address has after `viewStateShareKey=`."""
    return f"study-{content_key(study)[:12]}"


def page(experiment: str, study: str) -> str:
    """Return the path of a study's view in MLflow's pages."""
    return f"/#/experiments/{experiment}/runs?viewStateShareKey={key(study)}&workflowType=machine_learning"


def record(client: "MlflowClient", experiment: str, study: str, *, means: bool) -> None:
    """Record the view of a study in a tag of the experiment: its runs, the best first.

    Args:
        client: of the store.
        experiment: the id of the experiment.
        study: the name of the study.
        means: whether the study has runs with means over seeds; then these alone are shown.
    """
    which = "tags.`of` = 'seeds'" if means else "tags.`seed` LIKE '%'"
    state = {
        "searchFilter": f"{metric_names.equals('tags.`study`', study)} AND {which}",
        "orderByKey": "metrics.`test/accuracy`",
        "orderByAsc": False,
        "selectedColumns": COLUMNS,
    }
    tag, text = f"{PREFIX}{key(study)}", json.dumps(state)
    if client.get_experiment(experiment).tags.get(tag) != text:
        client.set_experiment_tag(experiment, tag, text)
