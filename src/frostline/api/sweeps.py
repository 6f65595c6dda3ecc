"""Run a sweep from Python, and its runs as an object."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Unpack

from frostline.api import html
from frostline.api.calls import call
from frostline.api.items import Items
from frostline.api.options import ListOptions, overrides_of
from frostline.api.options import Path as AnyPath
from frostline.api.runs import Run
from frostline.base.metrics import ACCURACY, headline, headline_value
from frostline.console.errors import FrostlineError

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN_RUNS = 24
"""Runs that a notebook shows."""


@dataclass(frozen=True)
class Sweep(Items[Run]):
    """The finished runs of a sweep, the best on validation first. A notebook shows them as a table."""

    runs: tuple[Run, ...]
    labels: tuple[str, ...]
    """The values of each run, such as ``freeze=full,seed=0``."""
    pruned: tuple[str, ...]
    """The values of the runs that the sweep's pruner ended."""
    failed: dict[str, FrostlineError]
    """Values → why that run failed."""

    @property
    def best(self) -> Run:
        """The best run on validation.

        Raises:
            FrostlineError: no run has finished.
        """
        if not self.runs:
            raise FrostlineError("sweep: no run has finished; sweep.failed says why")
        return self.runs[0]

    @property
    def _items(self) -> tuple[Run, ...]:
        return self.runs

    def to_pandas(self) -> "DataFrame":
        """Return a row per run: the values that vary, the metrics of all splits, and its folder."""
        from pandas import DataFrame

        return DataFrame(
            [{**_values(label), **_flat(run), "folder": str(run.folder)} for label, run in self._rows()]
        )

    def _rows(self) -> Iterator[tuple[str, Run]]:
        return zip(self.labels, self.runs, strict=True)

    def _repr_html_(self) -> str:
        keys = list(dict.fromkeys(key for label in self.labels for key in _values(label)))
        rows = [
            [
                *(_values(label).get(key, "") for key in keys),
                *(_headline(run, split) for split in ("val", "test")),
            ]
            for label, run in self._rows()
        ]
        notes = [f"pruned: {', '.join(self.pruned)}"] if self.pruned else []
        notes += [f"{label} failed: {error}" for label, error in self.failed.items()]
        metric = headline(self.runs[0].metrics["val"]) if self.runs else ACCURACY
        if len(rows) > SHOWN_RUNS:
            notes.append(f"{len(rows) - SHOWN_RUNS} more runs, whose val {metric} is lower")
        table = html.table([*keys, f"val {metric}", f"test {metric}"], rows[:SHOWN_RUNS])
        return html.block(repr(self), "the best on validation first", table, html.paragraphs(notes))

    def __repr__(self) -> str:
        others = [f"{len(self.pruned)} pruned"] * bool(self.pruned) + [f"{len(self.failed)} failed"] * bool(
            self.failed
        )
        return f"Sweep({', '.join([f'{len(self)} runs', *others])})"


class SweepOptions(ListOptions, total=False):
    """Keyword arguments of a sweep's runs."""

    stage: Literal["finetune", "pretrain"]
    """The command that is run; finetune unless given."""


def sweep(
    dataset: AnyPath | Sequence[str] | None = None,
    *,
    fresh: bool = False,
    force: bool = False,
    keep_failed: bool = False,
    **options: Unpack[SweepOptions],
) -> Sweep:
    """Run every combination of lists, as `frostline finetune -m` does, or resume the same sweep.

    Args:
        dataset: a folder of images, or an option of conf/dataset, or several.
        fresh: start over instead of resuming.
        force: overwrite runs with other configs.
        keep_failed: return the finished runs although others failed.
        options: as for `finetune`; a list means each of its values. An interval is an override in a list:
            ``sweep="tpe", overrides=["optimizer.lr=tag(log,interval(1e-4,1e-1))"]``. ``stage="pretrain"``
            runs pretrainings.

    Raises:
        FrostlineError: a combination is invalid, before anything runs; or some runs failed, after all others
            have finished, unless `keep_failed`.
    """
    from frostline.config.compose import FailedJob
    from frostline.pipeline.standalone import Stopped
    from frostline.sweeps import jobs

    stage = options.pop("stage", "finetune")
    overrides = overrides_of(dataset, options, ListOptions, command=stage)
    with call():
        done = jobs.run(stage, overrides, force=force, fresh=fresh)
        best = jobs.best_first(done)
        if not (keep_failed and best):
            jobs.check(done)
        return Sweep(
            tuple(Run(job.out) for job in best),
            tuple(job.name for job in best),
            tuple(job.name for job in done if isinstance(job, Stopped)),
            {job.label: job.error for job in done if isinstance(job, FailedJob)},
        )


def _values(label: str) -> dict[str, str]:
    """Return key → value of a run's label: ``freeze=full,seed=0``."""
    return dict(part.split("=", 1) for part in re.split(r",(?=[\w./@]+=)", label) if "=" in part)


def _flat(run: Run) -> dict[str, float]:
    return {f"{split}/{name}": value for split, part in run.metrics.items() for name, value in part.items()}


def _headline(run: Run, split: str) -> str:
    metrics = run.metrics.get(split, {})
    return f"{headline_value(metrics):.4f}" if metrics else ""
