"""What a sweep costs beside its training, and what is left of one that is killed ten times.

    .venv/bin/python -m benchmarks.sweep          an hour on quiet cores; writes results/sweeps.json
    .venv/bin/python -m benchmarks.sweep --costs  the first part alone
    .venv/bin/python -m benchmarks.sweep --kills  the second part alone

The first part: UCI digits at 32 px, ResNet-10-T from random weights, one thread; 64 linear probes that
differ in their learning rate, and 16 full fine-tunings. The same sweep is written for Hydra's basic launcher
and as an Optuna script, both over plain Lightning; all record into an empty MLflow store in SQLite. What is
measured is the whole command. frostline measures each trial's best network on three splits as well, which
the others leave out.

What one more trial takes is measured with a quarter of the trials beside all of them. Beside training it is
that less what a loop without anything around it takes for one more full fine-tuning, start and end validated
and measured alike; of linear probes, which no loop trains at once, less the seconds of their training.

The second part: 64 small trials, by `grid` and by `random`. The command is killed with SIGKILL at ten random
moments, its process group and all, and started again; its trials are held against those of a sweep that was
left alone.
"""

import csv
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks import rivals

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "sweeps.json"
WORKS: dict[str, dict[str, Any]] = {
    "64 linear probes": {"trials": 64, "probe": True, "epochs": 5},
    "16 full fine-tunings": {"trials": 16, "probe": False, "epochs": 3},
}
ARMS = ("frostline", "Hydra and Lightning", "Optuna and Lightning")
BARE = "a bare loop"
REPEATS, OF_RIVALS = 3, 1
KILLS, KILLED_TRIALS = 10, 64
DATA = ["dataset=digits", "source=digits", "weights=none", "trainer.threads=1"]


def rates(count: int) -> list[float]:
    """Learning rates from 1e-4 to 1e-1, evenly by their logarithm."""
    return [float(f"{10 ** (-4 + 3 * i / (count - 1)):.4g}") for i in range(count)]


def command(arm: str, work: dict[str, Any], folder: Path) -> list[str]:
    tried = rates(work["trials"])
    listed = ",".join(map(str, tried))
    store = folder / "mlflow.db"
    if arm == "frostline":
        words = [
            *DATA,
            "backbone=resnet10t",
            "input.size=32",
            "trainer.batch_size=64",
            "trainer.precision=fp32",
        ]
        words += ["freeze=linear_probe" if work["probe"] else "freeze=full", "optimizer=adamw"]
        words += [f"optimizer.lr={listed}", f"trainer.epochs={work['epochs']}"]
        return [sys.executable, "-m", "frostline", "finetune", "-m", *words]
    if arm == "Hydra and Lightning":
        words = [f"lr={listed}", f"probe={work['probe']}", f"epochs={work['epochs']}", f"store={store}"]
        return [sys.executable, "-m", "benchmarks.peers.hydra_sweep", "-m", *words]
    given = {"rates": tried, "store": str(store), **work}
    if arm == BARE:
        return [sys.executable, "-m", "benchmarks.peers.bare_trials", json.dumps(given)]
    return [sys.executable, "-m", "benchmarks.peers.optuna_sweep", json.dumps(given)]


def settings() -> dict[str, str]:
    """The environment of a command: this checkout's code, one thread, nothing of the user's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "FROSTLINE", "HYDRA"))}
    return {
        **kept,
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }


def measured(arm: str, work: dict[str, Any]) -> dict[str, float]:
    """Run a sweep in an empty folder; return its seconds, and those of its training if it records them."""
    with tempfile.TemporaryDirectory(prefix="sweep-") as name:
        folder = Path(name)
        begun = time.perf_counter()
        done = subprocess.run(
            command(arm, work, folder), cwd=folder, env=settings(), capture_output=True, text=True
        )
        seconds = time.perf_counter() - begun
        if done.returncode:
            raise SystemExit(f"{arm}: {done.stderr[-2000:]}")
        if arm == BARE:
            return {"seconds": seconds, "train_seconds": 0.0}
        with closing(sqlite3.connect(folder / "mlflow.db")) as store:
            runs = """SELECT count(*) FROM runs WHERE status = 'FINISHED'
                AND run_uuid IN (SELECT run_uuid FROM metrics)"""
            count = store.execute(runs).fetchone()[0]
            trained = store.execute(
                "SELECT total(value) FROM metrics WHERE key = 'train_seconds'"
            ).fetchone()[0]
        assert count >= work["trials"], f"{arm}: {count} runs"
        return {"seconds": seconds, "train_seconds": trained}


def costs() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, work in WORKS.items():
        fewer = {**work, "trials": work["trials"] // 4}
        both = ("frostline",) if work["probe"] else ("frostline", BARE)
        tasks = [(arm, work) for arm in (*ARMS, *both[1:])] + [(arm, fewer) for arm in both]
        runs: dict[tuple[str, int], list[dict[str, float]]] = {}
        for repeat in range(REPEATS):
            for arm, given in tasks:
                if arm in ARMS[1:] and repeat >= OF_RIVALS:
                    continue
                one = measured(arm, given)
                runs.setdefault((arm, given["trials"]), []).append(one)
                print(f"{name}, {repeat + 1}: {arm}, {given['trials']}: {one['seconds']:.1f} s", flush=True)
        medians = {
            key: statistics.median(each["seconds"] for each in repeats) for key, repeats in runs.items()
        }
        ours = medians["frostline", work["trials"]]
        rows: dict[str, dict[str, Any]] = {}
        for arm, given in tasks[: len(tasks) - len(both)]:
            key = arm, given["trials"]
            rows[arm] = {"seconds": round(medians[key], 1), "ratio": round(medians[key] / ours, 2)}
            rows[arm]["all_seconds"] = [round(each["seconds"], 1) for each in runs[key]]
        more = {
            arm: (medians[arm, work["trials"]] - medians[arm, fewer["trials"]])
            / (work["trials"] - fewer["trials"])
            for arm in both
        }
        trained = statistics.median(each["train_seconds"] for each in runs["frostline", work["trials"]])
        beside = more["frostline"] - more.get(BARE, trained / work["trials"])
        for arm, seconds in more.items():
            rows[arm]["one_more_trial_s"] = round(seconds, 3)
        rows["frostline"]["beside_training_s_a_trial"] = round(beside, 3)
        found[name] = rows
    return found


def kills() -> dict[str, Any]:
    found = {}
    for sampler in ("grid", "random"):
        words = [
            *DATA,
            "backbone=mlp",
            "backbone.hidden=[16]",
            "input.size=8",
            "trainer.epochs=8",
            f"sweep={sampler}",
        ]
        words += [
            "sweep.name=killed",
            f"sweep.trials={KILLED_TRIALS}",
            "freeze=full,linear_probe",
            "seed=0,1",
        ]
        words.append("optimizer.lr=" + ",".join(map(str, rates(KILLED_TRIALS // 4))))
        program = [sys.executable, "-m", "frostline", "finetune", "-m", *words]
        quiet: dict[str, Any] = {
            "env": {**settings(), "FROSTLINE_TRACKING": "off"},
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
        }
        draw, done = random.Random(sampler), 0
        with (
            tempfile.TemporaryDirectory(prefix="whole-") as whole,
            tempfile.TemporaryDirectory(prefix="killed-") as killed,
        ):
            subprocess.run(program, cwd=whole, check=True, **quiet)
            while done < KILLS:
                with subprocess.Popen(program, cwd=killed, start_new_session=True, **quiet) as process:
                    try:
                        process.wait(draw.uniform(1.0, 9.0))
                    except subprocess.TimeoutExpired:
                        os.killpg(process.pid, signal.SIGKILL)
                        done += 1
                    else:
                        break
            subprocess.run(program, cwd=killed, check=True, **quiet)
            expected, table = trials(Path(whole)), trials(Path(killed))
            points = [key for key, row in table if row["state"] == "complete"]
            found[sampler] = {
                "kills": done,
                "complete": len(points),
                "duplicates": len(points)
                - len(set(points))
                - (len(expected) - len({key for key, _ in expected})),
                "same_best": best(table) == best(expected),
                "same_trials": sorted(key for key, _ in table) == sorted(key for key, _ in expected),
            }
        print(sampler, found[sampler], flush=True)
    return found


def trials(folder: Path) -> list[tuple[str, dict[str, str]]]:
    """Each row of a sweep's table by its settings."""
    with (folder / "runs/sweeps/killed/trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return [(json.dumps([row["freeze"], row["seed"], row["optimizer.lr"]]), row) for row in rows]


def best(table: list[tuple[str, dict[str, str]]]) -> tuple[float, str]:
    return max((float(row["val/accuracy"]), key) for key, row in table if row["state"] == "complete")


def main() -> None:
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if "--kills" not in sys.argv:
        known |= {"machine": rivals.machine(("torch", "pytorch-lightning", "hydra-core", "optuna", "mlflow"))}
        known |= {"repeats": {"frostline, bare": REPEATS, "others": OF_RIVALS}, "costs": costs()}
    if "--costs" not in sys.argv:
        known["kills"] = kills()
    RESULTS.write_text(json.dumps(known, indent=2) + "\n")
    print(json.dumps(known, indent=2))


if __name__ == "__main__":
    main()
