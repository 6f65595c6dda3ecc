"""Runs the checks of `gpu_checks` one after the other, each within its time; a table and a JSON file.

Needs nothing but Python, so that it can make the environment that the checks need: `--wheels`, `--from`.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import queue
import re
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ENVIRONMENT = ROOT / ".venv-gpu"
TORCHVISION = "0.26.0"
"""The only version that goes with torch 2.11, which the machine has."""
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")
LIGHT = (
    *("numpy", "pillow", "safetensors", "psutil", "pyyaml", "packaging", "tqdm", "scipy"),
    *(
        "torchvision",
        "timm",
        "pytorch-lightning",
        "lightning-utilities",
        "torchmetrics",
        "fsspec",
        "filelock",
    ),
    *("hydra-core", "omegaconf", "antlr4-python3-runtime"),
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions"),
    *("rich", "markdown-it-py", "mdurl", "pygments"),
    *("pytest", "pytest-timeout", "pluggy", "iniconfig"),
)
"""What training imports beside torch; with all that these need, and without MLflow, DVC and Optuna."""
OF_THE_MACHINE = ("numpy", "scipy", "torchvision", "fsspec", "filelock", "typing-extensions")
"""What is not installed where torch has come with it."""
DATA = "digits.npz"
"""MNIST's and UCI's digits: the packages that have them need SciPy and pandas."""
CHECKING = "benchmarks.gpu_checks"
"""The module that runs checks; tests have another."""


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    name: str
    """As `gpu_checks.CHECKS` has it."""
    what: str
    seconds: float
    """After which it has failed, of a run that may take eight minutes."""


CHECKS = (
    Check("environment", "torch, CUDA, driver, memory", 60),
    Check("tests", "the tests marked gpu", 60),
    Check("study", "the default study's arms, one seed", 90),
    Check("repeat", "ResNet and ViT, bf16: the same bytes twice", 60),
    Check("resume", "stopped in an epoch, resumed: the same bytes", 60),
    Check("features", "frozen layers run once: the same result", 60),
    Check("ema", "EMA, stopped and resumed: the same bytes", 60),
    Check("bf16", "bf16 beside fp32", 45),
    Check("fp16", "fp16 beside fp32", 45),
    Check("compile", "torch.compile beside none", 120),
    Check("heads", "frostline probe: heads trained at once", 60),
    Check("two", "two runs at once on one device", 90),
    Check("bench_probe", "ResNet-50, 224 px, bf16: linear probe", 90),
    Check("bench_gradual", "ResNet-50, 224 px, bf16: gradual unfreezing", 90),
    Check("bench_full", "ResNet-50, 224 px, bf16: full fine-tuning", 90),
)
MINUTES = 8.0


@dataclass
class Row:
    """What a check came to."""

    check: str
    what: str
    passed: bool
    result: str
    seconds: float
    figures: dict[str, Any] = field(default_factory=dict)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="scripts/gpu-check", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: the GPU if there is one")
    parser.add_argument("--only", nargs="+", metavar="CHECK", choices=[check.name for check in CHECKS])
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"), help="the JSON file")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="for all; each check's time goes with it"
    )
    parser.add_argument(
        "--wheels", type=Path, metavar="DIR", help="download what --from needs into DIR; run nothing"
    )
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="DIR", help="install from DIR first, offline"
    )
    options = parser.parse_args(words)
    if options.source and not (options.source / DATA).is_file():
        parser.exit(2, f"frostline: error: --from: {options.source} has no {DATA}; make it by --wheels DIR\n")
    try:
        if options.wheels:
            return collect(options.wheels)
        python = installed(options.source) if options.source else Path(sys.executable)
    except subprocess.CalledProcessError as error:
        what, folder = ("--wheels", options.wheels) if options.wheels else ("--from", options.source)
        reason = f"{Path(error.cmd[0]).name} ended with status {error.returncode}, as said above"
        parser.exit(2, f"frostline: error: {what}: {folder} can't be made or used ({reason}); run it again\n")
    device = options.device or _device(python)
    data = options.source / DATA if options.source else None
    chosen = [check for check in CHECKS if options.only is None or check.name in options.only]
    rows = list(run(chosen, python, device, data, options.minutes))
    report = {
        "device": device,
        "passed": all(row.passed for row in rows),
        "rows": [asdict(row) for row in rows],
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    failed = [row.check for row in rows if not row.passed]
    print(f"\n{len(rows) - len(failed)} of {len(rows)} passed on {device}; {options.out}")
    return 1 if failed else 0


# ── the checks, in a process that may be ended ──────────────────────────────────────────────────────────────


def run(
    checks: Sequence[Check], python: Path, device: str, data: Path | None, minutes: float = MINUTES
) -> Iterator[Row]:
    """Run checks in processes of their own, and print and give a row for each as it ends.

    A process runs one check after the other until one takes too long, or ends the process; the next process
    runs the rest.

    Args:
        checks: in their order.
        python: the interpreter with what they need.
        device: cuda or cpu.
        data: the file with the digits; None: those of installed packages.
        minutes: for all of them.
    """
    if device == "cpu":
        print("a rehearsal on the CPU: a ResNet-10-T on few images of 32 px, mostly float32, no transformer")
    print(f"{'check':14} {'what':46} {'':4}  {'s':>6}  result", flush=True)
    over = time.monotonic() + 60 * minutes
    waiting = list(checks)
    while waiting:
        with _Process(python, device, data, [check.name for check in waiting]) as process:
            while waiting:
                check = waiting.pop(0)
                row, usable = process.row(
                    check, min(check.seconds * minutes / MINUTES, over - time.monotonic())
                )
                mark = "PASS" if row.passed else "FAIL"
                print(f"{row.check:14} {row.what:46} {mark:4}  {row.seconds:6.1f}  {row.result}", flush=True)
                yield row
                if not usable:
                    break


class _Process:
    """Runs checks, and tells of each by a line of JSON."""

    def __init__(self, python: Path, device: str, data: Path | None, names: Sequence[str]) -> None:
        about = {"device": device, "data": str(data.resolve()) if data else None, "names": list(names)}
        self.folder = tempfile.TemporaryDirectory(prefix="frostline-gpu-check-")
        self._errors = (Path(self.folder.name) / "stderr").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [str(python), "-m", CHECKING, json.dumps(about)],
            cwd=ROOT,
            env={**_plain(), "TMPDIR": self.folder.name, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # also what a check has started
        self._process.wait()
        self._reader.join()
        assert self._process.stdout
        self._process.stdout.close()
        self._errors.close()
        self.folder.cleanup()

    def row(self, check: Check, seconds: float) -> tuple[Row, bool]:
        """Wait for a check; return its row, and whether the process can run the next one."""
        begun = time.monotonic()
        try:
            if seconds <= 0:
                raise queue.Empty
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            why = f"not over after {seconds:.0f} s" if seconds > 0 else "no time left"
            return Row(check.name, check.what, False, why, time.monotonic() - begun), False
        if line is None:
            status = self._process.wait()
            why = f"the process ended with status {status}: {self._last_words()}"
            return Row(check.name, check.what, False, why, time.monotonic() - begun), False
        answer = json.loads(line)
        assert answer["check"] == check.name, (answer, check)
        usable = answer.pop("usable")
        return Row(what=check.what, seconds=time.monotonic() - begun, **answer), usable

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith('{"check"'):
                self._lines.put(line)
        self._lines.put(None)

    def _last_words(self) -> str:
        self._errors.flush()
        self._errors.seek(0)
        return (self._errors.read().strip().splitlines() or ["it said nothing"])[-1][:200]


def _plain() -> dict[str, str]:
    """The environment without what leads runs elsewhere."""
    ours = ("MLFLOW_", "FROSTLINE_", "HYDRA_", "DVC_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**inherited, "FROSTLINE_TRACKING": "off"}


def _device(python: Path) -> str:
    code = "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')"
    return subprocess.run([python, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


# ── the environment of a machine without network ────────────────────────────────────────────────────────────


def collect(folder: Path) -> int:
    """Download wheels for Python 3.12 on Linux, as requirements.lock pins them, and write the digits."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    wanted = pinned((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    # Its version 4.9 is there as source alone; it is plain Python.
    (source,) = (each for each in wanted if each.startswith("antlr4-"))
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), source], check=True)
    words = [
        "--no-deps",
        "--only-binary=:all:",
        "--python-version",
        PYTHON,
        "--implementation",
        "cp",
        *platforms,
    ]
    rest = [each for each in wanted if each != source]
    subprocess.run([*pip, "download", *words, "--dest", str(folder), *rest], check=True)
    code = "import sys; from benchmarks.gpu_bench import write_digits; write_digits(sys.argv[1])"
    paths = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    command = [sys.executable, "-c", code, str(folder / DATA)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, check=True)
    mib = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
    print(f"{folder}: {len(list(folder.glob('*.whl')))} wheels and the digits, {mib:.1f} MiB")
    return 0


def pinned(lock: str) -> list[str]:
    """Return `LIGHT` with a lock file's versions, but torchvision's, which goes with the machine's torch."""
    versions = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock, re.MULTILINE))
    versions["torchvision"] = TORCHVISION
    return [f"{name}=={versions[name]}" for name in LIGHT]


def installed(folder: Path) -> Path:
    """Make `ENVIRONMENT` from a folder of wheels and this Python's packages; return its interpreter."""
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    venv.create(ENVIRONMENT, system_site_packages=True, with_pip=True, symlinks=True)
    python = ENVIRONMENT / "bin" / "python"
    # This Python may be of an environment itself, whose packages another one would not have.
    (packages,) = ENVIRONMENT.glob("lib/python*/site-packages")
    (packages / "of_the_machine.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    there = {name for name in OF_THE_MACHINE if importlib.util.find_spec(name.replace("-", "_"))}
    wheels = [path for path in sorted(folder.glob("*.whl")) if _name(path) not in there]
    words = ["-q", "--disable-pip-version-check", "--no-index", "--no-deps", "--ignore-installed"]
    subprocess.run([python, "-m", "pip", "install", *words, *wheels], check=True)
    return python


def _name(wheel: Path) -> str:
    return wheel.name.partition("-")[0].replace("_", "-").lower()


if __name__ == "__main__":
    sys.exit(main())
