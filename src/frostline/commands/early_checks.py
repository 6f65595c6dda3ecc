"""Refuse words that name what does not exist, before a command imports torch, which takes seconds.

Checked are the images to predict, and overrides on the command line with plain values. Other mistakes are
found when the config is composed or used.
"""

import argparse
import difflib
import re
from collections.abc import Iterator
from pathlib import Path

from frostline.console.errors import FrostlineError, allowed

PATHS = {
    "root": "give the folder of the images",
    "file": "give the file of the data set",
    "path": "give the folder of the data set",
}
"""Last part of a data set's key → what its value has to be."""
IMAGES = "give image files, folders or tables"
WEIGHTS = "give a .safetensors or .pth file"
_PLAIN = re.compile(r"[^\"'\\$\[\]{}()]+")
"""Values that Hydra takes as they are."""


def check(arguments: argparse.Namespace) -> None:
    """Refuse a misspelt timm model, and a missing folder or file of data, weights or images.

    Args:
        arguments: of `predict` or a command with overrides; others pass.

    Raises:
        FrostlineError: with the key, the value, and the nearest names that exist.
    """
    if arguments.command_name == "predict":
        for image in arguments.images:
            _check_path("images", image, IMAGES)
    if not hasattr(arguments, "overrides") or getattr(arguments, "cfg", None):
        return
    lists = getattr(arguments, "multirun", False)
    typed = dict(_plain(arguments.overrides))
    for key, text in typed.items():
        for value in text.split(",") if lists else [text]:
            # Whether the command line alone shows that the backbone is one of timm's.
            timm = typed.get("backbone") == "timm" or not {"backbone", "experiment"} & typed.keys()
            if key == "backbone.name" and timm:
                _check_model(value)
            section, _, name = key.rpartition(".")
            # With --images, `plan` reads no data set.
            if section in ("dataset", "source") and name in PATHS and not getattr(arguments, "images", None):
                _check_path(key, value, PATHS[name])
            elif key in ("weights.path", "pretrain.weights.path"):
                _check_path(key, value, WEIGHTS)
                _check_weights(key, value)


def _plain(overrides: list[str]) -> Iterator[tuple[str, str]]:
    for override in overrides:
        key, _, value = override.partition("=")
        if _PLAIN.fullmatch(value):
            yield key.lstrip("+"), value


def _check_model(name: str) -> None:
    from frostline.config import timm_models

    architecture = name.removeprefix("timm/").partition(".")[0]
    known = timm_models.names()
    if re.search(r"[:/]", architecture) or not known or architecture in known | timm_models.deprecated():
        return
    raise FrostlineError(f"backbone.name: timm has no {name!r}; {allowed(architecture, known)}")


def _check_weights(key: str, value: str) -> None:
    """Refuse the folder of a run, and name the file in it."""
    from frostline.config import hints

    if inside := hints.weights_in(value):
        raise FrostlineError(f"{key}: {value} is the folder of a run; write {hints.shell_word(key, inside)}")


def _check_path(key: str, value: str, advice: str) -> None:
    path = Path(value).expanduser()
    if value == "null" or path.exists() or path.is_symlink():
        return
    siblings = [entry.name for entry in path.absolute().parent.glob("*")]
    near = difflib.get_close_matches(path.name, siblings, n=3)
    hint = f"; did you mean {' or '.join(str(path.with_name(name)) for name in near)}?" if near else ""
    raise FrostlineError(f"{key}: {value} doesn't exist: {advice}{hint}")
