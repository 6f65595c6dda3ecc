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
PACKAGE = "experiment"
"""Where Hydra puts the keys of an experiment without a header."""
MARK = "\ufeff"
"""The byte order mark that editors on Windows write; Hydra does not see a header after it."""


def check_text(path: Path, text: str) -> None:
    """Refuse a file whose header Hydra does not read.

    Raises:
        FrostlineError: a byte order mark comes before it, or it has more words than Hydra allows.
    """
    for line in filter(str.strip, text.removeprefix(MARK).splitlines()):
        if not re.match(r"\s*#\s*@", line):
            return
        if text.startswith(MARK):
            raise FrostlineError(f"{path}: starts with a byte order mark (BOM); save it as UTF-8 without BOM")
        if len(line.strip().lstrip("#").split()) != 2:
            raise FrostlineError(
                f"{path}: {line.strip()!r} is not a header; write {HEADER!r} in an experiment, and begin no"
                " other comment with @"
            )


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
        _check_experiment(path, config)


def _check_experiment(path: Path, config: DictConfig) -> None:
    for key, value in OmegaConf.to_container(config, resolve=False).items():  # type: ignore[union-attr]
        if isinstance(value, str) and "${" not in value and key in groups():
            raise FrostlineError(
                f"{path}: {key}: found {value!r}, must be keys with values; to choose an option, write"
                f" `- override /{key}: {value}` at the end of its defaults"
            )


def check_composed(config: DictConfig) -> None:
    """Refuse a chosen experiment without a header; one that another includes needs none.

    Args:
        config: as composed, with Hydra's own part.
    """
    option = config.hydra.runtime.choices.get("experiment")
    if option is not None and PACKAGE in config:
        raise FrostlineError(_no_header(f"{EXPERIMENT}{option}"))


def _no_header(name: str) -> str:
    return (
        f"conf/{name}.yaml: lacks the header of an experiment, which sets keys of all groups; write"
        f" {HEADER!r} in the first line"
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
        if f"@{PACKAGE}." in match[2]:
            return _no_header(match[1])
        bare = re.sub(r"^experiment/|@.*", "", match[2])
        name = bare if options(bare) and match[2].startswith(EXPERIMENT) else match[2]
        fix = f"write `- override /{name}: …`" if name in groups() else allowed(name, groups())
        return f"conf/{match[1]}.yaml: defaults: nothing is named {match[2]!r} to override; {fix}"
    return None
