"""Tell the user if the installed frostline is not the one that the project's results depend on."""

import argparse
import sys

STUDY_STAGES = ("compose", "report", "gate")
"""Commands that are stages of a study even without `--resolved`."""
SILENT = ("init", "upgrade")


def check_lock(arguments: argparse.Namespace) -> None:
    """Compare the project's `frostline.lock` with the installed code.

    A stage of the study is refused, since DVC would record its result as one of the locked code. Other
    commands continue with a note.

    Raises:
        FrostlineError: the command is a stage whose code differs.
    """
    from frostline.base import project

    name = arguments.command_name
    if name in SILENT or not (project.find_root() / project.LOCK).is_dir():
        return
    from frostline.projects import lock

    is_stage = name in STUDY_STAGES or getattr(arguments, "resolved", None) is not None
    if sentence := lock.check(name if is_stage else None):
        print(f"frostline: note: {sentence}", file=sys.stderr)
