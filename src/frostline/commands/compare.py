"""`frostline compare`: compare finished runs, grouped over seeds."""

import argparse
import json
import sys
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frostline.commands import options
from frostline.commands.ui import PORT
from frostline.console import tables
from frostline.console.errors import FrostlineError, allowed

if TYPE_CHECKING:
    from frostline.comparison.runs import Results
    from frostline.comparison.statistics import Comparison, Result

FORMATS = ("md", "csv", "html")
METRICS = ("best/val/accuracy", "test/accuracy", "train_seconds")
"""The metrics that are compared unless `--metric` names others, as far as there are runs that have them."""
TESTED_METRIC = "test/accuracy"
"""The metric that is tested if it is among the metrics; else the first is."""
TITLE = "Runs compared"
"""The title unless a study is compared."""

EPILOG = """\
examples:
  frostline compare                                             the newest study or sweep
  frostline compare --study mnist_to_digits --out arms.html     a page with a plot
  frostline compare resnet10t·full·digits resnet10t·gradual·digits
                                                                all seeds of two configurations
  frostline compare runs/finetune/a runs/finetune/b --open      also in the browser
  frostline compare --filter "tags.freeze = 'full'" --metric test/f1_macro --metric test/loss

Rows are sorted by the first metric. Each row is compared with the first by a t-test on test accuracy, paired
by seed; p is corrected for the number of rows (Holm)."""


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "compare", run, summary, EPILOG)
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="folder, id or name (without seed: all seeds), best, last, or a sweep",
    )
    parser.add_argument("--study", help="all runs of a study or a sweep (default: the newest)")
    parser.add_argument("--filter", metavar="TEXT", help="all runs that match a filter of MLflow")
    parser.add_argument(
        "--metric",
        action="append",
        metavar="NAME",
        help="a column; repeat for more; the first sorts the rows",
    )
    parser.add_argument(
        "--format", choices=["table", *FORMATS], default="table", help="of the output (default: table)"
    )
    parser.add_argument("--out", type=Path, help="write a .md, .csv or .html file instead of printing")
    parser.add_argument("--open", action="store_true", help="also open MLflow's comparison of the same runs")


def run(arguments: argparse.Namespace) -> None:
    """Print or write the comparison, and open MLflow's page of it where `--open` asks for it.

    Raises:
        FrostlineError: an option is invalid, no run is found, or no run has a metric.
    """
    if arguments.runs and (arguments.study or arguments.filter):
        raise FrostlineError("compare: name runs, or use --study and --filter")
    if arguments.out is not None and arguments.out.suffix.removeprefix(".") not in FORMATS:
        raise FrostlineError(f"--out: found {arguments.out}; name a file that ends in .md, .csv or .html")
    from frostline.comparison.runs import Results
    from frostline.comparison.statistics import compare
    from frostline.tracking import sync
    from frostline.tracking.store import Store

    sync.deliver_pending()
    store = Store(reading=True)
    with store.one_sentence("compare"):
        title, results = _select(Results(store), arguments)
    metrics = _metrics(results, arguments.metric or ())
    comparison = compare(results, metrics, TESTED_METRIC if TESTED_METRIC in metrics else metrics[0])
    _output(comparison, title, arguments)
    if arguments.open:
        from frostline.commands.mlflow_server import serve

        sys.stdout.flush()
        serve(PORT, ui_path(comparison, store.experiment))


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


def _select(results: "Results", arguments: argparse.Namespace) -> "tuple[str, list[Result]]":
    """Return the title of the comparison, and its runs, oldest first."""
    if arguments.runs:
        named = [run for name in arguments.runs for run in results.named(name)]
        return TITLE, list({run.id: run for run in named}.values())
    study = arguments.study
    if study is None and arguments.filter is None:
        study = results.newest_study()
        print(f"the newest study, {study}; --study names another", file=sys.stderr)
    return study or TITLE, results.matching(study, arguments.filter)


def _metrics(results: "Sequence[Result]", requested: Sequence[str]) -> Sequence[str]:
    """Return the metrics to compare."""
    known = {metric for result in results for metric in result.metrics}
    for metric in requested:
        if metric not in known:
            raise FrostlineError(f"--metric: no run has {metric!r}; {allowed(metric, known)}")
    if metrics := requested or [metric for metric in METRICS if metric in known]:
        return metrics
    others = ", ".join(sorted(known)) or "no metric at all"
    raise FrostlineError(f"compare: these runs have none of {', '.join(METRICS)} but {others}; use --metric")


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
        runs = sum(len(line.runs) for line in comparison.lines)
        console = tables.stdout_console()
        console.print(f"{title}: {len(comparison.lines)} configurations, {runs} runs")
        tables.print_whole(page.headers(comparison), page.cells(comparison))
        for note in page.notes(comparison):
            console.print(note, style="dim")
