"""`frostline cache`: list cached features and images, or remove them."""

import argparse
from typing import Any

from frostline.commands import options

EPILOG = """\
examples:
  frostline cache                       list cached files, the most recently used first
  frostline cache prune --to 5GiB       remove the least recently used features until 5 GiB remain
  frostline cache clear                 remove everything, including resized images

Removed files are computed again when a run needs them; active runs are not disturbed. Environment variables
set the limits: FROSTLINE_CACHE_GIB for features (default: 20, at most a quarter of the sum of free space and
features), FROSTLINE_PIXELS_GIB for resized images (default: half of the free disk space). If a limit is
reached, the least recently used files are removed."""


def add(commands: Any, summary: str) -> None:
    """Add the command's parser, and those of its actions."""
    parser = options.add_command(commands, "cache", run, summary, EPILOG)
    _add_format(parser, "table")
    actions = parser.add_subparsers(metavar="ACTION", dest="action")
    text = "remove the least recently used features until at most --to remains"
    prune = options.add_command(actions, "prune", run, text)
    _add_format(prune, argparse.SUPPRESS)
    prune.add_argument(
        "--to", type=_size, metavar="SIZE", help="such as 5GiB, 500MiB or 0 (default: the limit)"
    )
    text = "remove all cached features and resized images"
    clear = options.add_command(actions, "clear", run, text)
    _add_format(clear, argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> None:
    """List cached features and images, or remove them."""
    from frostline.commands import cache_actions

    match arguments.action:
        case "prune":
            cache_actions.prune(arguments.to, arguments.format)
        case "clear":
            cache_actions.clear(arguments.format)
        case _:
            cache_actions.show(arguments.format)


def _add_format(parser: argparse.ArgumentParser, default: str) -> None:
    """Add `--format`; an action's default would replace what precedes it: cache --format json prune."""
    parser.add_argument(
        "--format", choices=["table", "json"], default=default, help="json: for scripts (default: table)"
    )


def _size(text: str) -> int:
    from frostline.commands.cache_actions import bytes_of

    try:
        return bytes_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
