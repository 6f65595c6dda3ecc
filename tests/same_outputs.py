"""Compare the outputs of two commits: the default study, an MLP, a sweep, a probe and an export.

    python -m tests.same_outputs snapshot COMMIT before.json   20 minutes on two cores
    python -m tests.same_outputs snapshot HEAD after.json
    python -m tests.same_outputs compare before.json after.json

A snapshot clones the commit into an empty folder, runs its own `scripts/reproduce` and commands without
cached results, and stores a hash of every output file. Values that a clock measured are left out of JSON and
CSV files; files that differ only in them are equal. The exit status of `compare` is 1 if anything differs.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OUTPUTS = ("artifacts", "runs", "exported")
DIGITS = ("dataset=digits", "backbone=resnet10t", "weights=none", "input.size=32", "trainer.threads=1")
COMMANDS = (
    ("finetune", "experiment=article_mlp", "out=runs/article_mlp"),
    ("finetune", *DIGITS, "freeze=gradual", "trainer.epochs=6", "out=runs/gradual"),
    (
        *("finetune", "-m", *DIGITS, "freeze=linear_probe,full", "optimizer.lr=1e-3,1e-2", "seed=0,1"),
        *("trainer.epochs=3", "out=runs/sweep"),
    ),
    (
        *("probe", "dataset=digits", "backbone=efficientnet_lite0", "weights=imagenet"),
        *("optimizer.lr=1e-3,1e-2", "loss.label_smoothing=0,0.1", "seed=0,1", "out=runs/probe"),
    ),
    ("evaluate", "runs/gradual", "--out", "runs/evaluated"),
    ("export", "runs/gradual", "--format", "onnx", "--out", "exported/model.onnx"),
    ("export", "runs/gradual", "--format", "safetensors", "--out", "exported/model.safetensors"),
)
MEASURED = re.compile(r"seconds|images_per_second|/s$|time|created|commit")
"""Keys whose values a clock or the commit determines."""


def without_measured(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_measured(v) for k, v in value.items() if not MEASURED.search(k)}
    return [without_measured(v) for v in value] if isinstance(value, list) else value


def digest(path: Path) -> str:
    """Return a hash of a file's content, without what a clock measured."""
    content = path.read_bytes()
    if path.suffix == ".json":
        content = json.dumps(without_measured(json.loads(content)), sort_keys=True).encode()
    elif path.suffix == ".csv":
        rows = list(csv.DictReader(io.StringIO(content.decode())))
        content = json.dumps([without_measured(row) for row in rows]).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def snapshot(commit: str) -> dict[str, str]:
    """Return file → hash of all outputs that a clone of `commit` makes."""
    with tempfile.TemporaryDirectory(prefix="outputs-") as name:
        clone = Path(name, "clone")
        subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
        subprocess.run(["git", "checkout", "-q", commit], cwd=clone, check=True)
        kept = {
            k: v for k, v in os.environ.items() if not k.startswith(("FROSTLINE", "MLFLOW", "DVC", "PYTHON"))
        }
        for words in (("scripts/reproduce",), *((".venv/bin/frostline", *words) for words in COMMANDS)):
            print(" ".join(words), flush=True)
            Path(clone, "exported").mkdir(exist_ok=True)
            run = subprocess.run(words, cwd=clone, env=kept, capture_output=True, text=True)
            if run.returncode:
                raise SystemExit(f"{commit}: {' '.join(words)}: {run.stderr[-2000:]}")
        files = (path for top in OUTPUTS for path in sorted((clone / top).rglob("*")) if path.is_file())
        return {str(path.relative_to(clone)): digest(path) for path in files}


def compare(before: dict[str, str], after: dict[str, str]) -> int:
    """Print what differs; return the number of files that do."""
    states = {
        "only before": before.keys() - after.keys(),
        "only after": after.keys() - before.keys(),
        "differs": {name for name in before.keys() & after.keys() if before[name] != after[name]},
    }
    for state, names in states.items():
        for name in sorted(names):
            print(f"{state}: {name}")
    equal = len(before.keys() & after.keys()) - len(states["differs"])
    print(f"{equal} files are equal")
    return sum(map(len, states.values()))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    action = actions.add_parser("snapshot", help="run a commit and store the hashes of its outputs")
    action.add_argument("commit")
    action.add_argument("file", type=Path)
    action = actions.add_parser("compare", help="print the files that differ")
    action.add_argument("before", type=Path)
    action.add_argument("after", type=Path)
    options = parser.parse_args()
    if options.action == "compare":
        return compare(json.loads(options.before.read_text()), json.loads(options.after.read_text())) > 0
    options.file.write_text(json.dumps(snapshot(options.commit), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
