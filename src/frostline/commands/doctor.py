"""`frostline doctor`: check the machine, the environment and the project, and say how to fix them."""

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from frostline.commands import options
from frostline.console.progress import waiting

if TYPE_CHECKING:
    from frostline.commands.checks.finding import Finding

Check = Callable[[], "Iterator[Finding]"]


def add(commands: Any, summary: str) -> None:
    """Add the command's parser."""
    options.add_command(commands, "doctor", run, summary)


def run(arguments: argparse.Namespace) -> int:
    """Print what the checks find; return 1 if something is broken."""
    with waiting("checking the machine, the environment and the project"):
        findings = [finding for check in _checks() for finding in _findings(check)]
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{finding.state:6}  {finding.name:{width}}  {finding.message}")
        if finding.fix:
            print(f"{'':6}  {'':{width}}  → {finding.fix}")
    broken = [finding.name for finding in findings if finding.state == "broken"]
    print(f"\n{len(broken)} broken: {', '.join(broken)}" if broken else "\nnothing is broken")
    return 1 if broken else 0


def _checks() -> "tuple[Check, ...]":
    from frostline.commands.checks import environment, project, store

    return (
        environment.python,
        environment.packages,
        environment.processor,
        environment.accelerator,
        project.configs,
        project.dvc,
        store.store,
        project.locks,
        store.journals,
        project.data,
        project.disk,
    )


def _findings(check: "Check") -> "Iterator[Finding]":
    """Yield what a check finds; a check that raises is itself a finding."""
    from frostline.commands.checks.finding import Finding
    from frostline.console.errors import first_line

    try:
        yield from check()
    except Exception as error:  # whatever is broken on this machine
        what = f"can't be checked ({type(error).__name__}: {first_line(error)})"
        yield Finding(check.__name__, "broken", what, "fix what the message names")
