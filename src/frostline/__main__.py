"""The command `frostline`, which is `python -m frostline` too."""

import atexit
import os
import sys

from frostline.console import signals


def main() -> int:
    """Run a command as the work of this process, and return its exit status.

    Signals are answered before anything heavy is imported. At the process's end, destroying the modules of
    torch and MLflow would take two seconds: exit handlers run, destructors don't.
    """
    signals.install()
    from frostline.commands import main as cli

    ended: list[int] = []
    atexit.register(_end, ended)  # first, so that it is called after all other exit handlers
    ended.append(cli.main())
    return ended[0]


def _end(ended: list[int]) -> None:
    """End the process now if the command has returned a status; an exception ends it as usual."""
    if ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended[0])


if __name__ == "__main__":
    sys.exit(main())
