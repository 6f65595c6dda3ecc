"""Compare recorded runs from Python."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from frostline.api import html
from frostline.api.calls import call
from frostline.api.options import Path as AnyPath
from frostline.api.runs import Run, names_of

if TYPE_CHECKING:
    from pandas import DataFrame

    from frostline.comparison.selection import Compared


@dataclass(frozen=True)
class Comparison:
    """Runs, grouped over seeds, the best first. A notebook shows the table with intervals, and a plot."""

    title: str
    _compared: "Compared" = field(repr=False)

    def to_pandas(self) -> "DataFrame":
        """Return a row per configuration: mean, std, interval and n of each metric; gain, p."""
        from pandas import read_csv

        from frostline.comparison import page

        return read_csv(io.StringIO(page.csv(self._compared.comparison)))

    def markdown(self) -> str:
        """Return the table and its notes in Markdown."""
        from frostline.comparison import page

        return page.markdown(self._compared.comparison)

    def __len__(self) -> int:
        return len(self._compared.comparison.lines)

    def __str__(self) -> str:
        return self.markdown()

    def _repr_html_(self) -> str:
        from frostline.comparison import page

        comparison = self._compared.comparison
        table = html.table(page.headers(comparison), page.cells(comparison))
        plot = html.svg_image(page.plot_file(comparison), f"{comparison.tested} of each configuration")
        counts, notes = page.counts(comparison), html.paragraphs(page.notes(comparison))
        return html.block(self.title, counts, table, notes, plot)


def compare(
    *runs: AnyPath | Run,
    study: str | None = None,
    filter: str | None = None,  # the command's option
    metrics: Sequence[str] = (),
) -> Comparison:
    """Compare finished runs, grouped over seeds, as `frostline compare` does; by default of the last study.

    Args:
        runs: runs, or their folders, ids or names; a name without its seed, or its beginning, such as
            ``full``, means all seeds.
        study: all runs of a study or a sweep, instead.
        filter: all runs that match a search filter of MLflow, instead.
        metrics: the columns; the first sorts the rows.

    Raises:
        FrostlineError: no run is found, or no run has a metric.
    """
    with call(reads_records=True):
        from frostline.comparison.selection import compare_runs

        compared = compare_runs(names_of(runs), study, filter, metrics)
        return Comparison(compared.title, compared)
