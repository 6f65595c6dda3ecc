"""The environment of the benchmarks: this project's packages and those of rivals.txt, in benchmarks/.venv."""

import logging
import os
import platform
import subprocess
import sys
import sysconfig
import venv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ENVIRONMENT = HERE / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
NEEDED = HERE / "rivals.txt"
MADE = ENVIRONMENT / "rivals.txt"
"""A copy of `NEEDED`, once everything in it is installed."""
TO_STANDALONE = "import runpy, sys; runpy.run_path(sys.argv[1])['toggle_lightning_imports']('standalone')"
"""What finetuning-scheduler's `toggle-lightning-mode` does, which imports the package `lightning` first."""


def ready() -> bool:
    """Whether the environment is there and holds what it should."""
    return MADE.is_file() and MADE.read_text() == NEEDED.read_text()


def run_there() -> None:
    """Run the calling program in the benchmarks' environment, which is made if need be."""
    if not ready():
        make()
    if Path(sys.prefix).resolve() != ENVIRONMENT.resolve():
        source = {"PYTHONPATH": str(HERE.parent / "src"), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        os.execve(PYTHON, [str(PYTHON), *sys.orig_argv[1:]], {**os.environ, **source})


def make() -> None:
    venv.create(ENVIRONMENT, clear=True, symlinks=True)
    ours = sysconfig.get_path("purelib")
    theirs = next((ENVIRONMENT / "lib").glob("python*/site-packages"))
    (theirs / "frostline_environment.pth").write_text(f"{ours}\n")
    uv = Path(sys.executable).with_name("uv")
    # Copies, since a file that is changed below must not be linked to uv's cache.
    options = ["-q", "--python", str(PYTHON), "--no-deps", "--link-mode=copy", "-r", str(NEEDED)]
    subprocess.run([uv, "pip", "install", *options], check=True)
    toggle = theirs / "finetuning_scheduler" / "dynamic_versioning" / "utils.py"
    subprocess.run([PYTHON, "-W", "ignore", "-c", TO_STANDALONE, toggle], check=True, capture_output=True)
    MADE.write_text(NEEDED.read_text())


def quiet() -> None:
    """Keep Lightning's advice, and what is deprecated in it, out of the way."""
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)


def machine(
    names: Sequence[str] = ("torch", "pytorch-lightning", "finetuning-scheduler", "fastai"),
) -> dict[str, Any]:
    """What a result was measured on, and the versions of these packages."""
    from importlib.metadata import version

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }
