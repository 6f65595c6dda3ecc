"""`frostline upgrade`: let a project use the installed version of frostline."""

import argparse
import os
from typing import Any

from frostline.commands import options

EPILOG = """\
A project records in frostline.lock/ which code of frostline each stage depends on. After another version is
installed, this command records that one; `dvc repro` then runs exactly the stages whose code has changed, and
those after them if their results change."""


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    options.add_command(commands, "upgrade", run, summary, EPILOG)


def run(arguments: argparse.Namespace) -> None:
    """Renew the project's lock and print the stages that it affects."""
    from frostline import __version__
    from frostline.base import project
    from frostline.console.errors import FrostlineError
    from frostline.projects import folder, lock

    root = project.find_root()
    where, pipeline = os.path.relpath(root / project.LOCK), root / folder.PIPELINE
    missing = not (root / project.LOCK).is_dir()
    if missing and not (pipeline.is_file() and f"- {project.LOCK}/" in pipeline.read_text(encoding="utf-8")):
        raise FrostlineError(
            f"{os.path.relpath(root)} has no {project.LOCK}; `frostline init NAME` begins a study, and a"
            " clone needs none"
        )
    before = lock.locked_version(root)
    affected = lock.changed(root)
    lock.write(root)
    if missing:
        print(f"{where}: was missing, written for frostline {__version__}; commit it")
    elif affected:
        change = f"{before} → {__version__}" if before != __version__ else f"{before}, with other code"
        print(f"{where}: frostline {change}; dvc repro runs again: {', '.join(affected)}")
    else:
        print(f"{where}: up to date with frostline {__version__}; nothing runs again")
