"""Which of Hydra's own keys configs and overrides may set: none through which Hydra would run code."""

import re
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from frostline.config.overrides import options
from frostline.console.errors import FrostlineError, allowed

TARGETS = {
    "launcher": (
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
        "hydra_plugins.frostline_ray.RayLauncher",
    ),
    "sweeper": (
        "hydra_plugins.frostline_sweeper.FrostlineSweeper",
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    ),
}
"""The classes that Hydra may instantiate."""
OPEN_KEYS = ("hydra.launcher.", "hydra.sweep.", "hydra.run.")
"""Hydra's own keys that overrides may set, besides the groups in TARGETS."""


def not_open(key: str, where: str = "") -> FrostlineError:
    """Return the error for a key of Hydra that is not open; `where` precedes it."""
    groups = ", ".join(f"hydra/{group}" for group in TARGETS)
    return FrostlineError(
        f"{where}{key}: not open to configs and overrides, since it may name code; remove it (of Hydra's own"
        f" keys, {groups}, hydra.launcher.KEY and hydra.sweep.KEY are open)"
    )


def check_override(override: Override) -> None:
    """Raise an error if an override sets a key of Hydra that is not open."""
    key = override.key_or_group
    text = str(override.input_line)
    if not re.match(r"hydra(\W|$)", key):
        if (
            override.type == OverrideType.DEL
            and options(key)
            and not isinstance(override.value(), str | None)
        ):
            raise FrostlineError(f"{short(text)}: names no option; write ~{key}")
        return
    group = key.removeprefix("hydra/")
    if group in TARGETS and override.type == OverrideType.CHANGE and override.package is None:
        if not isinstance(override.value(), str):
            raise FrostlineError(f"{short(text)}: takes one option; {_launchers(group)}")
        return
    if not key.startswith(OPEN_KEYS) or any(step.startswith("_") for step in key.split(".")):
        raise not_open(short(key))


def _launchers(group: str) -> str:
    own = {"launcher": ["basic", *options("hydra/launcher")], "sweeper": ["basic", "frostline"]}
    return allowed("", own[group])


def check_hydra(config: DictConfig) -> None:
    """Raise an error if a config makes Hydra instantiate, import or export anything."""
    hydra = config.hydra
    for group, known in TARGETS.items():
        settings = OmegaConf.to_container(hydra[group], resolve=True)
        assert isinstance(settings, dict)
        target = settings.pop("_target_", None)
        if target not in known:
            raise FrostlineError(
                f"hydra.{group}._target_: found {short(repr(target))}; choose one by name,"
                f" hydra/{group}=NAME; {_launchers(group)}"
            )
        if inner := _instantiated_key(settings):
            raise not_open(f"hydra.{group}.{inner}")
    if hydra.callbacks:
        raise not_open(f"hydra.callbacks.{short(str(next(iter(hydra.callbacks))))}")
    for name in ("env_copy", "env_set"):
        if hydra.job[name]:
            raise not_open(f"hydra.job.{name}")
    for name in ("job_logging", "hydra_logging"):
        if OmegaConf.to_container(hydra[name], resolve=False) != _logging(name):
            raise not_open(f"hydra.{name}")


@cache
def _logging(name: str) -> Any:
    """Return Hydra's default config of logging."""
    return yaml.safe_load((files("hydra.conf") / f"hydra/{name}/default.yaml").read_text(encoding="utf-8"))


def _instantiated_key(settings: Any) -> str | None:
    """Return the path of a key that `hydra.utils.instantiate` acts on."""
    items: Any = (
        settings.items()
        if isinstance(settings, dict)
        else enumerate(settings)
        if isinstance(settings, list)
        else ()
    )
    for key, value in items:
        if re.fullmatch(r"_\w+_", str(key)):
            return str(key)
        if inner := _instantiated_key(value):
            return f"{key}.{inner}"
    return None


def short(text: str) -> str:
    """Return text for a sentence: one line, at most 100 characters."""
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:99]}…"
