"""Kill and damage real runs, give the same command again, and compare its output with an undisturbed run.

    python -m tests.faults                      all kinds, 60 points: half an hour on two cores
    python -m tests.faults --points 8 --only kill,damage
    python -m tests.faults --seed 3 --keep DIR  other moments and bytes; keep what failed

Each point works in a project of its own: an image folder of three classes, a pretraining on UCI digits, a
gradual fine-tuning of ResNet-10-T at 32 px with cached features, recorded in SQLite. A point passes when the
next command exits with 0, prints no traceback, and writes every output byte for byte as an undisturbed run.

    kill     SIGKILL, SIGTERM or SIGINT, at random moments and when a stage has just begun
    damage   one cached file is truncated, emptied, overwritten, deleted, or has one bit flipped
    dvc      SIGKILL of `dvc repro` at random moments
"""

import argparse
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from tests import study
from tests.damage import DAMAGE
from tests.imports import SRC

COMMAND = [
    *("finetune", "dataset=image_folder", "dataset.root=photos", "source=digits", "backbone=resnet10t"),
    *("input.size=32", "input.channels=1", "freeze=gradual", "trainer.epochs=8", "trainer.batch_size=8"),
    *("trainer.threads=1", "pretrain.trainer.epochs=1", "pretrain.trainer.threads=1", "weights.head=reset"),
    *("source.shots=10", "out=run"),
]
SIGNALS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
"""With the exit status of a command that each one ends."""
TIMEOUT = 300
STAGES = {
    "at the start": "photos",
    "in prepare": ".frostline/data",
    "in pretraining": ".frostline/resume",
    "in features": ".frostline/features/*",
    "in evaluate": ".frostline/resume/*/done",
}
"""When a command is killed: once a path that matches is there."""
CACHES = {
    "prepared index": ".frostline/data/*/index.csv",
    "prepared images": ".frostline/data/*/images.npy",
    "prepared data's record": ".frostline/data/*/dataset.json",
    "pixels": ".frostline/pixels/*.npy",
    "pretrained weights": ".frostline/pretrain/*/weights.safetensors",
    "pretraining's record": ".frostline/pretrain/*/training.json",
    "features": ".frostline/features/*.safetensors",
    "MLflow's store": "mlflow.db",
}
"""The files that are damaged; a run this short writes no checkpoint: see tests/training/test_run.py."""
LEFTOVER = re.compile(r"\..+\.\w{8}")
"""The name of a temporary file or folder."""


@dataclass
class Outcome:
    """What became of one point."""

    kind: str
    fault: str
    complaints: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Project:
    """A folder with a data set, in which one command is given again and again."""

    folder: Path
    python: Path

    def start(self) -> subprocess.Popen[str]:
        """Start the command in a process group of its own."""
        settings = study.environment(self.folder / "x", PYTHONPATH=str(SRC), FROSTLINE_TRACKING="on")
        words = [str(self.python), "-m", "frostline", *COMMAND]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            words, cwd=self.folder, env=settings, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def run(self) -> tuple[int, str]:
        """Run the command to its end; return its status and what it printed to standard error."""
        with self.start() as process:
            _, errors = process.communicate(timeout=TIMEOUT)
        return process.returncode, errors

    def interrupted(self, number: signal.Signals, wait: Callable[[], bool]) -> tuple[int, str]:
        """Run the command, and send it a signal once `wait` returns true; return status and errors."""
        with self.start() as process:
            while process.poll() is None and not wait():
                time.sleep(0.01)
            if process.poll() is None:
                # SIGKILL takes the recorder along, as a machine that stops does; the others are what a
                # terminal or a scheduler sends.
                (os.killpg if number == signal.SIGKILL else os.kill)(process.pid, number)
            _, errors = process.communicate(timeout=TIMEOUT)
        return process.returncode, errors

    def outputs(self) -> dict[str, bytes]:
        """Return the files of the run's folder."""
        return {path.name: path.read_bytes() for path in sorted((self.folder / "run").glob("*"))}

    def leftovers(self) -> list[str]:
        """Return the temporary files that are still there."""
        found = (path for path in self.folder.rglob(".*") if LEFTOVER.fullmatch(path.name))
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def recorded(self) -> Counter[str]:
        """Return how many fine-tuning runs MLflow has, by status."""
        with closing(sqlite3.connect(f"file:{self.folder / 'mlflow.db'}?mode=ro", uri=True)) as store:
            rows = store.execute(
                "SELECT status FROM runs JOIN tags USING (run_uuid)"
                " WHERE tags.key = 'stage' AND tags.value = 'finetune'"
            )
            return Counter(status for (status,) in rows)


def photos(root: Path) -> None:
    """Write an image folder of three classes, which differ in brightness."""
    draw = np.random.default_rng(0)
    for label, name in enumerate(("ant", "bee", "cat")):
        (root / name).mkdir(parents=True)
        for i in range(12):
            pixels = draw.integers(60 * label, 60 * label + 120, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")


class Faults:
    """Makes each point's project, disturbs it and looks at what the next command does."""

    def __init__(self, root: Path, python: Path, seed: int, keep: Path | None) -> None:
        self.root, self.python, self.keep = root, python, keep
        self.draw = random.Random(seed)
        self.whole = self._project("whole")
        begun = time.monotonic()
        status, errors = self.whole.run()
        if status:
            raise SystemExit(f"the undisturbed run failed with {status}:\n{errors}")
        self.seconds = time.monotonic() - begun
        self.expected = self.whole.outputs()

    def kills(self, points: int) -> Iterator[Outcome]:
        """Kill the command: every second time at a random moment, else when a stage has begun."""
        stages = cycle(STAGES.items())
        for number, i in zip(cycle(SIGNALS), range(points), strict=False):
            project = self._project(f"kill-{i}")
            if i % 2:
                moment = self.draw.uniform(0.05, self.seconds)
                name, wait = "at a random moment", self._after(moment)
            else:
                name, pattern = next(stages)
                wait = self._there(project, pattern)
            outcome = Outcome("kill", f"{number.name} {name}")
            status, errors = project.interrupted(number, wait)
            published = bool(project.outputs())
            # Before Python is up the status is the signal's own, which a shell shows as the same number.
            if status not in (0, SIGNALS[number], -number):
                outcome.complaints.append(f"ended with {status}, not {SIGNALS[number]}")
            if "Traceback" in errors:
                outcome.complaints.append("a traceback when it was killed")
            self._again(project, outcome)
            if not outcome.complaints:
                self._recorded(project, outcome, published)
            yield self._done(project, outcome)

    def damage(self, points: int) -> Iterator[Outcome]:
        """Damage one cached file; every cache and every kind of damage come in turns."""
        pairs = [(cache, harm) for harm in DAMAGE.values() for cache in CACHES]
        self.draw.shuffle(pairs)
        for i, (cache, harm) in enumerate(islice(cycle(pairs), points)):
            project = self._project(f"damage-{i}", copy=True)
            shutil.rmtree(project.folder / "run", ignore_errors=True)
            outcome = Outcome("damage", f"{harm.__name__}: {cache}")
            if not (paths := sorted(project.folder.glob(CACHES[cache]))):
                outcome.complaints.append("nothing to damage")
            for path in paths:
                harm(path, self.draw)
            self._again(project, outcome)
            yield self._done(project, outcome)

    def repros(self, points: int) -> Iterator[Outcome]:
        """Kill `dvc repro` at random moments; wait until its stage has ended too; run it again."""
        words = [str(Path(sys.executable).parent / "dvc"), "repro", "-q"]
        root = self.root / "study" / "clone"
        root.mkdir(parents=True)
        study.clone(root)
        study.run(words, root)
        expected = _tree(root / "artifacts")
        for i in range(points):
            shutil.rmtree(root / "artifacts")
            shutil.rmtree(root / ".frostline", ignore_errors=True)
            shutil.rmtree(root / ".dvc/cache", ignore_errors=True)
            shutil.rmtree(root / ".dvc/tmp", ignore_errors=True)
            outcome = Outcome("dvc", "SIGKILL of dvc repro at a random moment")
            with subprocess.Popen(words, cwd=root, env=study.environment(root)) as process:
                time.sleep(self.draw.uniform(0.5, 20.0))
                process.kill()
            again = study.run(words, root, check=False)
            if again.returncode:
                outcome.complaints.append(
                    f"the next one exits with {again.returncode}: {again.stdout[-300:]}"
                )
            different = [
                name for name, content in expected.items() if _tree(root / "artifacts").get(name) != content
            ]
            if different:
                outcome.complaints.append(f"different: {', '.join(different[:3])}")
            yield outcome
            print(f"dvc {i + 1}/{points}", file=sys.stderr)

    def _project(self, name: str, copy: bool = False) -> Project:
        folder = self.root / name / "project"
        if copy:
            shutil.copytree(self.whole.folder, folder)
        else:
            photos(folder / "photos")
        return Project(folder, self.python)

    def _after(self, seconds: float) -> Callable[[], bool]:
        begun = time.monotonic()
        return lambda: time.monotonic() - begun > seconds

    def _there(self, project: Project, pattern: str) -> Callable[[], bool]:
        return lambda: any(project.folder.glob(pattern))

    def _again(self, project: Project, outcome: Outcome) -> None:
        status, errors = project.run()
        if status:
            outcome.complaints.append(f"the next command exits with {status}: {errors.strip()[-300:]}")
        if "Traceback" in errors:
            outcome.complaints.append("a traceback")
        outputs = project.outputs()
        different = sorted(n for n in {*outputs, *self.expected} if outputs.get(n) != self.expected.get(n))
        if different and not status:
            outcome.complaints.append(f"different: {', '.join(different)}")
        if left := project.leftovers():
            outcome.complaints.append(f"temporary files: {', '.join(left)}")

    def _recorded(self, project: Project, outcome: Outcome, published: bool) -> None:
        """Complain unless there is one finished run, or two where the killed command had its results."""
        counts = project.recorded()
        if not 1 <= counts["FINISHED"] <= 1 + published or counts["RUNNING"]:
            outcome.complaints.append(f"MLflow has {dict(counts)}")

    def _done(self, project: Project, outcome: Outcome) -> Outcome:
        if outcome.complaints and self.keep:
            shutil.copytree(project.folder, self.keep / project.folder.parent.name, symlinks=True)
        shutil.rmtree(project.folder.parent)
        return outcome


def _tree(root: Path) -> dict[str, bytes]:
    """The outputs below `root` but measured seconds, and the report that prints them."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for part in ("data", "pretrain", "finetune", "evaluate")
        for path in sorted((root / part).rglob("*"))
        if path.is_file()
    }


def repeat(kinds: Sequence[str], points: int, seed: int, python: Path, keep: Path | None) -> list[Outcome]:
    """Run `points` points of some kinds; half of them damage, a tenth are of DVC."""
    shares = {"kill": 0.4, "damage": 0.5, "dvc": 0.1}
    total = sum(shares[kind] for kind in kinds)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="faults-") as root:
        faults = Faults(Path(root), python, seed, keep)
        methods = {"kill": faults.kills, "damage": faults.damage, "dvc": faults.repros}
        for kind in kinds:
            for outcome in methods[kind](max(1, round(points * shares[kind] / total))):
                outcomes.append(outcome)
                said = "; ".join(outcome.complaints) or "same bytes"
                print(f"{len(outcomes):3}  {outcome.kind:7} {outcome.fault:45} {said}", flush=True)
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """Return how many points of each kind passed, as Markdown."""
    rows = ["| fault | points | same bytes after one more command |", "| --- | ---: | ---: |"]
    counts = Counter((o.kind, o.fault) for o in outcomes)
    passed = Counter((o.kind, o.fault) for o in outcomes if not o.complaints)
    rows += [
        f"| {kind}: {fault} | {n} | {passed[kind, fault]} |" for (kind, fault), n in sorted(counts.items())
    ]
    rows.append(f"| all | {len(outcomes)} | {sum(passed.values())} |")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--points", type=int, default=60, help="how many faults (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of moments and bytes (default: %(default)s)")
    parser.add_argument("--only", default="kill,damage,dvc", help="kinds, with commas (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="copy the projects of failed points here")
    arguments = parser.parse_args()
    kinds = arguments.only.split(",")
    if unknown := set(kinds) - {"kill", "damage", "dvc"}:
        parser.error(f"--only: no kind {', '.join(sorted(unknown))}; allowed: kill, damage, dvc")
    outcomes = repeat(kinds, arguments.points, arguments.seed, Path(sys.executable), arguments.keep)
    print(f"\n{table(outcomes)}")
    return int(any(outcome.complaints for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
