"""`frostline compare`: compare finished runs, grouped over seeds."""

import argparse
import json
import sys
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.commands import options
from frostline.commands.ui import PORT
from frostline.console import tables
from frostline.console.errors import FrostlineError
from frostline.console.progress import RUNS, waiting

if TYPE_CHECKING:
    from frostline.comparison.statistics import Comparison

FORMATS = ("md", "csv", "html")
EPILOG = """\
examples:
  frostline compare                                             the study or sweep that ran last
  frostline compare --study mnist_to_digits --out arms.html     a page with a plot
  frostline compare full gradual                                all seeds of two configurations
  frostline compare full·resnet10t·digits gradual·mlp·digits    their names, if several begin alike
  frostline compare runs/finetune/a runs/finetune/b --open      also in the browser
  frostline compare --filter "tags.dataset = 'digits' AND tags.freeze = 'full'" --metric test/f1_macro

Rows are sorted by the first metric. Each row is compared with the first row by a t-test on test accuracy (if
--metric names other metrics only, on the first of them), paired by seed; p is corrected for the number of
rows (Holm), intervals are not."""


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "compare", run, summary, EPILOG)
    parser.add_argument(
        "runs",
        nargs="*",
        default=[],
        metavar="RUN",
        help="folder, id or name (without seed: all seeds; its beginning, such as full, is enough), best,"
        " last, or a sweep",
    )
    parser.add_argument("--study", help="all runs of a study or a sweep (default: the last that ran)")
    parser.add_argument("--filter", metavar="TEXT", help="all runs that match a search filter of MLflow")
    parser.add_argument(
        "--metric",
        action="append",
        metavar="NAME",
        help="metric to show; may be repeated; rows are sorted by the first",
    )
    parser.add_argument(
        "--format", choices=["table", *FORMATS], default="table", help="format of the output (default: table)"
    )
    parser.add_argument("--out", type=Path, help="write a .md, .csv or .html file instead of printing")
    parser.add_argument("--open", action="store_true", help="also open MLflow's comparison of the same runs")


def run(arguments: argparse.Namespace) -> None:
    """Print or write the comparison, and open MLflow's page of it where `--open` asks for it.

    Raises:
        FrostlineError: an option is invalid, no run is found, or none has a metric of `--metric` (without it,
            one of the default metrics).
    """
    if arguments.out is not None and arguments.out.suffix.removeprefix(".") not in FORMATS:
        raise FrostlineError(f"--out: found {arguments.out}; name a file that ends in .md, .csv or .html")
    from frostline.tracking.known_names import check_compared

    if not (arguments.runs and (arguments.study or arguments.filter)):  # else it is an error of its own
        check_compared(arguments.runs, arguments.study)
    with waiting(RUNS):
        from frostline.comparison.selection import compare_runs

        compared = compare_runs(arguments.runs, arguments.study, arguments.filter, arguments.metric or ())
    _output(compared.comparison, compared.title, arguments)
    if arguments.open:
        from frostline.commands.mlflow_server import serve

        sys.stdout.flush()
        serve(PORT, ui_path(compared.comparison, compared.experiment))


def ui_path(comparison: "Comparison", experiment: str) -> str:
    """Return the path in MLflow's UI of the page that compares the same runs.

    Args:
        experiment: id of their MLflow experiment.
    """
    ids = [run.id for line in comparison.lines for run in line.runs]
    runs, experiments = (
        urllib.parse.quote(json.dumps(names, separators=(",", ":"))) for names in (ids, [experiment])
    )
    return f"/#/compare-runs?runs={runs}&experiments={experiments}"


def _output(comparison: "Comparison", title: str, arguments: argparse.Namespace) -> None:
    """Write the comparison to `--out`, or print it."""
    from frostline.base.files import write_text
    from frostline.comparison import page

    if arguments.out is not None:
        write_text(arguments.out, page.render(comparison, arguments.out.suffix.removeprefix("."), title))
        print(arguments.out)
    elif arguments.format in FORMATS:
        print(page.render(comparison, arguments.format, title), end="")
    else:
        console = tables.stdout_console()
        console.print(f"{title}: {page.counts(comparison)}")
        headers, rows, notes = page.headers(comparison), page.cells(comparison), page.notes(comparison)
        if sys.stdout.isatty() and not tables.table(headers, rows).fits(console.width):
            shown, sentence = page.narrow(comparison)
            headers, rows, notes = page.headers(shown), page.cells(shown), [*filter(None, [sentence]), *notes]
        tables.print_table(headers, rows)
        for note in notes:
            console.print(note, style="dim")
