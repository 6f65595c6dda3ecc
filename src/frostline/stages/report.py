"""Say what the transfer bought: a page, a table and a picture for people, JSON and CSV for programs."""

from dataclasses import dataclass
from pathlib import Path

from frostline.errors import FrostlineError
from frostline.files import canonical_json, csv_text, publish, write_bytes, write_text
from frostline.schema import Report
from frostline.stages.gate import Check, check

HINT = (
    "Means over seeds with 95 % intervals; gain and jumpstart in percentage points, paired by seed; epochs "
    "and time to the twin's best are medians with their range; training time is a run's mean, without "
    "pretraining."
)


@dataclass(frozen=True)
class Result:
    """What a command prints after the report is made."""

    sentence: str
    """The verdict."""
    table: str
    """An arm a row, in Markdown."""
    page: Path
    """The report to open in a browser."""


def run(config: Report, artifacts: Path, out: Path) -> Result:
    """Compare the arms of a study, and write the report into `out`.

    It leaves index.html, report.md, report.json, metrics.json, curves.csv and transfer.png. The same inputs
    give the same bytes; metrics.json, curves.csv and transfer.png hold nothing that a clock measured.

    Args:
        config: what to compare.
        artifacts: holds finetune/, timing/ and evaluate/, as those stages left them.
        out: a folder; made if absent.

    Raises:
        FrostlineError: an input is missing or damaged; the sentence names the file and its stage.
    """
    from frostline.report import page, summary, tables
    from frostline.report.inputs import read_arms
    from frostline.report.transfer_picture import transfer_png

    if not artifacts.is_dir():
        raise FrostlineError(f"{artifacts} is missing: run the pipeline's earlier stages, with `dvc repro`")
    arms = read_arms(artifacts, config.arms, config.seeds)
    study = summary.summarise(config.study, config.monitor, config.seeds, arms)
    numbers = summary.as_json(study)
    checks = check(config.gate, numbers)
    numbers["gate"] = {c.metric: {"bound": c.bound, "value": c.value, "passed": c.passed} for c in checks}
    table = tables.markdown_table(study)
    with publish(out) as work:
        write_text(work / "report.json", canonical_json(numbers))
        write_text(work / "metrics.json", canonical_json(summary.flat_metrics(study)))
        write_text(work / "curves.csv", csv_text(*summary.curve_columns(study)))
        write_bytes(work / "transfer.png", transfer_png(study))
        write_text(work / "report.md", _markdown(study.study, study.sentence, table, study.notes, checks))
        write_text(work / "index.html", page.html(study, arms, checks))
    return Result(study.sentence, table, out / "index.html")


def _markdown(study: str, sentence: str, table: str, notes: list[str], checks: list[Check]) -> str:
    parts = [
        sentence,
        table.rstrip("\n"),
        HINT,
        "\n".join(f"- {note}" for note in notes),
        "\n".join(f"- {'passed' if c.passed else 'failed'}: {c.sentence}" for c in checks),
        f"![What transfer bought in the study {study}](transfer.png)",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
