"""Warnings about prepared data: in full when the data is prepared, later as one line."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frostline.base import project
from frostline.base.formats import read_yaml
from frostline.config.overrides import FREE_KEYS, to_overrides
from frostline.console.progress import say_once
from frostline.console.units import counted
from frostline.schema import Prepare
from frostline.schema.data import LABEL_BUDGET

_said: set[Path] = set()
"""The folders whose warnings this process has printed."""


@dataclass(frozen=True)
class Found:
    """What was found in data."""

    data: str
    """The name of the data."""
    warnings: Sequence[str]
    """Sentences."""
    folder: Path
    """Of the cache; it may have a contact sheet."""


def announce(found: Found, *, is_new: bool, again: str) -> None:
    """Print warnings in full if they are new, else one line on how to see them again; once per process.

    Args:
        is_new: whether no earlier command has printed them.
        again: the command that prints them.
    """
    from frostline.duplicates.contact_sheet import NEAR_DUPLICATES_FILE

    if not found.warnings or found.folder in _said:
        return
    _said.add(found.folder)
    if not is_new:
        them = "it" if len(found.warnings) == 1 else "them"
        count = counted(len(found.warnings), "warning")
        say_once(f"frostline: note: {found.data} caused {count} before; {again} prints {them} again")
        return
    for warning in found.warnings:
        say_once(f"frostline: warning: {warning}")
    if (sheet := found.folder / NEAR_DUPLICATES_FILE).is_file():
        say_once(f"frostline: the images that look alike: {sheet}")


def prepare_command(config: Prepare) -> str:
    """Return the command that prepares a data set anew, as a shell takes it."""
    kind = config.dataset.kind
    defaults = read_yaml(project.conf_files("dataset")[kind])
    own = config.dataset.model_dump(exclude={"kind", "fold", *LABEL_BUDGET})
    words = [f"dataset={kind}"]
    for key, value in _changes(own, defaults, "dataset."):
        typed = "null" if value is None else value
        words += [f"{key}={typed}"] if isinstance(typed, str) else to_overrides({key: value})
    words += to_overrides({"input.channels": config.channels, "input.depth": config.depth})
    return f"frostline prepare {' '.join(map(shlex.quote, words))}"


def _changes(own: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys whose values are not the defaults."""
    for key, value in own.items():
        before = defaults.get(key)
        if isinstance(value, dict) and isinstance(before, dict) and key not in FREE_KEYS:
            yield from _changes(value, before, f"{prefix}{key}.")
        elif value != before:
            yield f"{prefix}{key}", value
