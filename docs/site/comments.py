"""What the comment at the top of a file of conf/ says."""

import re
from pathlib import Path
from typing import NamedTuple


class Comment(NamedTuple):
    """The parts of a comment; each may be empty."""

    text: str
    command: str
    expected: str
    """What to expect of the command, or of the option."""


def read(path: Path) -> Comment:
    """Return the comment that a file begins with: prose, and lines with a command each."""
    prose, commands, expected = [], [], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        line = line.removeprefix("#").strip()
        if line.startswith(("frostline ", "dvc ")):
            commands.append(line)
        elif line.startswith("expect: "):
            expected = line
        elif not line.startswith("@"):
            prose.append(line)
    # After the command, two or more spaces, and what to expect.
    command, *rest = re.split(r" {2,}", commands[0], maxsplit=1) if commands else [""]
    expected = (expected or "".join(rest)).removeprefix("expect: ")
    return Comment(re.sub(r"([*|])", r"\\\1", " ".join(prose)), command, expected)
