"""Probe a backbone's frozen features from Python."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Unpack

from frostline.api import html
from frostline.api.calls import call
from frostline.api.options import ListOptions, overrides_of
from frostline.api.options import Path as AnyPath
from frostline.api.runs import Run

if TYPE_CHECKING:
    from pandas import DataFrame

    from frostline.probing.results import ProbeResult


@dataclass(frozen=True)
class Probe:
    """A finished probe. A notebook shows its table, the best heads first."""

    run: Run
    """The best head on the whole network, as a run."""
    rows: tuple[dict[str, Any], ...]
    """A row for each configuration of heads, for ridge regression and for nearest neighbours. Keys: probe,
    the values that vary, val/accuracy, what trainer.monitor names, val/loss, seeds, and test/accuracy if it
    was measured; with several labels per image, mAP instead of accuracy."""
    _result: "ProbeResult" = field(repr=False)

    def to_pandas(self) -> "DataFrame":
        """Return the rows as a data frame."""
        from pandas import DataFrame

        return DataFrame(self.rows)

    def _repr_html_(self) -> str:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        cells = [[_cell(row.get(name)) for name in names] for row in self.rows]
        images = ", ".join(f"{count} {split}" for split, count in self._result.images.items())
        subtitle = f"features at {self._result.winner.group.split_point.name} of {images} images"
        return html.block(f"Probe of {self.run.folder.name}", subtitle, html.table(names, cells))


def probe(dataset: AnyPath | None = None, *, force: bool = False, **options: Unpack[ListOptions]) -> Probe:
    """Measure a backbone's frozen features with many heads, as `frostline probe` does.

    Args:
        dataset: a folder of images, or an option of conf/dataset.
        force: overwrite another run in `out`.
        options: as for `finetune`; lists of lr, seed, ``optimizer.weight_decay`` and ``loss.label_smoothing``
            make a head of each combination.

    Raises:
        FrostlineError: an argument, the data or the weights are not valid, or heads can't be batched.
    """
    from frostline.probing import standalone

    overrides = overrides_of(dataset, options, ListOptions, command="probe")
    with call():
        done = standalone.run(overrides, force=force)
        return Probe(Run(done.out), tuple(_rows(done.result)), done.result)


def _rows(result: "ProbeResult") -> Iterator[dict[str, Any]]:
    from frostline.probing.results import short

    metric = result.metric
    for place, configuration in enumerate(result.configurations):
        varied = {short(key): configuration.values[key] for key in result.varied}
        if configuration.failed:
            val: dict[str, Any] = {"failed": configuration.failed}
        else:
            val = {f"val/{name}": values["mean"] for name, values in configuration.val.items()}
        test = {f"test/{metric}": result.test[metric]["mean"]} if result.test and not place else {}
        yield {"probe": "heads", **varied, **val, "seeds": len(configuration.heads), **test}
    for name, other in (("ridge", result.ridge), ("kNN", result.knn)):
        test = {} if other.test is None else {f"test/{metric}": other.test}
        hyperparameter = "penalty" if name == "ridge" else "k"
        yield {"probe": f"{name}, {hyperparameter} {other.chosen:g}", f"val/{metric}": other.val, **test}


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
