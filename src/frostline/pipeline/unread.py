"""Refuse overrides that have no effect, and name the keys that a command reads instead."""

import re
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from frostline.config import hints
from frostline.config.overrides import PRETRAIN_GROUPS, to_hydra
from frostline.console.errors import FrostlineError
from frostline.schema import Experiment, needs_pretraining

Replaced = Mapping[str, str | None]
"""First part of keys that a command does not read → what it reads in place of it; None: nothing."""
_STUDY: Replaced = {"seeds": None, "folds": None, "gate": None}
_PRETRAIN: Replaced = {
    **{group: f"pretrain.{group}" for group in PRETRAIN_GROUPS},
    "dataset": "source",
    "seed": "pretrain.seed",
    "evaluate": None,
    "seeds": "pretrain.seed",
    "folds": "source.fold",
    "gate": None,
}
COMMANDS: Mapping[str, Replaced] = {
    "finetune": {"seeds": "seed", "folds": "dataset.fold", "gate": None},
    "pretrain": _PRETRAIN,
    "plan --stage pretrain": {**_PRETRAIN, "seeds": None, "folds": None},
    "probe": {**_STUDY, "seeds": "seed"},
    "prepare": {**_STUDY, "source": "dataset"},
}
"""What each command does not read; other commands read what a fine-tuning reads."""
SWEEP = ("sweep", "hydra.launcher", "hydra.sweeper", "hydra.sweep")
"""First parts of the keys that configure a sweep."""
SINGLE_RUNS = ("seed", "out", "sweep", "hydra")
"""First parts of the keys that single runs read, but no stage of a study."""
SWEEPING = ("finetune", "pretrain")
"""The commands that have -m."""


def check(command: str, overrides: Sequence[str], *, sweep: bool = False) -> None:
    """Refuse overrides that would have no effect.

    Args:
        command: such as ``pretrain`` or ``plan --stage pretrain``.
        overrides: as typed.
        sweep: whether the keys that configure a sweep have an effect.

    Raises:
        FrostlineError: with the overrides to write instead.
    """
    typed = {_key(override): override for override in overrides if not override.startswith("~")}
    replaced = {**COMMANDS.get(command, _STUDY), **({} if sweep else dict.fromkeys(SWEEP))}
    unread, instead = [], []
    for key, override in typed.items():
        words = _frostlines(key, override, typed)
        if all(_read(replaced, _key(word)) == _key(word) for word in words):
            continue
        unread.append(key)
        try:
            lists = sweep or command not in SWEEPING
            instead += [text for word in words if (text := _instead(replaced, word, typed, lists=lists))]
        except FrostlineError as error:
            raise FrostlineError(f"{key}: {command} does not read this key; {error}") from None
    if unread:
        these, them = ("this key", "it") if len(unread) == 1 else ("these keys", "them")
        fix = f"write {' '.join(dict.fromkeys(instead))}" if instead else f"leave {them} out"
        if command in SWEEPING and all(_group(key) in SWEEP for key in unread):
            these, fix = f"{these} without -m", "add it (in Python, call fl.sweep)"
        raise FrostlineError(f"{', '.join(unread)}: {command} does not read {these}; {fix}")


def check_space(command: str, keys: Sequence[str]) -> None:
    """Refuse keys of a sweep's `sweep.space`, whose trials would all be the same.

    Raises:
        FrostlineError: with the key to vary instead.
    """
    for key in keys:
        if (read := _read(COMMANDS[command], key)) != key:
            fix = f"vary {read}" if read else "leave it out"
            raise FrostlineError(f"sweep.space: {key}: {command} does not read this key; {fix}")


def warn_of_source(composed: Experiment, choices: Mapping[str, str], overrides: Sequence[str]) -> None:
    """Print a warning if overrides configure a pretraining, but the weights of a fine-tune need none.

    Args:
        choices: the selected option of each config group.
    """
    unused = [key for key in map(_key, overrides) if _group(key) in ("source", "pretrain")]
    if unused and not needs_pretraining(composed.weights):
        print(
            f"frostline: warning: {', '.join(unused)}: not used, since weights={choices['weights']} needs no"
            " pretraining on the source; weights=pretrain does",
            file=sys.stderr,
        )


def check_selection(params: Mapping[str, Any]) -> None:
    """Refuse keys of params.yaml that no stage of a study reads.

    Raises:
        FrostlineError: with what to set instead of a seed.
    """
    unread = [
        key for key, value in params.items() if re.split(r"[./]", key)[0] in SINGLE_RUNS and value is not None
    ]
    if unread:
        seed = params.get("seed")
        seeds = seed if isinstance(seed, list) else [seed]
        fix = f"set seeds: {seeds}" if unread[0] == "seed" else "remove it"
        raise FrostlineError(f"params.yaml: {unread[0]}: a study does not read this key; {fix}")


def renamed(command: str, overrides: str) -> str:
    """Return overrides, as a shell takes them, with the keys that a command reads."""
    replaced = COMMANDS.get(command, _STUDY)
    pairs = (word.partition("=")[::2] for word in shlex.split(overrides))
    return " ".join(hints.shell_word(_read(replaced, key) or key, value) for key, value in pairs)


def _key(override: str) -> str:
    """Return the key that an override sets: ``source`` for ``dataset@source=x``."""
    return override.partition("=")[0].lstrip("+").rpartition("@")[2]


def _frostlines(key: str, override: str, typed: Collection[str]) -> list[str]:
    """Return the overrides that are meant by one whose key may be another tool's."""
    if key not in hints.KEYS:
        return [override]
    value = override.partition("=")[2]
    return shlex.split(hints.written(hints.KEYS[key], value, typed))


def _group(key: str) -> str:
    """Return the first part of a key, of Hydra's own the first two, such as ``hydra.launcher``."""
    first, second, *_ = *re.split(r"[./]", key), ""
    return f"{first}.{second}" if first == "hydra" else first


def _read(replaced: Replaced, key: str) -> str | None:
    """Return the key that is read in place of a key: the same one if that is read; None: none is."""
    group = _group(key)
    if group not in replaced:
        return key
    read = replaced[group]
    return None if read is None else read + key.removeprefix(group)


def _instead(replaced: Replaced, override: str, typed: Collection[str], *, lists: bool) -> str | None:
    """Return what to write instead of an override, as a shell takes it; None: nothing, or it is typed too.

    Args:
        lists: whether the command takes lists without another -m.

    Raises:
        FrostlineError: the key that is read has no such option.
    """
    key, (_, _, value) = _key(override), override.partition("=")
    read = _read(replaced, key)
    if read is None or read in typed or (read, value) == ("pretrain.weights", "pretrain"):
        return None
    several = ""
    if key in ("seeds", "folds"):
        value = value.strip("[] ").replace(" ", "")
        several = "-m " if "," in value and not lists else ""
    to_hydra(f"{read}={value}", sweep=lists)
    return several + hints.shell_word(read, value)
