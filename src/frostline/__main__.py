"""The command `frostline`, which is `python -m frostline` too."""

import sys

from frostline.console import signals


def main() -> int:
    """Run a command and return its exit status; signals are answered before anything heavy is imported."""
    signals.install()
    from frostline.commands import main as cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
