"""What a check returns, and how it is worded."""

import shlex
from dataclasses import dataclass
from typing import Literal

NAMED = 4
"""How many names a finding lists."""

State = Literal["ok", "note", "broken"]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    state: State
    """note: works, but you may want to know."""
    message: str
    fix: str = ""
    """A command or sentence; empty: nothing to fix."""


def shell(word: object) -> str:
    """Return a word as a shell takes it."""
    return shlex.quote(str(word))


def some(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
