"""`python -m benchmarks.defaults`: run all in worker processes, and append a line of JSON as each run ends.

Runs whose line is there are skipped, so that the command may be stopped and repeated.
"""

import argparse
import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from benchmarks.defaults import plan, runs, table

RESULTS, PRETRAININGS = "runs.jsonl", "pretrainings.jsonl"
POLL_SECONDS = 0.5
IMPORTED = [
    *("torch", "torchvision", "timm", "pytorch_lightning", "fastai.learner", "fastai.callback.schedule"),
    *("frostline.config.stage_configs", "frostline.evaluation.evaluate", "frostline.pipeline.standalone"),
    *("frostline.training.run", "benchmarks.defaults.runs"),
]
"""What worker processes use; fastai may be missing."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 1 if a run failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.defaults", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", type=Path, help="folder of the data sets (.npz)")
    parser.add_argument(
        "--packages", type=Path, help="write the data sets from the packages in this folder; run nothing"
    )
    parser.add_argument("--out", type=Path, default=Path("defaults"), help="folder of the results")
    parser.add_argument("--work", type=Path, help="folder for caches; default: OUT/work")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--seeds", type=int, default=plan.SEEDS)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no run later than this")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="runs that have all these words in their key"
    )
    parser.add_argument(
        "--keys", type=Path, metavar="FILE", help="runs whose keys are the lines of this file, in its order"
    )
    parser.add_argument("--list", action="store_true", help="print the keys of the runs; run nothing")
    parser.add_argument("--table", type=Path, metavar="RUNS", help="print tables of results; run nothing")
    options = parser.parse_args(words)
    if options.table:
        results = table.read(options.table)
        tables = (table.accuracies, table.losses, table.by_cell, table.left_out)
        print(*(table.markdown(rows(results)) for rows in tables), sep="\n\n")
        return 0
    chosen = [
        trial
        for trial in plan.trials(options.seeds)
        if all(word in trial.key.split(" · ") for word in options.only)
    ]
    if options.keys:
        by_key = {trial.key: trial for trial in chosen}
        keys = options.keys.read_text(encoding="utf-8").splitlines()
        if unknown := next((key for key in keys if key not in by_key), None):
            parser.error(f"--keys: no run has the key {unknown}; --list prints the keys, --seeds adds seeds")
        chosen = [by_key[key] for key in keys]
    if options.list:
        print("\n".join(trial.key for trial in chosen))
        return 0
    if not options.data:
        parser.error("--data: name the folder of the data sets")
    if options.packages:
        from benchmarks.defaults import data

        data.write(options.data, options.packages)
        return 0
    return _run_all(chosen, options)


def _run_all(chosen: Sequence[plan.Trial], options: argparse.Namespace) -> int:
    work = (options.work or options.out / "work").resolve()
    (work / "runs").mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # One process imports all, and the workers are its forks: it has not used the GPU.
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(IMPORTED)
    pool = ProcessPoolExecutor(options.workers, server, runs.begin, (str(work),))
    try:
        failed = _Session(chosen, options, work, pool).run()
    finally:
        for process in list(pool._processes.values()):
            process.kill()  # what runs on would only be lost
        pool.shutdown(cancel_futures=True)
    return int(failed > 0)


class _Session:
    """Runs trials until they or the seconds are over; a trial waits for the pretraining it starts from."""

    def __init__(
        self,
        chosen: Sequence[plan.Trial],
        options: argparse.Namespace,
        work: Path,
        pool: ProcessPoolExecutor,
    ) -> None:
        self.out, self.pool, self.workers = options.out.resolve(), pool, options.workers
        self.begun, self.seconds = time.monotonic(), options.seconds
        self.places = (str(options.data.resolve()), str(work / "pretrained"), options.device)
        there = {row["key"] for row in _lines(self.out / RESULTS) if "error" not in row}
        self.waiting = [trial for trial in chosen if trial.key not in there]
        self.pending = sorted({trial.weights for trial in self.waiting if trial.weights})
        self.ready: set[str | None] = {None}
        self.running: dict[Future[dict[str, Any]], plan.Trial | str] = {}
        print(f"{len(self.waiting)} runs, {len(there)} there already, {self.workers} processes", flush=True)

    def run(self) -> int:
        """Return how many failed."""
        done = failed = 0
        while self._start() and self._passed() < self.seconds:
            ended, _ = wait(self.running, POLL_SECONDS, FIRST_COMPLETED)
            for future in ended:
                what, found = self.running.pop(future), future.result()
                if isinstance(what, str):
                    self.ready.add(what)
                    _append(self.out / PRETRAININGS, found)
                    said = f"pretrained on {what}: test {found['test']:.3f}"
                else:
                    _append(self.out / RESULTS, {**plan.row(what), "device": self.places[-1], **found})
                    done, failed = done + 1, failed + ("error" in found)
                    said = f"{what.key}: {found.get('error') or format(found['test'], '.3f')}"
                print(f"{self._passed():6.1f} {found['seconds']:6.1f} s  {said}", flush=True)
        print(f"{done} runs in {self._passed():.0f} s, {failed} failed; {self.out / RESULTS}", flush=True)
        return failed

    def _start(self) -> bool:
        """Give each process something to do; return whether anything runs."""
        while len(self.running) < self.workers:
            if self.pending:
                source = self.pending.pop(0)
                self.running[self.pool.submit(runs.pretrain, source, *self.places)] = source
                continue
            trial = next((trial for trial in self.waiting if trial.weights in self.ready), None)
            if trial is None:
                break
            self.waiting.remove(trial)
            self.running[self.pool.submit(runs.run, trial, *self.places)] = trial
        return bool(self.running)

    def _passed(self) -> float:
        return time.monotonic() - self.begun


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def _append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    sys.exit(main())
