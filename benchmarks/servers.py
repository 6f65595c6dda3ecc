"""What a command waits for at its end when the MLflow server fails, and whether any record is lost.

    .venv/bin/python -m benchmarks.servers      five minutes; writes results/servers.json

A process records epochs through frostline's tracker in a real `mlflow server` behind a proxy that fails on
purpose. Then `frostline sync` delivers what is pending, and the rows in the server's database are counted.
"""

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.flaky import Proxy, mlflow_server

from benchmarks import rivals

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "servers.json"
OUTAGE_SECONDS = 15.0
SETTLE_SECONDS = 3.0
"""From the first row in the server to the failure."""
TRAINING = """
import sys, time
from frostline.tracking.tracker import JournalTracker
from frostline.training.services import RunInfo as Info

epochs, seconds = int(sys.argv[1]), float(sys.argv[2])
dataset = {"name": "digits", "kind": "digits", "fingerprint": "ab12" * 16}
tracker, calls = JournalTracker(), []
with tracker.run(Info("run", "finetune", "study", {"seed": 0}, dataset, "training", {"seed": "0"}, 0)) as run:
    for epoch in range(epochs):
        begun = time.monotonic()
        run.log_epoch({"epoch": epoch, "step": epoch, "val/loss": 1.0})
        calls.append(time.monotonic() - begun)
        time.sleep(seconds)
begun = time.monotonic()
tracker.close()
print(time.monotonic() - begun, max(calls))
"""


@dataclass(frozen=True)
class Failure:
    """How the server fails."""

    title: str
    mode: str = "pass"
    delay: float = 0.0
    """Seconds before each answer."""
    outage: bool = False
    """Whether it ends during the training."""
    epochs: int = 100


FAILURES = (
    Failure("healthy"),
    Failure("takes 20 ms for each answer", delay=0.02),
    Failure("takes 100 ms for each answer", delay=0.1),
    Failure("takes 2 s for each answer", delay=2.0),
    Failure("refuses connections", "refuse"),
    Failure("answers 500", "error"),
    Failure("accepts and never answers", "hang"),
    Failure("is unreachable for 15 s during training", "refuse", outage=True, epochs=250),
)


def recorded(database: Path) -> tuple[int, str]:
    """Return the number of epochs that the server has, and the status of the run."""
    with closing(sqlite3.connect(database)) as store:
        select = "SELECT count(DISTINCT step) FROM metrics WHERE key = 'val/loss'"
        (epochs,) = store.execute(select).fetchone()
        status = store.execute("SELECT status FROM runs WHERE name = 'run·s0'").fetchone()
        return int(epochs), status[0] if status else "missing"


def measured(failure: Failure, seconds: float) -> dict[str, float]:
    """Train beside one failure; return the seconds waited and the rows before and after `frostline sync`."""
    with tempfile.TemporaryDirectory() as name:
        server, folder = Path(name, "server"), Path(name, "project")
        server.mkdir()
        folder.mkdir()
        with mlflow_server(Path(sys.executable), server) as port:
            proxy = Proxy(port)
            proxy.delay = failure.delay
            settings = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "FROSTLINE"))}
            settings |= {"MLFLOW_TRACKING_URI": proxy.uri, "PYTHONPATH": str(ROOT / "src")}
            words = [sys.executable, "-P", "-c", TRAINING, str(failure.epochs), str(seconds)]
            begun = time.monotonic()
            training = subprocess.Popen(
                words, cwd=folder, env=settings, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            if failure.mode != "pass":
                while not recorded(server / "team.db")[0] and training.poll() is None:
                    time.sleep(0.05)
                time.sleep(SETTLE_SECONDS)
                proxy.becomes(failure.mode)
                if failure.outage:
                    time.sleep(OUTAGE_SECONDS)
                    proxy.becomes("pass")
            out, _ = training.communicate(timeout=300)
            duration = time.monotonic() - begun
            waited, longest = map(float, out.split())
            before, status = recorded(server / "team.db")
            proxy.delay = 0.0
            proxy.becomes("pass")
            subprocess.run(
                [sys.executable, "-m", "frostline", "sync"],
                cwd=folder,
                env=settings,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            proxy.close()
            epochs, status_after = recorded(server / "team.db")
            return {
                "run_seconds": duration - waited,
                "waited_seconds": waited,
                "longest_call_seconds": longest,
                "missing_epochs": failure.epochs - before,
                "finished": status == "FINISHED",
                "missing_epochs_after_sync": failure.epochs - epochs,
                "finished_after_sync": status_after == "FINISHED",
            }


def state(row: dict[str, Any], when: str = "") -> str:
    missing = row[f"missing_epochs{when}"]
    if row[f"finished{when}"] and not missing:
        return "complete"
    return f"{missing:.0f} epochs pending" if missing else "its end is pending"


def table(results: dict[str, dict[str, Any]]) -> str:
    titles = ("server", "wait at the end", "longest call", "run in MLflow", "after `frostline sync`")
    lines = [f"| {' | '.join(titles)} |", "| --- | ---: | ---: | --- | --- |"]
    for title, row in results.items():
        wait = f"{row['waited_seconds']:.2f} s of {row['run_seconds']:.0f} s"
        longest = f"{row['longest_call_seconds'] * 1000:.1f} ms"
        lines.append(f"| {title} | {wait} | {longest} | {state(row)} | {state(row, '_after_sync')} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the median is shown")
    parser.add_argument("--epoch-seconds", type=float, default=0.2, help="the time between two records")
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    for failure in FAILURES:
        runs = [measured(failure, options.epoch_seconds) for _ in range(options.repeats)]
        results[failure.title] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(table({failure.title: results[failure.title]}).splitlines()[-1], flush=True)
    machine = rivals.machine(("mlflow",))
    RESULTS.write_text(json.dumps({"machine": machine, "servers": results}, indent=2) + "\n")
    print(f"\n{table(results)}")


if __name__ == "__main__":
    main()
