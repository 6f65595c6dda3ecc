"""`frostline gate`: fail if a metric of the report is below its bound."""

import argparse
from pathlib import Path
from typing import Any

from frostline.commands import options


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "gate", run, summary)
    options.add_resolved(parser, options.REPORT_CONFIG)
    parser.add_argument(
        "--report",
        type=Path,
        default=Path("artifacts/report/report.json"),
        help="numbers to check (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Check the bounds of the gate."""
    from frostline.stats import gate

    if not gate.run(options.read_report_config(arguments.resolved).gate, arguments.report):
        print("gate: the study has no bounds (key gate of its experiment): nothing is checked")
