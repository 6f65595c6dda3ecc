"""The same faults on frostline and on a careful script of plain Lightning, MLFlowLogger and DVC.

    .venv/bin/python -m benchmarks.faults              half an hour; writes results/faults.json
    .venv/bin/python -m benchmarks.faults --repeats 2  fewer of each

Both train ResNet-10-T from random weights on UCI digits at 32 px, twelve epochs, one thread, and record each
epoch in MLflow; the script is benchmarks/peers/lightning_run.py. Each fault happens in an empty folder, at
the same share of an undisturbed run's seconds, or once the first checkpoint is there; then the same command
is given once more.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from tests.flaky import free_port, mlflow_server

from benchmarks import rivals

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "faults.json"
EPOCHS = 12
LOCAL = "sqlite:///mlflow.db"
OURS, THEIRS = "frostline", "Lightning, MLFlowLogger, DVC"
OUTAGE_SECONDS = 15.0
ORPHAN_SECONDS = 10.0
"""How long after its `dvc repro` was killed a training that still runs counts as an orphan."""
TIMEOUT = 900


@dataclass(frozen=True)
class Side:
    """One of the two that are compared."""

    name: str
    checkpoints: str
    """A pattern of the files that a run resumes from."""

    def words(self, uri: str = LOCAL) -> list[str]:
        if self.name == THEIRS:
            given = json.dumps({"epochs": EPOCHS, "uri": uri})
            return [sys.executable, "-m", "benchmarks.peers.lightning_run", given]
        return [
            *(sys.executable, "-m", "frostline", "finetune", "dataset=digits", "weights=none"),
            *("backbone=resnet10t", "input.size=32", "freeze=full", "optimizer=adamw", "optimizer.lr=1e-3"),
            *(f"trainer.epochs={EPOCHS}", "trainer.batch_size=64", "trainer.threads=1", "out=run"),
        ]

    def start(self, folder: Path, uri: str = LOCAL, words: list[str] | None = None) -> subprocess.Popen[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "FROSTLINE", "DVC"))}
        settings = {
            **kept,
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
        }
        if self.name == OURS and uri != LOCAL:
            settings["MLFLOW_TRACKING_URI"] = uri
        return subprocess.Popen(
            words or self.words(uri),
            cwd=folder,
            env=settings,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, folder: Path, uri: str = LOCAL) -> tuple[int, str]:
        with self.start(folder, uri) as process:
            _, errors = process.communicate(timeout=TIMEOUT)
        return process.returncode, errors

    def killed(self, folder: Path, wait: Callable[[], bool]) -> None:
        """Kill a run and all that it started once `wait` returns true."""
        with self.start(folder) as process:
            while process.poll() is None and not wait():
                time.sleep(0.01)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def has_checkpoint(self, folder: Path) -> Callable[[], bool]:
        return lambda: any(folder.glob(self.checkpoints))


SIDES = (Side(OURS, ".frostline/resume/*/*.ckpt"), Side(THEIRS, "checkpoints/last.ckpt"))


def outputs(folder: Path) -> dict[str, bytes]:
    return {
        name: path.read_bytes()
        for name in ("weights.safetensors", "metrics.json")
        if (path := folder / "run" / name).is_file()
    }


def statuses(folder: Path) -> list[str]:
    """Return the status of each run in MLflow that has epochs."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        rows = store.execute(
            "SELECT status FROM runs WHERE run_uuid IN (SELECT run_uuid FROM metrics) ORDER BY start_time"
        )
        return [status for (status,) in rows]


@contextmanager
def empty_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        yield Path(name)


def undisturbed(side: Side) -> tuple[float, dict[str, bytes]]:
    """Return the seconds and outputs of a run, and check that a second one gives the same bytes."""
    found = []
    for _ in range(2):
        with empty_folder() as folder:
            begun = time.monotonic()
            status, errors = side.run(folder)
            seconds = time.monotonic() - begun
            if status:
                raise SystemExit(f"{side.name}: {errors[-2000:]}")
            found.append((seconds, outputs(folder)))
    assert found[0][1] == found[1][1], f"{side.name}: two runs give different bytes"
    return found[1]


def after_kill(side: Side, seconds: float, expected: dict[str, bytes], share: float) -> dict[str, bool]:
    """Kill a run after a share of its seconds, give the command again."""
    with empty_folder() as folder:
        begun = time.monotonic()
        side.killed(folder, lambda: time.monotonic() - begun > share * seconds)
        status, _ = side.run(folder)
        ended = statuses(folder)
        return {
            "killed: the next command ends well": status == 0,
            "killed: same weights and metrics as undisturbed": outputs(folder) == expected,
            "killed: no run stays RUNNING in MLflow": "RUNNING" not in ended,
        }


def after_damage(side: Side, expected: dict[str, bytes], kind: str) -> dict[str, bool]:
    """Damage the checkpoint of a killed run, give the command again."""
    with empty_folder() as folder:
        side.killed(folder, side.has_checkpoint(folder))
        for path in folder.glob(side.checkpoints):
            content = bytearray(path.read_bytes())
            if kind == "truncated":
                content = content[: len(content) // 2]
            else:
                content[len(content) // 2] ^= 64
            path.write_bytes(content)
        status, errors = side.run(folder)
        said = status == 0 and "Traceback" not in errors
        same = outputs(folder) == expected
        return {
            f"checkpoint {kind}: the next command ends well": said,
            f"checkpoint {kind}: same weights and metrics": same,
        }


def orphaned(side: Side) -> dict[str, bool]:
    """Kill `dvc repro` in its training; look whether the training runs on."""
    with empty_folder() as folder:
        command = " ".join(f"'{word}'" for word in side.words())
        kept = [{"checkpoints": {"persist": True}}] if side.name == THEIRS else []
        stage = {"cmd": command, "outs": ["run", *kept]}
        (folder / "dvc.yaml").write_text(json.dumps({"stages": {"train": stage}}))
        dvc = str(Path(sys.executable).parent / "dvc")
        for words in (["git", "init", "-q"], [dvc, "init", "-q"]):
            subprocess.run(words, cwd=folder, check=True, capture_output=True)
        process = side.start(folder, words=[dvc, "repro", "-q"])
        there = side.has_checkpoint(folder)
        while process.poll() is None and not there():
            time.sleep(0.02)
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
        time.sleep(ORPHAN_SECONDS)
        left = [each for each in psutil.process_iter(["cwd"]) if each.info["cwd"] == str(folder)]
        for each in left:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(left, 10)
        return {"dvc repro killed: no training runs on": not left}


def after_outage(side: Side) -> dict[str, bool]:
    """Take the MLflow server away for a while in the middle of a run; look what it has in the end."""
    with empty_folder() as folder, empty_folder() as place:
        port = free_port()
        uri, python = f"http://127.0.0.1:{port}", Path(sys.executable)
        with mlflow_server(python, place, port=port):
            process = side.start(folder, uri)
            there = side.has_checkpoint(folder)
            while process.poll() is None and not there():
                time.sleep(0.02)
        time.sleep(OUTAGE_SECONDS)
        with mlflow_server(python, place, port=port):
            _, errors = process.communicate(timeout=TIMEOUT)
            if side.name == OURS:  # what its message says to do, if it says so
                words = [sys.executable, "-m", "frostline", "sync"]
                with side.start(folder, uri, words) as sync:
                    sync.communicate(timeout=TIMEOUT)
        done = process.returncode == 0
        with closing(sqlite3.connect(place / "team.db")) as store:
            (points,) = store.execute(
                "SELECT count(DISTINCT step) FROM metrics WHERE key = 'val/accuracy'"
            ).fetchone()
            ended = [status for (status,) in store.execute("SELECT status FROM runs")]
        if not done:
            print(f"{side.name}: {errors.strip().splitlines()[-1:]}", flush=True)
        return {
            "server gone for 15 s: the run succeeds": done,
            "server gone for 15 s: no epoch is missing in MLflow": points >= EPOCHS,
            "server gone for 15 s: its run is FINISHED": "FINISHED" in ended and "RUNNING" not in ended,
        }


def measured(repeats: int) -> dict[str, dict[str, list[bool]]]:
    """Return, by promise and side, whether it held each time."""
    found: dict[str, dict[str, list[bool]]] = {}
    draw = random.Random(0)
    shares = [draw.uniform(0.3, 0.95) for _ in range(repeats)]
    for side in SIDES:
        seconds, expected = undisturbed(side)
        print(f"{side.name}: {seconds:.1f} s undisturbed", flush=True)
        faults: list[Callable[[], dict[str, bool]]] = []
        faults += [partial(after_kill, side, seconds, expected, share) for share in shares]
        fewer = max(1, repeats // 3)
        for kind in ("truncated", "with one bit flipped"):
            faults += [partial(after_damage, side, expected, kind)] * fewer
        faults += [partial(orphaned, side), partial(after_outage, side)] * fewer
        for fault in faults:
            for promise, held in fault().items():
                found.setdefault(promise, {}).setdefault(side.name, []).append(held)
                print(f"{side.name}: {promise}: {'yes' if held else 'NO'}", flush=True)
    return found


def table(counts: dict[str, dict[str, Any]]) -> str:
    rows = ["| after the fault | " + " | ".join(side.name for side in SIDES) + " |", "| --- | ---: | ---: |"]
    for promise, by_side in counts.items():
        cells = (f"{by_side[side.name]['held']} of {by_side[side.name]['tries']}" for side in SIDES)
        rows.append(f"| {promise} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=6, help="kills; a third of it for each other fault")
    repeats = parser.parse_args().repeats
    found = measured(repeats)
    counts = {
        promise: {name: {"held": sum(held), "tries": len(held)} for name, held in by_side.items()}
        for promise, by_side in found.items()
    }
    machine = rivals.machine(("torch", "pytorch-lightning", "mlflow", "dvc"))
    RESULTS.write_text(json.dumps({"machine": machine, "faults": counts}, indent=2) + "\n")
    print(f"\n{table(counts)}")


if __name__ == "__main__":
    main()
