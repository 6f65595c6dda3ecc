"""The page of all commands and their options, from the parsers."""

import argparse
import re
from collections.abc import Iterator

from frostline.commands.main import COMMANDS, command_parser

INTRO = """\
# Commands

`frostline COMMAND --help` prints the same. `KEY=VALUE` is an override of a [config key](config.md).
"""
USAGE_WIDTH = 100


def page() -> str:
    """Return the page as Markdown."""
    parts = [INTRO]
    for name, parser in commands(command_parser(COMMANDS)):
        parts += _section(name, parser)
    status = re.search(r"exit status: .*", command_parser(COMMANDS).epilog or "", re.DOTALL)
    assert status, "the program's help has no exit status"
    text = " ".join(status[0].split()).removeprefix("exit status: ")
    return "\n".join([*parts, "## Exit status", "", f"{text} ([more](../runs.md#exit-status))", ""])


def commands(
    parser: argparse.ArgumentParser, prefix: str = "frostline"
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield each command with its parser, and then the commands inside it, such as `cache prune`."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield f"{prefix} {name}", inner
                yield from commands(inner, f"{prefix} {name}")


def arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return what a command takes, except --help and commands inside it."""
    skipped = (argparse._HelpAction, argparse._SubParsersAction)
    return [action for action in parser._actions if not isinstance(action, skipped)]


def _section(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    parser.formatter_class = lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=USAGE_WIDTH)
    yield f"## {name}\n"
    text = parser.description or ""
    yield f"{text[:1].upper()}{text[1:]}.\n"
    usage = parser.format_usage().removeprefix("usage: ").replace("\n       ", "\n")
    yield f"```text\n{usage}```\n"
    if found := arguments(parser):
        yield "| argument | meaning |\n| --- | --- |"
        for action in found:
            yield f"| {_names(action)} | {_meaning(parser, action)} |"
        yield ""
    if parser.epilog:
        yield f"```text\n{parser.epilog}\n```\n"


def _names(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`".replace("|", "\\|")
    value = action.metavar or "\\|".join(action.choices or ()) or action.dest.upper()
    suffix = "" if action.nargs == 0 else f" {value}"
    return ", ".join(f"`{name}{suffix}`" for name in action.option_strings)


def _meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    assert action.help, f"{parser.prog} {action.dest} has no help"
    text = str(parser._get_formatter()._expand_help(action))
    return text.replace("|", "\\|")
