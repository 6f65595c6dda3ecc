"""One run in MLflow's store."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException

from frostline.base.formats import canonical_json
from frostline.base.metrics import headline
from frostline.tracking import metric_names, seed_groups
from frostline.tracking.plot_queue import PendingPlots
from frostline.training.services import TRIAL_STATE, RunInfo

if TYPE_CHECKING:
    from frostline.tracking.store import Store

PARAM_LIMIT = 6000
"""Characters; MLflow truncates longer values silently."""
NOTE = "mlflow.note.content"
"""The tag with the description that MLflow's page of a run shows, in Markdown."""
LONG_PARAMS = "long_params.json"
DATASET_LIMIT = 500
"""Characters of a data set's name."""
SAME_RESULT = ("weights.sha256", "setting", "stage", "study", "seed", "fold")
"""The tags that runs with the same weights and test images share."""
FLUSH_SECONDS = 5.0
"""The shortest time between two batches of a run's metrics."""


class StoredRun:
    """One run in the store; without an id it is not recorded, and its methods do nothing.

    Args:
        run_id: None: the run is looked up by its place.
    """

    def __init__(self, store: "Store", run_id: str | None, place: str = "") -> None:
        self._store, self.place = store, place
        self.id = run_id
        if place and run_id is None and (ids := store.at(place)):
            self.id = ids[0]
        self._pending: list[Metric] = []
        self._plots = PendingPlots()
        self._flushed = time.monotonic()

    def describe(self, about: RunInfo) -> None:
        """Record the parameters and the data set."""
        if self.id is None:
            return
        values = {
            metric_names.key(name): metric_names.text(value, sys.maxsize)
            for name, value in _flat(about.config)
        }
        long = {name: value for name, value in values.items() if len(value) > PARAM_LIMIT}
        params = [Param(k, f"see artifact {LONG_PARAMS}" if k in long else v) for k, v in values.items()]
        dataset = Dataset(
            name=metric_names.text(about.dataset["name"], DATASET_LIMIT),
            digest=about.dataset["fingerprint"][:36],
            source_type="local",
            source=json.dumps({"kind": about.dataset["kind"]}),
        )
        client = self._store.client
        self._store.log_params(self.id, params)
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", about.context)])]
        try:
            client.log_inputs(self.id, inputs)
        except MlflowException:
            # Two runs inserted the same new data set at once; now MLflow finds it.
            client.log_inputs(self.id, inputs)
        if long:
            self._store.log_files(self.id, [(LONG_PARAMS, canonical_json(long).encode())])

    def epoch(self, row: Mapping[str, float | int | None], *, when: int | None = None) -> None:
        """Add a row of the history, which `flush` records."""
        values = {k: float(v) for k, v in row.items() if v is not None and k not in ("epoch", "step")}
        self._add(values, int(row["epoch"] or 0), when)

    def metrics(self, values: Mapping[str, float], *, when: int | None = None) -> None:
        """Add final values, which `flush` records."""
        best = values.get(f"best/val/{headline(values)}", self._plots.val_headline)
        self._plots.val_headline = best
        self._add(values, 0, when)

    def describe_results(self, values: Mapping[str, float]) -> None:
        """Write the results into the description, the first thing on MLflow's page of a run."""
        metric = headline(values)
        names = {f"test/{metric}": f"test {metric}", f"best/val/{metric}": f"validation {metric}"}
        parts = [f"{name} {100 * values[key]:.1f} %" for key, name in names.items() if key in values]
        if epoch := values.get(metric_names.BEST_EPOCH):
            parts.append(f"best epoch {epoch:g}")
        if parts:
            self.tags({NOTE: ", ".join(parts)})

    def load(self, values: Mapping[str, float], number: int, *, when: int | None = None) -> None:
        """Add a sample of the machine's load, which `flush` records."""
        self._add(values, number, when)

    def tags(self, values: Mapping[str, str], *, when: int | None = None) -> None:
        """Record short texts."""
        if self.id is not None:
            self._store.log_tags(self.id, values)

    def started_from(self, sha256: str, *, when: int | None = None) -> None:
        """Record which run made the weights of this hash."""
        maker = self._store.maker(sha256)
        known = {"start.run_id": maker.info.run_id, "start.run_name": maker.info.run_name} if maker else {}
        self.tags({"start.sha256": sha256, **known})

    def files(self, files: Mapping[str, bytes], *, when: int | None = None) -> None:
        """Record files by their paths in the run's folder."""
        self.add_plot_data(files)
        if self.id is not None:
            self._store.log_files(self.id, files.items())

    def end(self, status: str, *, when: int | None = None) -> None:
        """Close the run. Its plots are drawn later, since drawing takes CPU time from training."""
        if self.id is None:
            return
        self.flush()
        if status == "KILLED" and TRIAL_STATE in self._store.client.get_run(self.id).data.tags:
            self.tags({TRIAL_STATE: "killed"})
        self._store.client.set_terminated(self.id, status, when)
        if status == "FINISHED":
            self._measured_before(when)
        seed_groups.gather(self._store, self.id, when)
        self.queue_plots()

    def _measured_before(self, when: int | None) -> None:
        """Record what was measured, after its end, of an earlier run of the same configuration and weights.

        DVC does not evaluate weights again that a repeated training has made anew.
        """
        run = self._store.client.get_run(str(self.id))
        alike = {key: run.data.tags[key] for key in SAME_RESULT if key in run.data.tags}
        if "weights.sha256" not in alike or "setting" not in alike:
            return
        missing = {
            key: value
            for other in self._store.search(alike, "attributes.status = 'FINISHED'", limit=2)
            for key, value in other.data.metrics.items()
            if key.removeprefix("system/").startswith("test") and key not in run.data.metrics
        }
        if missing:
            at = int(1000 * time.time()) if when is None else when
            self._store.log_metrics(
                str(self.id), [Metric(key, value, at, 0) for key, value in missing.items()]
            )
            self.describe_results({**run.data.metrics, **missing})

    def add_plot_data(self, files: Mapping[str, bytes]) -> None:
        """Add files from which plots are drawn."""
        self._plots.files |= files

    def queue_plots(self) -> None:
        """Queue the run's plots."""
        if self.id is not None and self._plots != PendingPlots(val_headline=self._plots.val_headline):
            self._store.plots.add(self.id, self._plots)
        self._plots = PendingPlots()

    def delete_duplicates(self) -> None:
        """Delete other runs with this run's place, which a repeated request has created."""
        for other in self._store.at(self.place) if self.place and self.id else ():
            if other != self.id:
                self._store.client.delete_run(other)

    @property
    def due(self) -> bool:
        """Whether it is time to `flush`."""
        return bool(self._pending) and time.monotonic() - self._flushed > FLUSH_SECONDS

    def flush(self) -> None:
        """Record the pending metrics."""
        if self.id is not None and self._pending:
            self._store.log_metrics(self.id, self._pending)
        self._pending = []
        self._flushed = time.monotonic()

    def _add(self, values: Mapping[str, float], step: int, when: int | None) -> None:
        at = int(1000 * time.time()) if when is None else when
        self._pending += [
            Metric(metric_names.key(metric_names.placed(key)), metric_names.number(value), at, step)
            for key, value in values.items()
        ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted name, value as text) of a nested config; values that are not strings become JSON."""
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False)
