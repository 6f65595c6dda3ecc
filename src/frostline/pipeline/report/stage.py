"""Stage report: compare the arms of a study in a page, a table, a plot, JSON and CSV."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.base.files import publish, write_bytes, write_text
from frostline.base.formats import canonical_json, csv_text
from frostline.console.errors import FrostlineError
from frostline.schema import Report
from frostline.stats.gate import Check, check

if TYPE_CHECKING:
    from frostline.reporting.inputs import Arm
    from frostline.reporting.results import Summary


@dataclass(frozen=True)
class Result:
    """What the command prints."""

    sentence: str
    """The verdict."""
    table: str
    """One row per arm, in Markdown."""
    headers: tuple[str, ...]
    """Of the same table."""
    rows: list[list[str]]
    page: Path
    """The report to open in a browser."""


def write_report(config: Report, artifacts: Path, out: Path) -> Result:
    """Compare the arms of a study, and write the report into `out`.

    It writes index.html, report.md, report.json, metrics.json, curves.csv and transfer.png. The same inputs
    give the same bytes; metrics.json, curves.csv and transfer.png contain no measured times.

    Args:
        artifacts: the folder with finetune/, timing/ and evaluate/.
        out: a folder; created if absent.

    Raises:
        FrostlineError: an input is missing or damaged; the sentence names the file and its stage.
    """
    from frostline.reporting import page, records, tables
    from frostline.reporting.configuration import configuration
    from frostline.reporting.transfer_plot import transfer_png

    study, arms = summarized(config, artifacts)
    numbers = records.as_json(study)
    checks = check(config.gate, numbers)
    numbers["gate"] = {c.metric: {"bound": c.bound, "value": c.value, "passed": c.passed} for c in checks}
    table = tables.markdown_table(study)
    with publish(out) as work:
        write_text(work / "report.json", canonical_json(numbers))
        write_text(work / "metrics.json", canonical_json(records.flat_metrics(study)))
        write_text(work / "curves.csv", csv_text(*records.curve_columns(study, config.freeze)))
        write_bytes(work / "transfer.png", transfer_png(study))
        write_text(work / "report.md", _markdown(study, table, checks, configuration(study, arms)))
        write_text(work / "index.html", page.html(study, arms, checks))
    rows = tables.text_rows(study)
    return Result(study.sentence, table, tables.headers(study), rows, out / "index.html")


def summarized(config: Report, artifacts: Path) -> "tuple[Summary, list[Arm]]":
    """Return the results of a study, and the runs of its arms.

    Raises:
        FrostlineError: as `write_report`.
    """
    from frostline.reporting import summary
    from frostline.reporting.inputs import read_arms, read_data_warnings, read_omitted, read_pretraining
    from frostline.reporting.pretraining import Pretraining
    from frostline.reporting.repeats import Repeats

    if not artifacts.is_dir():
        raise FrostlineError(f"{artifacts} is missing: run the pipeline's earlier stages, with `dvc repro`")
    omitted = read_omitted(artifacts, config.arms)
    repeats = Repeats(config.seeds, config.folds, config.dataset_folds or 1)
    arms = read_arms(artifacts, [name for name in config.arms if name not in omitted], repeats)
    study = summary.summarize(config.study, config.monitor, repeats, arms, omitted)
    source = config.setup.source if config.setup else None
    pretrained = read_pretraining(artifacts) if source is not None else None
    pretraining = Pretraining(source, pretrained) if source is not None and pretrained else None
    of_pretraining = [pretraining.note] if pretraining and pretraining.note else []
    notes = [*read_data_warnings(artifacts), *of_pretraining, *study.notes]
    return replace(study, notes=notes, setup=config.setup, pretraining=pretraining), arms


def _markdown(study: "Summary", table: str, checks: list[Check], configuration: list[tuple[str, str]]) -> str:
    from frostline.reporting.tables import explanation
    from frostline.reporting.words import markdown

    sentences = [study.selection.sentence] if study.selection else []
    sentences += [markdown(study.majority.sentence)] if study.majority else []
    parts = [
        markdown(study.sentence),
        table.rstrip("\n"),
        " ".join([*sentences, markdown(explanation(study))]),
        "\n".join(f"- {markdown(note)}" for note in study.notes),
        "\n".join(f"- {term}: {markdown(text)}" for term, text in configuration),
        "\n".join(f"- {'passed' if c.passed else 'failed'}: {markdown(c.sentence)}" for c in checks),
        f"![Transfer compared with training from scratch: {markdown(study.study)}](transfer.png)",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
