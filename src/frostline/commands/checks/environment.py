"""Checks of the machine and the Python environment."""

import os
import platform
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

from frostline import __version__
from frostline.base import project
from frostline.commands.checks.finding import Finding, State, shell, some
from frostline.console.errors import first_line

SUPPORTED = ((3, 11), (3, 13))


def python() -> Iterator[Finding]:
    """Check Python's version, and whether the code that runs is this checkout's."""
    first, last = SUPPORTED
    version = f"{platform.python_version()} at {sys.executable}"
    if first <= sys.version_info[:2] <= last:
        yield Finding("python", "ok", f"{version}, frostline {__version__}")
    else:
        yield Finding(
            "python", "broken", version, "use Python 3.11, 3.12 or 3.13; scripts/setup finds one on PATH"
        )
    root = project.find_root()
    if (root / "src/frostline").is_dir() and not root.samefile(project.CHECKOUT):
        message = f"the code that runs is {project.CHECKOUT}'s, not this checkout's"
        yield Finding("python", "note", message, f"cd {shell(root)} && scripts/setup")


def packages() -> Iterator[Finding]:
    """Compare installed versions with the lock of a checkout; an installed wheel has none."""
    lock, pyproject = project.CHECKOUT / "requirements.lock", project.CHECKOUT / "pyproject.toml"
    if not pyproject.is_file():
        return
    if not lock.is_file():
        yield Finding("packages", "note", "no requirements.lock beside the code to compare with")
        return
    installed = {_canonical(d.metadata["Name"]): d.version for d in distributions() if d.metadata["Name"]}
    locked_versions = locked(lock.read_text(encoding="utf-8"))
    missing = sorted(set(locked_versions) - set(installed))
    needed = _dependencies(pyproject)
    other = sorted(
        f"{n} {installed[n]} instead of {v}" for n, v in locked_versions.items() if installed.get(n, v) != v
    )
    if missing:
        state: State = "broken" if needed & set(missing) else "note"
        yield Finding("packages", state, f"missing: {some(missing)}", "run scripts/setup")
    elif other:
        yield Finding(
            "packages",
            "note",
            f"other than in requirements.lock: {some(other)}",
            "run scripts/setup to install the tested versions",
        )
    else:
        yield Finding("packages", "ok", f"{len(locked_versions)}, versions as in requirements.lock")


def locked(text: str) -> dict[str, str]:
    """Return name → version of a lock file's entries that apply to this interpreter and system."""
    from packaging.requirements import Requirement

    lines = re.findall(r"^[a-zA-Z0-9][^\\\n]*", text, re.MULTILINE)
    entries = [Requirement(line.strip()) for line in lines if "==" in line]
    applicable = [entry for entry in entries if entry.marker is None or entry.marker.evaluate()]
    return {_canonical(entry.name): next(iter(entry.specifier)).version for entry in applicable}


def processor() -> Iterator[Finding]:
    """Report cores, memory and threads."""
    import psutil

    from frostline.base.processes import processors

    memory = psutil.virtual_memory()
    usable = processors()
    text = f"{usable} cores, {memory.available / 2**30:.0f} of {memory.total / 2**30:.0f} GiB memory free"
    if (threads := os.environ.get("OMP_NUM_THREADS")) is not None:
        text += f", OMP_NUM_THREADS={threads}"
    yield Finding("processor", "ok", text)


def accelerator() -> Iterator[Finding]:
    """Check which GPUs torch sees."""
    try:
        import torch
    except Exception as error:  # A broken installation raises whatever it likes.
        yield Finding("torch", "broken", f"can't be imported ({first_line(error)})", "run scripts/setup")
        return
    from frostline.base import devices

    if torch.cuda.is_available():
        for index, entry in enumerate(devices.visible_gpus()):
            card = torch.cuda.get_device_properties(index)
            memory = f"{card.total_memory / 2**30:.0f} GiB"
            yield Finding("gpu", "ok", f"{entry}: {card.name}, {memory}, torch {torch.__version__}")
    elif (entries := devices.listed_gpus()) is not None and (entries or shutil.which("nvidia-smi")):
        message = (
            f"{devices.VISIBLE}={os.environ[devices.VISIBLE]}, and torch {torch.__version__} sees no GPU"
        )
        fix = f"unset {devices.VISIBLE}; if torch still sees no GPU, install a driver that fits torch's CUDA"
        yield Finding("gpu", "note", message, fix)
    elif shutil.which("nvidia-smi"):
        fix = "install a driver that fits torch's CUDA, or use the CPU with trainer.device=cpu"
        yield Finding(
            "gpu", "note", f"nvidia-smi is installed, but torch {torch.__version__} sees no GPU", fix
        )
    else:
        yield Finding("gpu", "ok", f"none: torch {torch.__version__} trains on the CPU")


def _dependencies(pyproject: Path) -> set[str]:
    """Return the packages that frostline imports; the lock has those for tests and builds, too."""
    entries = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    return {_canonical(re.split(r"[^\w.-]", entry)[0]) for entry in entries}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
