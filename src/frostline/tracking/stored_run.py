"""One run in MLflow's store, and what is recorded in it."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException

from frostline.base.formats import canonical_json
from frostline.tracking import metric_names as names
from frostline.tracking import seed_groups as seeds
from frostline.tracking.plot_queue import PendingPlots
from frostline.training.services import TRIAL_STATE, RunInfo

if TYPE_CHECKING:
    from frostline.tracking.store import Store

PARAM_LIMIT = 6000
"""Characters; MLflow cuts longer values without a word."""
LONG_PARAMS = "long_params.json"
DATASET_LIMIT = 500
"""Characters of a data set's name."""
FLUSH_SECONDS = 5.0
"""The least time between two batches of a run's curves."""


def now() -> int:
    """Return the time as MLflow counts it: milliseconds since 1970."""
    return int(time.time() * 1000)


class StoredRun:
    """One run in the store; its methods do nothing if it has no id: it is not to be recorded.

    Args:
        store: the run's.
        run_id: None: it is looked up by its place.
        place: the run's place in a journal.
    """

    def __init__(self, store: "Store", run_id: str | None, place: str = "") -> None:
        self._store, self.place = store, place
        self.id = run_id
        if place and run_id is None and (found := store.at(place)):
            self.id = found[0]
        self._waiting: list[Metric] = []
        self._plots = PendingPlots()
        self._flushed = time.monotonic()

    def describe(self, about: RunInfo) -> None:
        """Record the parameters and the data set."""
        if self.id is None:
            return
        values = {names.key(name): names.text(value, sys.maxsize) for name, value in _flat(about.config)}
        long = {name: value for name, value in values.items() if len(value) > PARAM_LIMIT}
        params = [Param(k, f"see artifact {LONG_PARAMS}" if k in long else v) for k, v in values.items()]
        dataset = Dataset(
            name=names.text(about.dataset["name"], DATASET_LIMIT),
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
            # Two runs brought a new data set at once: MLflow looks for it before it inserts it.
            client.log_inputs(self.id, inputs)
        if long:
            self._store.log_files(self.id, [(LONG_PARAMS, canonical_json(long).encode())])

    def epoch(self, row: Mapping[str, float | int | None], *, when: int | None = None) -> None:
        """Take a row of the history; `flush` records rows together."""
        values = {k: float(v) for k, v in row.items() if v is not None and k not in ("epoch", "step")}
        self._wait(values, int(row["epoch"] or 0), when)

    def metrics(self, values: Mapping[str, float], *, when: int | None = None) -> None:
        """Take final values, which `flush` records."""
        self._plots.val_accuracy = values.get("best/val/accuracy", self._plots.val_accuracy)
        self._wait(values, 0, when)

    def load(self, values: Mapping[str, float], number: int, *, when: int | None = None) -> None:
        """Take a sample of the machine's load, which `flush` records."""
        self._wait(values, number, when)

    def tags(self, values: Mapping[str, str], *, when: int | None = None) -> None:
        """Record short texts."""
        if self.id is not None:
            self._store.log_tags(self.id, values)

    def started_from(self, sha256: str, *, when: int | None = None) -> None:
        """Name the run that made the weights of this hash."""
        made = self._store.maker(sha256)
        known = {"start.run_id": made.info.run_id, "start.run_name": made.info.run_name} if made else {}
        self.tags({"start.sha256": sha256, **known})

    def files(self, files: Mapping[str, bytes], *, when: int | None = None) -> None:
        """Record files by their paths in the run's folder."""
        self.add_plot_data(files)
        if self.id is not None:
            self._store.log_files(self.id, files.items())

    def end(self, status: str, *, when: int | None = None) -> None:
        """Close the run. Its plots come later: drawing them takes what training wants."""
        if self.id is None:
            return
        self.flush()
        if status == "KILLED" and TRIAL_STATE in self._store.client.get_run(self.id).data.tags:
            self.tags({TRIAL_STATE: "killed"})
        self._store.client.set_terminated(self.id, status, when)
        seeds.gather(self._store, self.id, when)
        self.queue_plots()

    def add_plot_data(self, files: Mapping[str, bytes]) -> None:
        """Take files that are recorded, to draw plots of them."""
        self._plots.files |= files

    def queue_plots(self) -> None:
        """Have the run's plots drawn, sometime."""
        if self.id is not None and self._plots != PendingPlots(val_accuracy=self._plots.val_accuracy):
            self._store.plots.add(self.id, self._plots)
        self._plots = PendingPlots()

    def only_one(self) -> None:
        """Delete further runs of this one's place, which a repeated request opened."""
        for other in self._store.at(self.place) if self.place and self.id else ():
            if other != self.id:
                self._store.client.delete_run(other)

    @property
    def due(self) -> bool:
        """Whether it is time to `flush`."""
        return bool(self._waiting) and time.monotonic() - self._flushed > FLUSH_SECONDS

    def flush(self) -> None:
        """Record the metrics that wait."""
        if self.id is not None and self._waiting:
            self._store.log_metrics(self.id, self._waiting)
        self._waiting = []
        self._flushed = time.monotonic()

    def _wait(self, values: Mapping[str, float], step: int, when: int | None) -> None:
        at = now() if when is None else when
        self._waiting += [
            Metric(names.key(key), names.number(value), at, step) for key, value in values.items()
        ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested config → dotted names and the text of each value, JSON where it is not a string."""
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False)
