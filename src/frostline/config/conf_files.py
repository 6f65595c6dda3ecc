"""Refuse a file of `conf/` that Hydra would load otherwise than it is meant."""

import re
from pathlib import Path
from typing import Any

from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, ListConfig, OmegaConf

from frostline.base import project
from frostline.base.formats import read_yaml
from frostline.config.overrides import options
from frostline.console.errors import FrostlineError, allowed

GLOBAL = "_global_"
HEADER = f"# @package {GLOBAL}"
EXPERIMENT = "experiment/"
MARK = "\ufeff"
"""The byte order mark that editors on Windows write; Hydra does not see a header after it."""


def check_text(path: Path, text: str) -> None:
    """Refuse a file whose header Hydra does not read.

    Raises:
        FrostlineError: it starts with a byte order mark, or has more words in its header than Hydra allows.
    """
    if text.startswith(MARK):
        raise FrostlineError(f"{path}: starts with a byte order mark (BOM); save it as UTF-8 without BOM")
    for line in text.splitlines():
        if line.strip() and not line.strip().startswith("#"):
            return
        if re.match(r"\s*#\s*@", line) and len(line.strip().lstrip("#").split()) != 2:
            raise FrostlineError(f"{path}: {line.strip()!r} is not a header; write {HEADER!r}, nothing more")


def check_loaded(path: Path, name: str, result: ConfigResult) -> None:
    """Refuse keys and a defaults list that Hydra ignores or fails on.

    Args:
        name: of the config, such as ``experiment/mine``.

    Raises:
        FrostlineError: names the file, and what to write.
    """
    config: Any = result.config
    if isinstance(config, ListConfig):
        raise FrostlineError(f"{path}: found a list, must be keys with values")
    if not isinstance(config, DictConfig):
        return
    for key in config:
        if not (isinstance(key, str) and key):
            raise FrostlineError(f"{path}: {key!r} is not a key; write a name, in quotes if YAML needs them")
    defaults = OmegaConf.to_container(config, resolve=False).get("defaults", [])  # type: ignore[union-attr]
    if not isinstance(defaults, list) or any(not isinstance(item, str | dict) for item in defaults):
        raise FrostlineError(
            f"{path}: defaults: must be a list of `GROUP: OPTION`, such as `- override /loss: bce`"
        )
    if name.startswith(EXPERIMENT):
        _check_experiment(path, result)


def _check_experiment(path: Path, result: ConfigResult) -> None:
    if result.header.get("package") != GLOBAL:
        raise FrostlineError(
            f"{path}: lacks the header of an experiment, which sets keys of all groups; write {HEADER!r} in"
            " the first line"
        )
    for key, value in OmegaConf.to_container(result.config, resolve=False).items():  # type: ignore[union-attr]
        if isinstance(value, str) and "${" not in value and key in groups():
            raise FrostlineError(
                f"{path}: {key}: found {value!r}, must be keys with values; to choose an option, write"
                f" `- override /{key}: {value}` at the end of its defaults"
            )


def groups() -> list[str]:
    """Return what a defaults list may override, such as ``backbone`` and ``optimizer@pretrain.optimizer``."""
    defaults = read_yaml(project.packaged_conf() / "config.yaml")["defaults"]
    keys = [key for item in defaults if isinstance(item, dict) for key in item]
    return [key for key in keys if " " not in key and key != "experiment"]


def defaults_error(text: str) -> str | None:
    """Return a sentence for an error of Hydra about a defaults list; None: it is about something else."""
    if match := re.match(r"In '?([\w/-]+)'?: Override '.*?' is defined before '(.*?)'\.\s", text):
        group, _, option = re.sub(r"^experiment/|@[^: ]*", "", match[2]).replace(" ", "").partition(":")
        fix = f"write `- override /{group}: {option}`" if group in groups() else "put it first"
        return f"conf/{match[1]}.yaml: defaults: `{match[2]}` comes after an override; {fix}"
    if match := re.match(r"In '?([\w/-]+)'?: Could not override '(.*?)'\.", text):
        bare = re.sub(r"^experiment/|@.*", "", match[2])
        name = bare if options(bare) and match[2].startswith(EXPERIMENT) else match[2]
        fix = f"write `- override /{name}: …`" if name in groups() else allowed(name, groups())
        return f"conf/{match[1]}.yaml: defaults: nothing is named {match[2]!r} to override; {fix}"
    return None
