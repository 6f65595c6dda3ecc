"""Runs competitors in turn, A B C A B C, each a process of its own, and makes figures of their seconds."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks import environments, rivals
from benchmarks.environments import NotMade

ROOT = Path(__file__).parents[1]
THREADS = 2
"""Of every competitor, unless its work says otherwise."""
TIMEOUT = 7200.0
"""Seconds that a competitor may take."""
LAST_WORDS = 200
"""Characters to keep of the last output of a failed competitor."""
FREED_MEMORY_IS_KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
"""As frostline asks glibc by itself; the hand-written loops, which are to be the best, get it, too."""

Result = dict[str, Any]
"""What a competitor printed: seconds, accuracy, … ; or `failed`, a sentence."""
Runs = Mapping[str, Sequence[Result]]
"""Of each arm of a work, its repeats in order."""


@dataclass(frozen=True)
class Arm:
    """A competitor."""

    name: str
    peer: str
    """The module of benchmarks/peers."""
    settings: Mapping[str, Any]
    """That it is given, as JSON."""
    data: Sequence[str] = ()
    """frostline's overrides, whose data and first weights it is given; none: it needs no data."""
    environment: str = "ours"
    shortened: int | None = None
    """Epochs that are measured in repeats after the first, and extrapolated; None: all."""
    always_shortened: bool = False
    """In the first repeat, too."""
    times: int = 1
    """How many such runs the work asks for; one is measured."""
    best: bool = False
    """A hand-written best case: it keeps freed memory, as frostline does."""

    def measured_epochs(self, repeat: int) -> int | None:
        epochs: int | None = self.settings.get("epochs")
        short = self.shortened is not None and (repeat > 0 or self.always_shortened)
        return min(epochs or 1, self.shortened or 1) if short else epochs


@dataclass(frozen=True)
class Target:
    """At least (`≥`) or at most (`≤`) a value."""

    sign: Literal["≥", "≤"]
    value: float

    def met(self, value: float) -> bool:
        return value >= self.value if self.sign == "≥" else value <= self.value


@dataclass(frozen=True)
class Figure:
    """A number of the table: a ratio of two arms of one run, or seconds; the median over the repeats."""

    what: str
    values: Sequence[float]
    """One a repeat; empty: it could not be measured."""
    unit: str = "×"
    target: Target | None = None
    note: str = ""

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    def as_data(self, verdict: bool) -> dict[str, Any]:
        """Return plain data; without a `verdict`, whether the target is met is left open."""
        measured = (
            {"value": self.value, "low": min(self.values), "high": max(self.values)}
            if self.values
            else {"value": None}
        )
        target = {"sign": self.target.sign, "value": self.target.value} if self.target else None
        met = self.target.met(self.value) if verdict and self.target and self.values else None
        return {
            "what": self.what,
            **measured,
            "unit": self.unit,
            "target": target,
            "met": met,
            "note": self.note,
        }


@dataclass(frozen=True)
class Against:
    """A ratio that a work reports. `≥`: its seconds by ours; `≤`: ours by its."""

    arm: str
    target: Target | None = None
    ours: str = "frostline"
    inverse: bool = False
    """Without a target: ours as a multiple of it."""

    def figure(self, runs: Runs) -> Figure:
        pairs = [
            (ours["whole_seconds"], theirs["whole_seconds"])
            for ours, theirs in zip(runs.get(self.ours, ()), runs.get(self.arm, ()), strict=False)
            if "failed" not in ours and "failed" not in theirs
        ]
        below = self.target.sign == "≤" if self.target else self.inverse
        values = [a / b if below else b / a for a, b in pairs]
        what = f"{self.ours} ÷ {self.arm}" if below else f"{self.arm} ÷ {self.ours}"
        notes = [each["extrapolated"] for each in runs.get(self.arm, ()) if each.get("extrapolated")]
        failed = next((each["failed"] for each in runs.get(self.arm, ()) if "failed" in each), "")
        failed = failed or next((each["failed"] for each in runs.get(self.ours, ()) if "failed" in each), "")
        note = "; ".join(dict.fromkeys([*notes, failed][:2] if failed else notes))
        return Figure(what, values, "×", self.target, note)


def ratios(*against: Against) -> Callable[[Runs], list[Figure]]:
    """Return what makes a work's figures of its runs."""
    return lambda runs: [each.figure(runs) for each in against if {each.arm, each.ours} <= runs.keys()]


@dataclass(frozen=True)
class Work:
    """A row of the table: what is done, by whom, and what is hoped for."""

    name: str
    title: str
    sizes: Mapping[str, Mapping[str, Any]]
    """`full`, `quick`, and `tiny` for tests: what `arms` is given."""
    arms: Callable[[Mapping[str, Any], str], Sequence[Arm]]
    """Of a size, on a device."""
    figures: Callable[[Runs], list[Figure]]
    repeats: int = 3
    devices: Sequence[str] = ("cpu", "cuda")
    threads: int = THREADS
    about: str = ""
    """What a reader of the table should know."""


@dataclass
class Measured:
    """A work's results on one device."""

    work: str
    device: str
    size: str
    machine: dict[str, Any]
    runs: dict[str, list[Result]] = field(default_factory=dict)
    figures: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        return [
            f"{self.work}, {arm}: {each['failed']}"
            for arm, results in self.runs.items()
            for each in results[:1]
            if "failed" in each and not each.get("left_out")
        ]


def measure(
    work: Work, size: str, repeats: int | None, device: str, tell: Callable[[str], None] = print
) -> Measured:
    """Run a work's arms in turn, as often as asked."""
    options = work.sizes[size]
    arms = list(work.arms(options, device))
    result = Measured(work.name, device, size, machine(device, work.threads), settings=dict(options))
    pythons: dict[str, Path | NotMade] = {}
    for arm in arms:
        result.runs[arm.name] = []
        if arm.environment not in pythons:
            pythons[arm.environment] = _python(arm.environment, make=size == "full")
    for repeat in range(repeats or (work.repeats if size == "full" else 1)):
        for arm in arms:
            python, before = pythons[arm.environment], result.runs[arm.name]
            if isinstance(python, NotMade):
                before.append(
                    {
                        "failed": str(python),
                        "left_out": arm.environment in environments.LARGE and size != "full",
                    }
                )
            elif before and "failed" in before[-1]:
                before.append(before[-1])
            else:
                before.append(_run(arm, python, repeat, work.threads, device))
            tell(f"{work.name}, {device}, repeat {repeat + 1}: {arm.name}: {_said(before[-1])}")
    result.figures = [figure.as_data(verdict=size == "full") for figure in work.figures(result.runs)]
    return result


def whole_seconds(arm: Arm, result: Result, measured: int | None) -> tuple[float, str]:
    """Return the seconds that the whole work takes, and in words how they were extrapolated, if they were."""
    epochs = arm.settings.get("epochs")
    seconds, said = result["seconds"], ""
    if epochs and measured and measured < epochs:
        each = statistics.median(result["epoch_seconds"])
        seconds = seconds - sum(result["epoch_seconds"]) + epochs * each
        said = f"measured {measured} of {epochs} epochs"
    if arm.times > 1:
        seconds *= arm.times
        said = f"{said or 'measured one run'} × {arm.times}"
    return seconds, said


def _python(name: str, make: bool) -> Path | NotMade:
    try:
        return environments.python_of(name, make or name not in environments.LARGE)
    except NotMade as why:
        return why


def _run(arm: Arm, python: Path, repeat: int, threads: int, device: str) -> Result:
    """Run an arm once, in a folder of its own that is removed afterwards."""
    from benchmarks import data

    measured = arm.measured_epochs(repeat)
    with tempfile.TemporaryDirectory(prefix="frostline-benchmark-") as folder:
        try:
            settings = {"threads": threads, "device": device, **arm.settings, "measured_epochs": measured}
            if arm.data:
                settings["arrays"] = str(data.given(arm.data))
            done = subprocess.run(
                [python, "-m", f"benchmarks.peers.{arm.peer}", json.dumps(settings)],
                cwd=folder,
                env=_environment(arm, threads, device),
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"took more than {TIMEOUT:.0f} s"}
        except subprocess.CalledProcessError as error:
            return {"failed": f"its data can't be made: {_last_words(error.stderr)}"}
    if done.returncode:
        return {"failed": f"exit status {done.returncode}: {_last_words(done.stderr)}"}
    try:
        result: Result = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        return {"failed": "printed no result"}
    if "seconds" in result:
        result["whole_seconds"], extrapolated = whole_seconds(arm, result, measured)
        if extrapolated:
            result["extrapolated"] = extrapolated
    return result


def _last_words(said: str) -> str:
    """The last line that a failed process printed, not too long."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return (lines or ["without a word"])[-1][:LAST_WORDS]


def _environment(arm: Arm, threads: int, device: str) -> dict[str, str]:
    path = [str(ROOT), *([str(ROOT / "src")] if arm.environment == "ours" else [])]
    settings = {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONWARNINGS": "ignore",
        "FROSTLINE_TRACKING": "off",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "BENCHMARK_BEGUN": repr(time.time()),
        **(FREED_MEMORY_IS_KEPT if arm.best else {}),
        **({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}),
    }
    return {**os.environ, **settings}


def _said(result: Result) -> str:
    if "failed" in result:
        return result["failed"]
    words = [f"{result['whole_seconds']:.2f} s" if "whole_seconds" in result else ""]
    words += [result.get("extrapolated", "")]
    words += [f"accuracy {result['accuracy']:.3f}" if result.get("accuracy") is not None else ""]
    return ", ".join(word for word in words if word)


def machine(device: str, threads: int) -> dict[str, Any]:
    """What a work is measured on, and how busy it was before."""
    from importlib.metadata import PackageNotFoundError, version

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    found = rivals.machine(("torch", "torchvision", "timm", "pytorch-lightning"))
    pinned = {line.split("==")[0]: line.split("==")[1].strip() for line in _pins()}
    found["versions"] |= {
        name: pinned[name] for name in ("finetuning-scheduler", "fastai", "tensorflow-cpu", "keras")
    }
    found["versions"]["frostline"] = installed("frostline")
    return {
        **found,
        "threads": threads,
        "memory_gib": round(pages / 2**30),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "gpu": gpu() if device == "cuda" else None,
        "measured": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }


def _pins() -> list[str]:
    texts = [(ROOT / "benchmarks" / name).read_text() for name in ("rivals.txt", "keras.txt")]
    lines = [line for text in texts for line in text.splitlines()]
    return [line for line in lines if "==" in line and not line.startswith("#")]


def gpu() -> str | None:
    """Return the name of the first GPU, if there is one."""
    words = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", words], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None
