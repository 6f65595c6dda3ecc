"""The programs that documents call; they start at once, also below DVC."""

from pathlib import Path


def write_programs(folder: Path, warm: Path) -> None:
    """Write `frostline`, `dvc` and `python` into a new folder; `warm` is the Python of tests/warm.py."""
    folder.mkdir()
    for name, program in {"frostline": "-m frostline", "dvc": "-m dvc", "python": ""}.items():
        (folder / name).write_text(f"#!/bin/sh\nexec '{warm}' {program} \"$@\"\n")
        (folder / name).chmod(0o755)
