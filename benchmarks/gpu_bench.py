"""What the checks of `gpu_checks` share: runs of frostline on a device, and what is read from them."""

import contextlib
import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from frostline.config import compose
from frostline.console.progress import no_progress
from frostline.data.reading import sources
from frostline.data.reading.sources import ArraySource
from frostline.pipeline import standalone
from frostline.pipeline.pretrain import stage
from frostline.training import run as training_run
from frostline.training import trainer
from frostline.training.module import Classifier

MOVED = 0.005
"""By how much training has to change a loss, for a comparison to say something."""
DIGITS = ("mnist5k", "digits")


class Stopped(Exception):
    """Ends a run in the middle, as a signal would."""


@dataclass
class Bench:
    """Runs frostline's commands on one device, each check in a folder of its own."""

    device: str
    data: str | None = None
    """The file that `write_digits` wrote; None: the digits of installed packages."""
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="check-")))

    @property
    def tiny(self) -> bool:
        """Whether this is a rehearsal."""
        return self.device == "cpu"

    @property
    def words(self) -> list[str]:
        """Overrides of all runs but the default study's: some epochs of a small ResNet on few digits."""
        size, shots = ("32", "5") if self.tiny else ("64", "50")
        return [
            *("dataset=digits", f"dataset.shots={shots}", "weights=none", "backbone=resnet10t"),
            *(f"input.size={size}", "input.channels=1", "trainer.epochs=3", "trainer.batch_size=20"),
            *("trainer.threads=1", "optimizer.lr=1e-3", "trainer.monitor=val/loss"),
            f"trainer.device={self.device}",
        ]

    def run(self, place: str, *words: str) -> Path:
        """Fine-tune in a folder of this check's, with caches of its own; return the results' folder."""
        project = self.folder / place
        project.mkdir(exist_ok=True)
        with contextlib.chdir(project):
            composed, choices = compose.experiment(words)
            return (project / standalone.Job("finetune")(composed, choices).out).resolve()


# ── runs that are stopped or timed, or use other data ───────────────────────────────────────────────────


@contextlib.contextmanager
def replaced(holder: Any, **values: Any) -> Iterator[None]:
    """Let attributes of an object have other values while the block runs."""
    before = {name: getattr(holder, name) for name in values}
    for name, value in values.items():
        setattr(holder, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(holder, name, value)


@contextlib.contextmanager
def counted(stop: int | None = None) -> Iterator[list[int]]:
    """Count the optimizer steps of runs, and stop after so many; each step may write a checkpoint.

    Raises:
        Stopped: after `stop` steps.
    """
    steps: list[int] = []
    step = Classifier._step

    def counting(self: Classifier, *arguments: Any) -> None:
        if stop is not None and len(steps) == stop:
            raise Stopped
        step(self, *arguments)
        steps.append(len(steps))

    always = {"SAVE_EVERY_SECONDS": 0.0, "SAVE_INSIDE_SECONDS": 0.0, "SAVE_SHARE": math.inf}
    with replaced(Classifier, _step=counting), replaced(trainer, **always):
        yield steps


def timed(run: Callable[[], Path]) -> tuple[float, Path]:
    """Return the seconds of a run's training, as it tells MLflow, and the run's folder."""
    found: list[float] = []
    train = training_run.train

    def telling(*arguments: Any) -> dict[str, Any]:
        timing = train(*arguments)
        found.append(timing["train_seconds"])
        return timing

    with replaced(stage, train=telling):
        out = run()
    (seconds,) = found
    return seconds, out


def give(name: str, source: ArraySource) -> None:
    """Let a data set be this one from now on."""
    sources.SOURCES[name] = lambda dataset, progress: source


def give_digits(path: str | None) -> None:
    """Let the data sets of digits come from the file that `write_digits` wrote; None: from their packages."""
    if path is None:
        return
    with np.load(path) as found:
        for name in DIGITS:
            images, labels = found[f"{name}_images"], found[f"{name}_labels"]
            give(name, ArraySource(images, labels, tuple("0123456789")))


def write_digits(path: str) -> None:
    """Write the data sets of digits to a file: the packages that have them need others, which are large."""
    found = {name: sources.SOURCES[name](None, no_progress) for name in DIGITS}
    images = {f"{name}_images": source.images for name, source in found.items()}
    labels = {f"{name}_labels": source.labels for name, source in found.items()}
    np.savez_compressed(path, **images, **labels)


# ── what a run wrote ────────────────────────────────────────────────────────────────────────────────────


def accuracy(out: Path) -> float:
    """Return a run's accuracy on the test split."""
    found: dict[str, dict[str, float]] = json.loads((out / "metrics.json").read_text())
    return found["test"]["accuracy"]


def training_json(out: Path) -> dict[str, Any]:
    """Return a run's training.json."""
    found: dict[str, Any] = json.loads((out / "training.json").read_text())
    return found


def losses(out: Path) -> list[float]:
    """Return the validation losses of a run's epochs."""
    header, *rows = (out / "history.csv").read_text().splitlines()
    column = header.split(",").index("val/loss")
    return [float(row.split(",")[column]) for row in rows]


def same_bytes(a: Path, b: Path) -> str:
    """Return the short hash of two runs' weights, which are the same, as are the curves.

    Raises:
        AssertionError: they differ, or training has not made them.
    """
    for name in ("weights.safetensors", "history.csv"):
        one, other = ((out / name).read_bytes() for out in (a, b))
        assert one == other, f"{name} differs; validation losses {losses(a)} and {losses(b)}"
    assert training_json(a)["best_epoch"], (
        f"the weights are those of the start; validation losses {losses(a)}"
    )
    return hashlib.sha256((a / "weights.safetensors").read_bytes()).hexdigest()[:12]


def near(a: Path, b: Path, share: float) -> str:
    """Return the last validation losses of two runs, which differ by no more than a share of themselves.

    Raises:
        AssertionError: they do, or training has not changed them.
    """
    start, *_, one = losses(a)
    other = losses(b)[-1]
    assert abs(one - start) >= MOVED, f"training changed next to nothing: validation losses {losses(a)}"
    close = abs(one - other) <= share * max(abs(other), 0.1)
    assert close, f"validation losses {losses(a)} and {losses(b)}"
    return f"validation loss {one:.4f} and {other:.4f}"
