"""What `dvc exp run -S KEY=VALUE` writes into params.yaml is taken back where the run fails.

DVC changes the file before the first stage, and leaves it so whatever becomes of the run. It is put back only
where its content is exactly the earlier one with these changes: an edit of the user's own stays.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from frostline.base import project
from frostline.base.files import write_bytes
from frostline.base.formats import read_yaml
from frostline.console.errors import FrostlineError

PARAMS = "params.yaml"


def take_back() -> str | None:
    """Undo what the DVC experiment that runs this process wrote into params.yaml.

    Returns:
        A sentence to print; None: there is nothing to undo.
    """
    root = project.find_root()
    path = root / PARAMS
    if not os.environ.get("DVC_EXP_NAME") or project.home() != root or not path.is_file():
        return None
    if (running := _running_dvc()) is None:
        return None
    words, started = running
    changes, content, before = list(_set_params(words)), _content(path), _before(root, started)
    if not changes:
        return None
    said = f"-S {' -S '.join(changes)}"
    if before is None or content is None or _changed(before, changes) != content:
        return f"{PARAMS} still has {said}; git diff {PARAMS} shows all that changed"
    write_bytes(path, before)
    return f"{PARAMS} is as it was before {said}"


def _running_dvc() -> tuple[list[str], float] | None:
    """The words behind `dvc exp run` of the DVC that started us, and when it was started, seconds."""
    with suppress(psutil.Error):
        for process in psutil.Process().parents():
            words = process.cmdline()
            for start in range(len(words) - 1):
                if words[start : start + 2] == ["exp", "run"]:
                    return words[start + 2 :], process.create_time()
    return None


def _set_params(words: Sequence[str]) -> Iterator[str]:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        given = None
        if word in ("-S", "--set-param"):
            given = following
        elif word.startswith("--set-param="):
            given = word.partition("=")[2]
        elif word.startswith("-S"):
            given = word[2:]
        if given is not None:
            yield given.removeprefix(f"{PARAMS}:")


def _before(root: Path, started: float) -> bytes | None:
    """What params.yaml was before DVC changed it, which stashes a workspace that is not clean.

    The stash is popped by now, but its commit is still among git's objects.
    """
    unreachable = _git(root, "fsck", "--unreachable", "--no-reflogs", "--no-progress").splitlines()
    commits = [line.split()[-1] for line in unreachable if line.startswith(b"unreachable commit")]
    told = (
        _git(root, "log", "--no-walk", "--format=%ct %H %s", *map(bytes.decode, commits)) if commits else b""
    )
    stashes = [line.split(maxsplit=2) for line in told.splitlines()]
    new = [(int(time), commit) for time, commit, subject in stashes if subject.startswith(b"WIP on ")]
    new = [each for each in new if each[0] >= int(started)]
    revision = max(new)[1].decode() if new else "HEAD"
    return _git(root, "show", f"{revision}:./{PARAMS}") or None


def _git(root: Path, *words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, check=False).stdout


def _changed(before: bytes, changes: Sequence[str]) -> object:
    """The content of `before` with the changes, as DVC makes them."""
    from dvc.utils.hydra import apply_overrides

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, PARAMS)
        path.write_bytes(before)
        try:
            apply_overrides(path, list(changes))
        except Exception:  # they do not apply to this one
            return None
        return _content(path)


def _content(path: Path) -> object:
    with suppress(FrostlineError):
        return read_yaml(path)
    return None
