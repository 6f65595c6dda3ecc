"""The programs that documents call; `frostline` starts at once, also below DVC."""

import sys
from pathlib import Path

# The .pth of set-up puts the environment's own programs in front of PATH wherever its Python starts.
DVC = """\
import os, sys
os.environ["PATH"] = {folder!r} + os.pathsep + os.environ["PATH"]
from dvc.cli import main
sys.exit(main(sys.argv[1:]))
"""


def write_programs(folder: Path, warm: Path) -> None:
    """Write `frostline`, `dvc` and `python` into a new folder; `warm` is the Python of tests/warm.py."""
    folder.mkdir()
    (folder / "start_dvc.py").write_text(DVC.format(folder=str(folder)))
    words = {
        "frostline": f"'{warm}' -m frostline",
        "dvc": f"'{sys.executable}' '{folder / 'start_dvc.py'}'",
        "python": f"'{sys.executable}'",
    }
    for name, program in words.items():
        (folder / name).write_text(f'#!/bin/sh\nexec {program} "$@"\n')
        (folder / name).chmod(0o755)
