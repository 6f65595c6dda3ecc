"""Paths and environment variables of a project: configs, scratch folder, caches, the MLflow store."""

import hashlib
import math
import os
import re
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from frostline.console.errors import FrostlineError

PACKAGED_CONF = Path(__file__).parents[1] / "conf"
CHECKOUT = Path(__file__).parents[3]
LOCK = "frostline.lock"
"""The folder that `frostline init` makes: per stage, a hash of frostline's code that the stage depends on."""
OWN_GROUPS = ("freeze", "experiment")
"""The config groups by which a `conf` folder without a config.yaml is known to be a project's."""
SQLITE = "sqlite:///"
DATABASE = "mlflow.db"
GIB = 1 << 30
EXPERIMENT_LIMIT = 256
"""Characters of an MLflow experiment's name."""
FEATURES_GIB = 20
"""The default limit of the feature cache; FROSTLINE_CACHE_GIB overrides it."""
FEATURES_SHARE = 0.25
"""The default limit as a share of the disk's free space plus the cached features; the lower limit counts."""

PIXELS_SHARE = 0.5
"""The default limit of cached images, as a share of the disk's free space plus the cached images."""


def find_root(start: Path | None = None) -> Path:
    """Return the nearest project from `start` (default: here) upwards, else `start`.

    A project has a `frostline.lock`, or a `conf` folder with `freeze` or `experiment`.
    """
    here = (start or Path.cwd()).resolve()
    return next((folder for folder in (here, *here.parents) if _is_project(folder)), here)


def packaged_conf() -> Path:
    """Return the folder of configs that comes with frostline: the checkout's or the installed package's."""
    for conf in (CHECKOUT / "conf", PACKAGED_CONF):
        if _is_whole_conf(conf):
            return conf
    raise FrostlineError(f"no conf/config.yaml in {PACKAGED_CONF.parent}; install frostline again")


def conf_dirs() -> list[Path]:
    """Return the folders of configs: the project's own if it has one, then frostline's.

    A file of the project's folder replaces frostline's file of the same path.

    Raises:
        FrostlineError: frostline's configs are missing.
    """
    root, packaged = find_root(), packaged_conf()
    own = root / "conf"
    layered = own.is_dir() and _is_project(root) and own.resolve() != packaged.resolve()
    return [own, packaged] if layered else [packaged]


def writable_conf() -> Path | None:
    """Return the project's folder of configs, which may not exist yet; None: frostline can't use it."""
    root = find_root()
    folder = root / "conf"
    taken = (folder / "config.yaml").exists() and not _is_project(root)  # by another Hydra application
    writable = os.access(folder if folder.is_dir() else root, os.W_OK)
    return folder if writable and not taken else None


def conf_files(group: str) -> dict[str, Path]:
    """Return option → file of a config group, such as ``freeze``; {} if there is no such group."""
    files = {path.stem: path for conf in reversed(conf_dirs()) for path in (conf / group).glob("*.yaml")}
    return dict(sorted(files.items()))


def home() -> Path:
    """Return the project whose MLflow store, scratch and caches a command uses.

    DVC runs queued experiments in temporary copies, `.dvc/tmp/exps/*`; their home is the enclosing project.
    """
    root = find_root()
    for folder in root.parents:
        if folder.parts[-3:] == (".dvc", "tmp", "exps"):
            return folder.parents[2]
    return root


def scratch() -> Path:
    """Return the writable folder of caches, locks, checkpoints and sweeps' studies.

    That is `.frostline/` in the project, or a temporary folder of this user if the project is read-only.
    """
    own = project_scratch()
    if os.access(own if own.exists() else own.parent, os.W_OK | os.X_OK):
        return own
    return _private_scratch(own)


def project_scratch() -> Path:
    """Return the project's `.frostline/`, even if it is read-only."""
    return home() / ".frostline"


def _private_scratch(own: Path) -> Path:
    """Return this user's substitute for the scratch folder `own`, in the system's temporary folder."""
    key = hashlib.sha256(os.fsencode(own)).hexdigest()[:16]
    private = Path(tempfile.gettempdir()) / f"frostline-{os.getuid()}"
    private.mkdir(mode=0o700, exist_ok=True)
    status = private.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise FrostlineError(
            f"{private} belongs to another user; remove it, or set TMPDIR to a folder of yours"
        )
    return private / key


def features_dir() -> Path:
    """Return the folder of cached features, the outputs of frozen layers."""
    return project_scratch() / "features"


def features_limit() -> int:
    """Return the limit of the feature cache in bytes: FROSTLINE_CACHE_GIB, else 20 GiB or a quarter.

    That is a quarter of the free space plus the size of cached features, so that caching doesn't lower it.

    Raises:
        FrostlineError: FROSTLINE_CACHE_GIB is not a positive number.
    """
    set_limit = _limit("FROSTLINE_CACHE_GIB", f"{FEATURES_GIB}; features=off caches no features")
    if set_limit is not None:
        return set_limit
    room = shutil.disk_usage(home()).free + _size_of(features_dir(), "*.safetensors")
    return min(FEATURES_GIB * GIB, int(FEATURES_SHARE * room))


def pixels_limit(folder: Path) -> int:
    """Return the limit of cached images in bytes: FROSTLINE_PIXELS_GIB, else half of the free space.

    That is half of the free space plus the size of cached images, so that caching doesn't lower it.

    Args:
        folder: that of the cached images, which exists.

    Raises:
        FrostlineError: FROSTLINE_PIXELS_GIB is not a positive number.
    """
    set_limit = _limit("FROSTLINE_PIXELS_GIB", "50")
    if set_limit is not None:
        return set_limit
    return int(PIXELS_SHARE * (shutil.disk_usage(folder).free + _size_of(folder, "*.npy")))


def _limit(variable: str, example: str) -> int | None:
    """Return the limit in bytes that an environment variable sets in GiB; None: it is not set."""
    text = os.environ.get(variable)
    if not text:
        return None
    with suppress(ValueError):
        if math.isfinite(limit := float(text) * GIB) and limit > 0:
            return int(limit)
    raise FrostlineError(f"{variable}: found {text!r}; give a positive number, such as {example}")


def _size_of(folder: Path, pattern: str) -> int:
    """Return the total size of a folder's files that match a pattern."""
    total = 0
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):  # Another process has just removed it.
            total += path.stat().st_size
    return total


def store_uri() -> str:
    """Return MLflow's store: MLFLOW_TRACKING_URI, else `mlflow.db` in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(home() / DATABASE)


def store_uri_without_password() -> str:
    """Return the URI of MLflow's store, with asterisks for a password."""
    return without_password(store_uri())


def without_password(text: str) -> str:
    """Return `text` with asterisks for passwords in URIs.

    >>> without_password("postgresql://me:secret@host/runs?password=secret")
    'postgresql://me:***@host/runs?password=***'
    """
    hidden = re.sub(r"(://[^:/@\s]*):[^/\s]*@", r"\1:***@", text)
    return re.sub(r"((?:password|token|secret)=)[^&\s]*", r"\1***", hidden, flags=re.IGNORECASE)


def sqlite_uri(path: Path) -> str:
    """Return the URI of the SQLite file at `path`, which SQLAlchemy decodes and MLflow partly doesn't.

    MLflow creates the parent folder of the undecoded path after ``sqlite:///``, unless the driver is named.
    """
    if "?" in str(path) or "%" in str(path):
        return f"sqlite+pysqlite:///{quote(str(path))}"
    return f"{SQLITE}{path}"


def wait_seconds() -> float:
    """Return how long a finished command waits for a slow MLflow server: FROSTLINE_WAIT, else 0.05 s.

    Raises:
        FrostlineError: FROSTLINE_WAIT is no number of seconds.
    """
    text = os.environ.get("FROSTLINE_WAIT") or "0.05"
    with suppress(ValueError):
        if (seconds := float(text)) >= 0:
            return seconds
    raise FrostlineError(f"FROSTLINE_WAIT: found {text!r}; give a number of seconds, such as 30")


def logs_models() -> bool:
    """Return whether every training run logs its model to MLflow: FROSTLINE_MODELS=on."""
    return os.environ.get("FROSTLINE_MODELS") == "on"


def experiment() -> str:
    """Return the name of MLflow's experiment for all runs: MLFLOW_EXPERIMENT_NAME, else `frostline`.

    Raises:
        FrostlineError: the name is too long or not printable.
    """
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "frostline"
    if len(name) > EXPERIMENT_LIMIT or not name.isprintable():
        raise FrostlineError(
            f"MLFLOW_EXPERIMENT_NAME: found {name[:40]!r}, {len(name)} characters; give at most"
            f" {EXPERIMENT_LIMIT}, all of them printable"
        )
    return name


def _is_project(folder: Path) -> bool:
    """Return whether `folder` is a project of frostline; another Hydra application may have a `conf`, too."""
    conf = folder / "conf"
    if (folder / LOCK).is_dir() or _is_whole_conf(conf):
        return True
    return not (conf / "config.yaml").exists() and any((conf / group).is_dir() for group in OWN_GROUPS)


def _is_whole_conf(folder: Path) -> bool:
    """Return whether `folder` has all of frostline's configs."""
    return (folder / "config.yaml").is_file() and (folder / "freeze").is_dir()
