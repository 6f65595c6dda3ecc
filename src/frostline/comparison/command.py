"""`frostline compare`: compare finished runs, grouped over seeds."""

import json
import sys
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from frostline.base.files import write_text
from frostline.base.hashes import sha256_cached
from frostline.base.run_folder import TRAINING, verified
from frostline.comparison import page as report
from frostline.comparison.runs import Results
from frostline.comparison.statistics import Comparison, Result, compare
from frostline.console.errors import FrostlineError, allowed
from frostline.tracking import sync
from frostline.tracking.store import Store

METRICS = ("best/val/accuracy", "test/accuracy", "train_seconds")
TESTED_METRIC = "test/accuracy"
"""The metric that is tested if it is among the metrics; else the first is."""


def run(
    runs: Sequence[str],
    study: str | None,
    condition: str | None,
    metrics: Sequence[str],
    out: Path | None,
    kind: str,
    width: int | None,
) -> Comparison:
    """Print the comparison of runs, or write it to `out`, and return it.

    Args:
        runs: ids, names, names without the seed, or run folders.
        study: compare all runs of this study; None without runs and condition: the newest.
        condition: compare all runs that match this MLflow filter.
        metrics: columns, sorted by the first; none: `METRICS`.
        out: a file that ends in .md, .csv or .html.
        kind: format to print: table, md, csv or html.
        width: characters of a table; None: the terminal's width.

    Raises:
        FrostlineError: no run is found, or no run has a metric.
    """
    if out is not None and out.suffix.removeprefix(".") not in report.FORMATS:
        raise FrostlineError(f"--out: found {out}; name a file that ends in .md, .csv or .html")
    sync.deliver_pending()
    store = Store(reading=True)
    with store.one_sentence("compare"):
        title, found = _select_runs(Results(store), runs, study, condition)
    known = {metric for result in found for metric in result.metrics}
    for metric in metrics:
        if metric not in known:
            raise FrostlineError(f"--metric: no run has {metric!r}; {allowed(metric, known)}")
    told = metrics or [metric for metric in METRICS if metric in known]
    if not told:
        have = ", ".join(sorted(known)) or "no metric at all"
        raise FrostlineError(
            f"compare: these runs have none of {', '.join(METRICS)} but {have}; use --metric"
        )
    made = compare(found, told, TESTED_METRIC if TESTED_METRIC in told else told[0])
    if out is not None:
        write_text(out, report.render(made, out.suffix.removeprefix("."), title))
        print(out)
    elif kind in report.FORMATS:
        print(report.render(made, kind, title), end="")
    else:
        _print_table(made, title, width)
    return made


def page(made: Comparison, experiment: str) -> str:
    """Return the path in MLflow's UI of the page that compares the same runs."""
    ids = json.dumps([run.id for line in made.lines for run in line.runs], separators=(",", ":"))
    experiments = json.dumps([experiment], separators=(",", ":"))
    return f"/#/compare-runs?runs={urllib.parse.quote(ids)}&experiments={urllib.parse.quote(experiments)}"


def _select_runs(
    store: Results, words: Sequence[str], study: str | None, condition: str | None
) -> tuple[str, list[Result]]:
    """Return the title of the comparison, and its runs, oldest first."""
    if words:
        results = [result for word in words for result in _runs_named(store, word)]
        return "Runs compared", list({result.id: result for result in results}.values())
    studies = store.studies()
    if study is None and condition is None:
        if not studies:
            raise FrostlineError("compare: no run is recorded yet; `frostline finetune …` makes one")
        study = studies[0]
        print(f"the newest study, {study}; --study names another", file=sys.stderr)
    if study is not None and study not in studies:
        raise FrostlineError(f"--study: there is no {study!r}; {allowed(study, studies)}")
    try:
        found = store.finished({"study": study} if study else {}, *([condition] if condition else []))
    except Exception as error:  # MLflow's error for an invalid filter
        reason = str(error).splitlines()[0][:200]
        raise FrostlineError(
            f"--filter: {reason}; write, for example,"
            " \"params.`optimizer.lr` = '0.001' and tags.freeze = 'full'\""
        ) from None
    if study and len({result.params.get("stage") for result in found}) > 1:
        found = [result for result in found if result.params.get("stage") == "finetune"]
    if not found:
        what = f"of the study {study}" if study else "that matches this filter"
        raise FrostlineError(f"compare: no run {what} has finished; see `frostline ui`")
    return study or "Runs compared", found


def _runs_named(store: Results, word: str) -> list[Result]:
    weights = Path(word, "weights.safetensors")
    if not weights.is_file():
        return store.named(word)
    if weights.with_name(TRAINING).is_file():
        verified(Path(word))
    if found := store.finished({"weights.sha256": sha256_cached(weights)}):
        return found[-1:]
    raise FrostlineError(f"{word}: not recorded in this store; name a run of `frostline ui`, or run it again")


def _print_table(made: Comparison, title: str, width: int | None) -> None:
    from rich.console import Console

    console = Console(width=width, highlight=False)
    runs = sum(len(line.runs) for line in made.lines)
    console.print(f"{title}: {len(made.lines)} configurations, {runs} runs")
    console.print(report.table(made))
    for note in report.notes(made):
        console.print(note, style="dim")
