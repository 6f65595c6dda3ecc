"""Refuse overrides without an effect, and words that name what does not exist, before torch is imported.

Checked are the images to predict, the files and folders to write, and overrides on the command line with
plain values. Other mistakes are found when the config is composed or used.
"""

import argparse
import re
import shlex
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from frostline.config import hints
from frostline.console.errors import FrostlineError, allowed

OUTPUT_FILES = {
    "compare": ("out",),
    "export": ("out",),
    "plan": ("picture",),
    "predict": ("out", "html"),
    "show": ("out",),
}
"""Command → its options that name a file to write. In other commands, `out` is a folder."""
RUNS = ("finetune", "pretrain", "probe", "lr-find")
"""The commands that write into runs/COMMAND unless `out` names a folder."""
_PLAIN = re.compile(r"[^\"'\\$\[\]{}()]+")
"""Values that Hydra takes as they are."""


def check(arguments: argparse.Namespace) -> None:
    """Refuse unread keys, misspelt timm models, missing data, weights or images, and outputs without a place.

    Raises:
        FrostlineError: with the key, the value, and the nearest names that exist.
    """
    if arguments.command_name == "predict":
        for place, image in enumerate(arguments.images, start=1):
            hints.check_path("images", image, hints.IMAGES, arguments.images[place:])
    _check_outputs(arguments)
    if not hasattr(arguments, "overrides"):
        return
    lists, shows = getattr(arguments, "multirun", False), bool(getattr(arguments, "cfg", None))
    _check_stray(arguments.overrides)
    if arguments.overrides:
        from frostline.pipeline import unread

        unread.check(name_of(arguments), arguments.overrides, sweep=lists or shows)
    if shows:
        return
    typed = dict(_plain(arguments.overrides))
    if typed.get("out", "null") != "null" and not lists and _is_folder(arguments):
        _check_folder(Path(typed["out"]))
    elif arguments.command_name in RUNS and not getattr(arguments, "out", None):
        _check_folder(Path("runs", arguments.command_name))
    for key, text in typed.items():
        for value in text.split(",") if lists else [text]:
            # Whether the command line alone shows that the backbone is one of timm's.
            timm = typed.get("backbone") == "timm" or not {"backbone", "experiment"} & typed.keys()
            if key == "backbone.name" and timm:
                _check_model(value)
            # With --images, `plan` reads no data set.
            if not (getattr(arguments, "images", None) and key.startswith(("dataset.", "source."))):
                hints.check_place(key, value)


def name_of(arguments: argparse.Namespace) -> str:
    """Return the name of the command, with the option that decides which keys it reads."""
    name: str = arguments.command_name
    return f"{name} --stage pretrain" if getattr(arguments, "stage", None) == "pretrain" else name


def _plain(overrides: list[str]) -> Iterator[tuple[str, str]]:
    for override in overrides:
        key, _, value = override.partition("=")
        if _PLAIN.fullmatch(value):
            yield key.lstrip("+"), value


def _check_outputs(arguments: argparse.Namespace) -> None:
    """Refuse options that name a file or folder to write where it can't be written."""
    for option in OUTPUT_FILES.get(arguments.command_name, ()):
        if path := getattr(arguments, option):
            if path.is_dir():
                raise FrostlineError(f"--{option}: {path} is a folder; name a file")
            _check_writable(f"--{option}", path.parent, "file")
    if _is_folder(arguments) and arguments.out:
        _check_folder(arguments.out)


def _is_folder(arguments: argparse.Namespace) -> bool:
    """Return whether the command writes into a folder `out`."""
    return hasattr(arguments, "out") and arguments.command_name not in OUTPUT_FILES


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise FrostlineError(f"out: {out} is a file; name a folder")
    _check_writable("out", out, "folder")


def _check_writable(option: str, folder: Path, what: str) -> None:
    """Refuse a folder in which no file can be made; a missing one is made where it will be."""
    from frostline.base.files import existing_part

    existing = existing_part(folder)
    try:
        with tempfile.TemporaryFile(dir=existing):  # permissions alone don't tell on /proc, or for root
            pass
    except OSError as error:
        raise FrostlineError(
            f"{option}: can't write into {existing} ({error.strerror}); name another {what}"
        ) from None


def _check_stray(words: list[str]) -> None:
    """Refuse a word that is no override after one: the rest of a value with a space, which lacks quotes."""
    for before, word in pairwise(words):
        if "=" in before and "=" not in word and not word.startswith("~"):
            raise FrostlineError(
                f"{word}: is no KEY=VALUE; quote a value that has spaces: {shlex.quote(f'{before} {word}')}"
            )


def _check_model(name: str) -> None:
    from frostline.config import timm_models

    architecture = name.removeprefix("timm/").partition(".")[0]
    known = timm_models.names()
    if re.search(r"[:/]", architecture) or not known or architecture in known | timm_models.deprecated():
        return
    raise FrostlineError(f"backbone.name: timm has no {name!r}; {allowed(architecture, known)}")
