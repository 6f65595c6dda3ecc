"""`frostline experiments`: DVC's experiments as one table, a row each: what differs, and each arm's accuracy.

`dvc exp show` has a column for every dependency of every stage, about fifty; only a long `--drop` hides them.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from frostline.base.formats import flat
from frostline.base.metrics import ACCURACY, MAP
from frostline.commands import options
from frostline.commands.compose import ARMS
from frostline.console.errors import FrostlineError
from frostline.console.units import counted

PARAMS, METRICS = "params.yaml", "artifacts/report/metrics.json"
SHA_DIGITS = 40
REF = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/")
"""The git reference of an experiment begins with the commit that it begins at."""
RUN_ONE = "dvc repro runs the study, dvc exp run -S KEY=VALUE an experiment"
EPILOG = """\
Each row has the keys of params.yaml in which the experiments differ, and the test accuracy of each arm with
its gain over the from-scratch baseline in percentage points. `dvc exp show` has every number and dependency,
`dvc exp apply NAME` puts an experiment's files into the workspace. A commit without results is left out."""


@dataclass(frozen=True)
class Row:
    """An experiment, the workspace or a commit."""

    name: str
    params: Mapping[str, str]
    """Key of params.yaml → value; empty: as in the experiment's config."""
    metrics: Mapping[str, float]
    """Such as ``full.accuracy`` or ``full.mAP``, and ``full.gain``."""


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    parser = options.add_command(commands, "experiments", run, summary, EPILOG)
    parser.add_argument(
        "-A", "--all-commits", action="store_true", help="show the experiments of all commits"
    )


def run(arguments: argparse.Namespace) -> None:
    """Print the table.

    Raises:
        FrostlineError: DVC can't read the experiments here.
    """
    shown = _shown_by_dvc(["--all-commits"] if arguments.all_commits else [])
    if rows := read_rows(shown):
        print_table(rows)
    else:
        print(
            f"no {'commit' if arguments.all_commits else 'experiment of this commit'} has results: {RUN_ONE}"
        )
    if hidden := 0 if arguments.all_commits else experiments_elsewhere(shown):
        print(f"{counted(hidden, 'experiment')} of other commits: frostline experiments -A shows them")
    if names := {metric_of(row) for row in rows if row.metrics}:
        print(f"test {' or '.join(sorted(names))} in per cent, and gain over scratch in percentage points")


def metric_of(row: Row) -> str:
    """Return the metric of an experiment's results: accuracy, or mAP with several labels per image."""
    return MAP if any(name.endswith(f".{MAP}") for name in row.metrics) else ACCURACY


def print_table(rows: Sequence[Row]) -> None:
    """Print `table`; the parts of a key are below each other, so that several fit beside the arms."""
    from frostline.console import tables

    headers, cells = table(rows)
    tables.print_table([header.replace(".", ".\n") for header in headers], cells)


def read_rows(shown: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return the rows of what `dvc exp show --json` prints, without commits that have no results."""
    rows = []
    for commit in shown:
        row, experiments = _row(commit, _name(commit)), commit.get("experiments") or ()
        if row.metrics or experiments or not commit.get("data"):
            rows.append(row)
        for experiment in experiments:
            state = (experiment.get("executor") or {}).get("state")
            revisions = experiment.get("revs") or ()
            for revision in revisions[:1]:  # the newest of its checkpoints
                name = experiment.get("name") or _name(revision)
                rows.append(_row(revision, f"  {name} ({state})" if state else f"  {name}"))
    return rows


def experiments_elsewhere(shown: Sequence[Mapping[str, Any]]) -> int:
    """Return how many experiments begin at other commits than those of what `dvc exp show --json` prints."""
    words = ["git", "for-each-ref", "--format=%(refname)", "refs/exps"]
    listed = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    begin = [match[1] + match[2] for match in map(REF.match, listed.splitlines()) if match]
    return sum(commit not in {revision["rev"] for revision in shown} for commit in begin)


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return the headers and cells: the keys of params.yaml that differ, and the arms."""
    keys = dict.fromkeys(key for row in rows for key in row.params)
    differing = [key for key in keys if len({row.params.get(key, "") for row in rows if row.params}) > 1]
    present = {key.rpartition(".")[0] for row in rows for key in row.metrics}
    arms = [arm for arm in ARMS if arm in present] + sorted(present.difference(ARMS))
    cells = [
        [row.name, *(row.params.get(key, "") for key in differing), *(_result(row, arm) for arm in arms)]
        for row in rows
    ]
    return ["experiment", *differing, *arms], cells


def _name(revision: Mapping[str, Any]) -> str:
    rev = str(revision["rev"])
    return str(revision.get("name") or (rev[:7] if len(rev) == SHA_DIGITS else rev))


def _row(revision: Mapping[str, Any], name: str) -> Row:
    data = revision.get("data") or {}
    params = (data.get("params") or {}).get(PARAMS, {}).get("data") or {}
    metrics = (data.get("metrics") or {}).get(METRICS, {}).get("data") or {}
    values = {key: "" if value is None else value for key, value in flat(params).items()}
    shown = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return Row(name if data else f"{name} (unreadable)", shown, metrics)


def _result(row: Row, arm: str) -> str:
    """Return ``67.5 +34.9``, in per cent and points; empty if the experiment has no such arm."""
    from frostline.reporting import words

    score = row.metrics.get(f"{arm}.{ACCURACY}", row.metrics.get(f"{arm}.{MAP}"))
    if score is None:
        return ""
    gain = row.metrics.get(f"{arm}.gain")
    return f"{100 * score:.1f}" + (f" {words.points(gain)}" if gain is not None else "")


def _shown_by_dvc(extra: Sequence[str]) -> Any:
    words = [sys.executable, "-m", "dvc", "exp", "show", "--json", *extra]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout)
    errors = [line for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
    reason = next((line for line in errors if line.startswith("ERROR: ")), errors[-1]).removeprefix("ERROR: ")
    raise FrostlineError(
        f"experiments: DVC says: {reason.rstrip('.')}; run this in a study's folder, in which `frostline init"
        " NAME` and `dvc init` were run"
    )
