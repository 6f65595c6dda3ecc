"""Overrides as people type them, spelled as Hydra's grammar wants them."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from frostline import project
from frostline.errors import FrostlineError, allowed

STAGES_OF_PRETRAINING = (
    "weights",
    "freeze",
    "optimizer",
    "loss",
    "adapter",
    "regularizer",
    "averaging",
    "augment",
    "features",
    "trainer",
)
"""The groups that pretraining has of its own, under `pretrain.`."""
OF_A_HEAD = ("optimizer.lr", "optimizer.weight_decay", "loss.label_smoothing", "seed")
"""The keys in which runs may differ whose heads are trained at once."""
_PLAIN = re.compile(r"[A-Za-z0-9_/\\+.$%*@?|:=, -]*")
"""What Hydra's grammar takes without quotes."""
_STRUCTURED = re.compile(r"""\s*(['"{\[]|\$\{|\w+\()""")
"""How a value begins that Hydra should read by itself: quoted, a list, an interpolation, a function."""


def spelled(override: str, sweep: bool = False) -> str:
    """Spell an override as Hydra wants it: ``source=x`` picks a dataset, paths and odd characters get quotes.

    >>> spelled("source=mnist5k"), spelled("source.shots=3"), spelled("pretrain.optimizer=sgd")
    ('dataset@source=mnist5k', 'source.shots=3', 'optimizer@pretrain.optimizer=sgd')
    >>> spelled("dataset.root=my pictures, sorted")
    "dataset.root='my pictures, sorted'"

    Args:
        override: KEY=VALUE, with Hydra's +, ++ or ~ before it.
        sweep: commas separate the values of a sweep.

    Raises:
        FrostlineError: there is no such option.
    """
    key, equals, value = override.partition("=")
    bare = key.lstrip("+~")
    mark = key.removesuffix(bare)
    if not bare:
        raise FrostlineError(f"{override!r} is not an override; write key=value, such as seed=1")
    if not equals:
        return override
    if group := _group(bare):
        if value.startswith(("{", "${")):
            return override
        for option in value.split(",") if sweep else [value]:
            _check_option(bare, group, option.strip(" '\""))
        return override if group == bare else f"{mark}{group}@{bare}={value}"
    if _STRUCTURED.match(value) or (not _is_path(bare) and _PLAIN.fullmatch(value)):
        return override
    values = value.split(",") if sweep else [value]
    if _is_path(bare):
        values = [str(Path(v).expanduser()) if v.startswith("~") else v for v in values]
    return f"{key}={','.join(v if v in ('', 'null') else _quoted(v) for v in values)}"


def as_typed(override: str) -> str:
    """Undo what `spelled` does to a choice of option.

    >>> as_typed("dataset@source=mnist5k"), as_typed("seed=1")
    ('source=mnist5k', 'seed=1')
    """
    return re.sub(r"^[\w/]+@", "", override)


def selection(params: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Turn nested params into overrides; null leaves a choice alone.

    >>> list(selection({"backbone": "mlp", "seeds": None, "pretrain": {"trainer": {"epochs": 3}}}))
    ['backbone=mlp', 'pretrain.trainer.epochs=3']
    """
    for key, value in params.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and any("." in str(inner) for inner in value):
            pairs = ",".join(f"{inner}:{_literal(bound)}" for inner, bound in value.items())
            yield f"++{name}={{{pairs}}}"  # Hydra would take the dots of gate's names for levels
        elif isinstance(value, Mapping):
            yield from selection(value, f"{name}.")
        elif value is not None:
            yield f"{name}={_literal(value)}"


def options(group: str) -> list[str]:
    """Return the options of a config group; none if there is no such group."""
    if not re.fullmatch(r"\w+(/\w+)*", group):
        return []
    return sorted(path.stem for path in (project.conf_dir() / group).glob("*.yaml"))


def _group(key: str) -> str | None:
    """The folder of conf/ whose options the key chooses from."""
    if key == "source":
        return "dataset"
    package, _, name = key.rpartition(".")
    if package == "pretrain" and name in STAGES_OF_PRETRAINING:
        return name
    return key if re.fullmatch(r"\w+", key) and options(key) else None


def _check_option(key: str, group: str, option: str) -> None:
    if option.startswith("["):
        raise FrostlineError(
            f"{key}: takes one option; to run several, add -m and write {key}={option[1:-1]}"
        )
    if option not in options(group) and not (key == "experiment" and option == "null"):
        several = "; to run several, add -m" if "," in option else ""
        raise FrostlineError(f"{key}: no option {option!r}; {allowed(option, options(group))}{several}")


def _is_path(key: str) -> bool:
    return key == "out" or key.endswith((".root", ".path"))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", r"\'") + "'"


def _literal(value: Any) -> str:
    """A value of a YAML file as Hydra's grammar writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(_literal(v) for v in value)}]"
    if isinstance(value, str) and not re.fullmatch(r"[\w./@:%-]+", value):
        return _quoted(value)
    return str(value)
