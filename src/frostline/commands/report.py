"""`frostline report`: write the report of a study."""

import argparse
import sys
from pathlib import Path
from typing import Any

from frostline.commands import options
from frostline.console.progress import waiting


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "report", run, summary)
    options.add_resolved(parser, options.REPORT_CONFIG)
    parser.add_argument(
        "--artifacts",
        type=Path,
        default=Path("artifacts"),
        help="folder with the results of the other stages (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("artifacts/report"),
        help="folder of the report (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the report, and print its verdict, its table and where its page is."""
    from frostline.base.formats import read_json
    from frostline.console import tables
    from frostline.pipeline.report.stage import write_report
    from frostline.pipeline.session import record_study, writing

    config = options.read_report_config(arguments.resolved)
    with writing(arguments.out), waiting("writing the report"):
        result = write_report(config, arguments.artifacts, arguments.out)
        names = ("index.html", "report.md", "report.json", "metrics.json", "transfer.png")
        files = {f"report/{name}": arguments.out / name for name in names}
        values = read_json(arguments.out / "metrics.json")
        record_study(config.study, result.sentence, result.table, values, files)
    print(f"{result.sentence}\n")
    if sys.stdout.isatty():
        tables.print_table(result.headers, result.rows)
        print(f"\n{result.page}")
    else:
        print(f"{result.table}\n{result.page}")
