"""Convert overrides between the command line's short form and Hydra's grammar."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from frostline.base import project
from frostline.config import hints
from frostline.console.errors import FrostlineError, allowed
from frostline.schema.stages import Hyperparameters

PRETRAIN_GROUPS = tuple(Hyperparameters.model_fields)
"""The config groups that pretraining has too, under `pretrain.`."""
HEAD_KEYS = ("optimizer.lr", "optimizer.weight_decay", "loss.label_smoothing", "seed")
"""The keys in which runs with batched heads may differ."""
_PLAIN = re.compile(r"[A-Za-z0-9_/\\+.$%*@?|:=, -]*")
"""Values that Hydra's grammar accepts without quotes."""
_STRUCTURED = re.compile(r"""(['"])|[{\[]|\$\{|\w+\(""")
"""The start of values in Hydra's syntax: quotes, a list, an interpolation, a function."""
_STRUCTURED_PATH = re.compile(r"""['"]|(choice|glob|shuffle|sort|tag)\(""")
"""The same for a path, which may contain brackets, dollar signs and most words."""
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_WORD = re.compile(r"(?!(?:true|false|null|nan|inf)$)[a-z_./][\w./@:%-]*", re.IGNORECASE | re.ASCII)
"""Text that needs no quotes in YAML."""


def to_hydra(override: str, sweep: bool = False) -> str:
    """Convert a typed override to Hydra's syntax: ``source=x`` chooses a dataset, paths get quotes.

    >>> to_hydra("source=mnist5k"), to_hydra("source.shots=3"), to_hydra("pretrain.optimizer=sgd")
    ('dataset@source=mnist5k', 'source.shots=3', 'optimizer@pretrain.optimizer=sgd')
    >>> to_hydra("dataset.root=my pictures, sorted")
    "dataset.root='my pictures, sorted'"

    Args:
        override: KEY=VALUE, with an optional +, ++ or ~ before it.
        sweep: whether commas separate the values of a sweep.

    Raises:
        FrostlineError: the option does not exist.
    """
    key, equals, value = override.partition("=")
    bare = key.lstrip("+~")
    mark = key.removesuffix(bare)
    if not bare:
        raise FrostlineError(f"{override!r} is not an override; write key=value, such as seed=1")
    if not equals:
        if hint := None if mark else hints.of_word(override):
            raise FrostlineError(hint)
        return override
    if hint := hints.of_text(override):
        raise FrostlineError(hint)
    if group := _group(bare):
        if value.startswith(("{", "${")):
            return override
        if group == "experiment" and value == "null":
            return "~experiment"  # Hydra has no other way to choose no option
        for option in split(value) if sweep else [value]:
            _check_option(bare, group, option.strip(" '\""))
        return override if group == bare else f"{mark}{group}@{bare}={value}"
    is_path = _is_path(bare)
    values = split(value) if sweep or not is_path else [value]
    if all(_is_hydra_syntax(v, is_path) for v in values):
        return override
    if not sweep:
        values = [value]
    if is_path:
        values = [os.path.expanduser(v) for v in values]  # noqa: PTH111  # Path raises where there is no such user
    return f"{key}={','.join(v if _is_hydra_syntax(v, is_path) else _quoted(v) for v in values)}"


def split(text: str) -> list[str]:
    """Split at commas outside quotes, brackets and braces; unpaired ones are text.

    >>> split("balanced,{effective: 0.99, b: [1,2]},'a,b',it's,f(1,2),[x")
    ['balanced', '{effective: 0.99, b: [1,2]}', "'a,b'", "it's", 'f(1,2)', '[x']
    """
    pairs = _pairs(text)
    parts, start, place = [], 0, 0
    while place < len(text):
        if text[place] == ",":
            parts.append(text[start:place])
            start = place + 1
        place = pairs.get(place, place) + 1
    return [*parts, text[start:]]


def _pairs(text: str) -> dict[int, int]:
    """Return {opening position: closing position} of quotes and brackets; quotes open only before a value."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    before, place = ",", 0  # the last non-space character
    while place < len(text):
        character = text[place]
        if character in "'\"" and before in ",:([{":
            quoted = re.compile(rf"(?:\\.|[^\\{character}])*{character}", re.DOTALL).match(text, place + 1)
            if quoted:
                pairs[place] = place = quoted.end() - 1
        elif character in _CLOSING:
            opened.append(place)
        elif opened and character == _CLOSING[text[opened[-1]]]:
            pairs[opened.pop()] = place
        before = before if character == " " else character
        place += 1
    return pairs


def _is_hydra_syntax(value: str, is_path: bool) -> bool:
    """Return whether a value is in Hydra's syntax already."""
    if value in ("", "null"):
        return True
    stripped = value.strip()
    if opening := (_STRUCTURED_PATH if is_path else _STRUCTURED).match(stripped):
        return _pairs(stripped).get(opening.end() - 1) == len(stripped) - 1
    return not is_path and _PLAIN.fullmatch(value) is not None


def from_hydra(override: str) -> str:
    """Undo `to_hydra` for a choice of option.

    >>> from_hydra("dataset@source=mnist5k"), from_hydra("seed=1")
    ('source=mnist5k', 'seed=1')
    """
    return re.sub(r"^[\w/]+@", "", override)


FREE_KEYS = ("options", "groups", "gate", "test_sets")
"""Dictionaries with arbitrary keys, which no config has."""
_NAME = re.compile(r"\w+")


def to_overrides(params: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Convert nested params into overrides; null keeps the default.

    >>> list(to_overrides({"backbone": "mlp", "seeds": None, "pretrain": {"trainer": {"epochs": 3}}}))
    ['backbone=mlp', 'pretrain.trainer.epochs=3']
    """
    for key, value in params.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and (
            name.rpartition(".")[2] in FREE_KEYS or not all(map(_NAME.fullmatch, map(str, value)))
        ):
            there = {inner: content for inner, content in value.items() if content is not None}
            yield f"++{name}={_literal(there)}"  # Hydra would split the names of gate's metrics
        elif isinstance(value, Mapping):
            yield from to_overrides(value, f"{name}.")
        elif isinstance(value, str) and _is_path(name):
            yield f"{name}={_quoted(os.path.expanduser(value))}"  # noqa: PTH111
        elif value is not None:
            yield f"{name}={_literal(value)}"


def options(group: str) -> list[str]:
    """Return the options of a config group; [] if it does not exist."""
    if not re.fullmatch(r"\w+(/\w+)*", group):
        return []
    return list(project.conf_files(group))


def _group(key: str) -> str | None:
    """Return the config group whose options the key chooses from."""
    if key == "source":
        return "dataset"
    package, _, name = key.rpartition(".")
    if package == "pretrain" and name in PRETRAIN_GROUPS:
        return name
    return key if re.fullmatch(r"\w+", key) and options(key) else None


def _check_option(key: str, group: str, option: str) -> None:
    if option.startswith("["):
        raise FrostlineError(
            f"{key}: takes one option; to run several, add -m and write {key}={option[1:-1]}"
        )
    if option not in options(group):
        several = "; to run several, add -m" if "," in option else ""
        shown = option if len(option) <= 100 else f"{option[:99]}…"
        instead = hints.of_option(key, group, option) or allowed(option, options(group))
        raise FrostlineError(f"{key}: no option {shown!r}; {instead}{several}")


def _is_path(key: str) -> bool:
    return key == "out" or key.endswith((".root", ".path", ".file"))


def _quoted(text: str) -> str:
    # Only a backslash before a quote has to be escaped.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"


def _literal(value: Any) -> str:
    """Return a value of a YAML file in Hydra's grammar."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{','.join(_literal(v) for v in value)}]"
    if isinstance(value, Mapping):
        keys = (re.sub(r"([\\()\[\]{}:=, ])", r"\\\1", str(key)) for key in value)
        return f"{{{','.join(f'{key}:{_literal(v)}' for key, v in zip(keys, value.values(), strict=True))}}}"
    if isinstance(value, str) and not _WORD.fullmatch(value):
        return _quoted(value)
    return str(value)
