"""The report of a study from Python."""

import pathlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from frostline.api import html
from frostline.api.calls import call
from frostline.api.options import Path

if TYPE_CHECKING:
    from pandas import DataFrame

    from frostline.reporting.results import ArmSummary, Summary

PAGE = "report/index.html"
RESOLVED = "resolved/report.yaml"


@dataclass(frozen=True)
class Report:
    """The results of a study. A notebook shows the verdict, the table of its arms, and the plot."""

    study: str
    """The study's name."""
    verdict: str
    """The verdict, in one sentence."""
    page: pathlib.Path
    """The whole report, for a browser."""
    _summary: "Summary" = field(repr=False)

    def to_pandas(self) -> "DataFrame":
        """Return a row per arm: accuracy or mAP and gain with 95 % intervals, p, best epoch and runs."""
        from pandas import DataFrame

        return DataFrame([dict(_row(arm, self._summary.metric)) for arm in self._summary.arms]).set_index(
            "arm"
        )

    def markdown(self) -> str:
        """Return the verdict and the table of the arms in Markdown."""
        from frostline.reporting import tables, words

        return f"{words.markdown(self.verdict)}\n\n{tables.markdown_table(self._summary)}"

    def __str__(self) -> str:
        return self.markdown()

    def _repr_html_(self) -> str:
        from frostline.reporting import tables
        from frostline.reporting.transfer_plot import transfer_png

        rows = [
            [row.arm, *(html.detailed(cell.text, cell.detail) for cell in row.cells)]
            for row in tables.arm_rows(self._summary)
        ]
        table = html.table(tables.headers(self._summary), rows)
        plot = html.image(transfer_png(self._summary), "png", self.verdict, 960)
        notes = html.paragraphs([*self._summary.notes, f"The whole report: {self.page}"])
        return html.block(self.study, self.verdict, table, plot, notes)


def report(artifacts: Path = "artifacts") -> Report:
    """Return the report of the study that `dvc repro` ran here; `frostline report` writes it as a page.

    Args:
        artifacts: the folder of the study's results.

    Raises:
        FrostlineError: results are missing or damaged; the sentence names the file and its stage.
    """
    from frostline.base.formats import read_yaml
    from frostline.projects.folder import require
    from frostline.schema import Report as Config
    from frostline.schema.validation import validated

    folder = pathlib.Path(artifacts)
    with call():
        from frostline.pipeline.report.stage import summarized

        resolved = folder / RESOLVED
        require(resolved, "run `dvc repro`")
        config = validated(Config, read_yaml(resolved), str(resolved))
        summary, _ = summarized(config, folder)
        return Report(config.study, summary.sentence, folder / PAGE, summary)


def _row(arm: "ArmSummary", metric: str) -> Iterator[tuple[str, Any]]:
    """Yield (column, value) of an arm's row; None where an arm has no such number."""
    comparison = arm.comparison
    gain = comparison.gain if comparison else None
    yield "arm", arm.name
    for name, estimate in ((metric, arm.score), ("gain", gain)):
        yield name, estimate.mean if estimate else None
        yield f"{name}.low", estimate.low if estimate else None
        yield f"{name}.high", estimate.high if estimate else None
    yield "p", comparison.p_holm if comparison else None
    yield "best_epoch", arm.best_epoch
    yield "n", len(arm.repetitions)
