"""Undo the changes of `dvc exp run -S KEY=VALUE` to params.yaml when the run fails.

DVC changes the file before the first stage, and keeps the change even if the run fails. The file is restored
only if its content is exactly the earlier one with these changes: the user's own edits stay.
"""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from frostline.base import project
from frostline.base.files import write_bytes
from frostline.base.formats import read_yaml
from frostline.console.errors import FrostlineError

PARAMS = "params.yaml"


def restore() -> str | None:
    """Restore params.yaml if the DVC experiment that runs this process changed it.

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
    changes, content, before = _set_params(words), _content(path), _before(root, started)
    if not changes:
        return None
    options = f"-S {' -S '.join(changes)}"
    if before is None or content is None or _changed(before, changes) != content:
        return f"{PARAMS} still has {options}; git diff {PARAMS} shows all that changed"
    write_bytes(path, before)
    return f"{PARAMS} is as it was before {options}"


def _running_dvc() -> tuple[list[str], float] | None:
    """Return the arguments of the `dvc exp run` that started this process, and its start time in seconds."""
    with suppress(psutil.Error):
        for process in psutil.Process().parents():
            words = process.cmdline()
            for start in range(len(words) - 1):
                if words[start] in ("exp", "experiments") and words[start + 1] == "run":
                    return words[start + 2 :], process.create_time()
    return None


def _set_params(words: Sequence[str]) -> list[str]:
    """Return the values that `-S` (`--set-param`) in the arguments of `dvc exp run` sets in params.yaml."""
    from dvc.cli.parser import get_main_parser
    from dvc.utils.cli_parse import to_path_overrides

    parsed = get_main_parser().parse_args(["exp", "run", *words])
    return to_path_overrides(parsed.set_param).get(PARAMS, [])


def _before(root: Path, started: float) -> bytes | None:
    """Return the content of params.yaml before DVC changed it.

    DVC stashes a workspace that is not clean. The stash is popped by now, but its commit is still an
    unreachable object of git.
    """
    unreachable = _git(root, "fsck", "--unreachable", "--no-reflogs", "--no-progress").splitlines()
    commits = [line.split()[-1] for line in unreachable if line.startswith(b"unreachable commit")]
    log = (
        _git(root, "log", "--no-walk", "--format=%ct %H %s", *map(bytes.decode, commits)) if commits else b""
    )
    stashes = [line.split(maxsplit=2) for line in log.splitlines()]
    new = [(int(time), commit) for time, commit, subject in stashes if subject.startswith(b"WIP on ")]
    new = [stash for stash in new if stash[0] >= int(started)]
    revision = max(new)[1].decode() if new else "HEAD"
    return _git(root, "show", f"{revision}:./{PARAMS}") or None


def _git(root: Path, *words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, check=False).stdout


def _changed(before: bytes, changes: Sequence[str]) -> object:
    """Return the content of `before` with the changes, as DVC applies them."""
    from dvc.utils.hydra import apply_overrides

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, PARAMS)
        path.write_bytes(before)
        try:
            apply_overrides(path, list(changes))
        except Exception:  # the changes do not fit this content
            return None
        return _content(path)


def _content(path: Path) -> object:
    with suppress(FrostlineError):
        return read_yaml(path)
    return None
