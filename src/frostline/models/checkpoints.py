"""Finds the state dicts in files that people have: nested, prefixed, several. Runs no code in them."""

import pickle
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from frostline.console.errors import FrostlineError, allowed

State = Mapping[str, torch.Tensor]
DEPTH = 4
"""Levels of nesting that are searched for state dicts."""
INERT = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "collections.defaultdict",
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "set", "str", "tuple")),
)
INERT_LIBRARIES = (
    "numpy.",
    "omegaconf.",
    "pytorch_lightning.",
    "lightning.",
    "lightning_fabric.",
    "timm.",
    "torchvision.",
    "typing.",
    "yacs.",
)
"""What checkpoints hold beside tensors: hyperparameters, metrics. An empty object takes each one's place."""


class Blank:
    """Takes the place of what is not a tensor; whatever it is made of or given is dropped."""

    def __new__(cls, *arguments: Any, **options: Any) -> "Blank":
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def blank_dict(*arguments: Any) -> dict[Any, Any]:
    """Take the place of a kind of dict, which torch fills only if it is a plain one."""
    return {}


def read(path: Path, key: str | None) -> tuple[State, str]:
    """Read the state dict in a file that torch saved.

    Args:
        path: the file.
        key: which of several, such as ``model_ema``; None: the only one.

    Returns:
        The tensors, and the name under which they lay in the file, such as ``state_dict``; empty: none. The
        only ones are returned whatever the key: it may be a prefix of their names.

    Raises:
        FrostlineError: the file is damaged, holds code, no state dict, several, or none of that name.
    """
    try:
        # From a stream, since torch goes by a file's name, too.
        with _blanks(path), path.open("rb") as stream:
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        first = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        reason = f"it calls {code[1]}" if code else first
        raise FrostlineError(
            f"weights.path: {path} holds more than tensors, or is damaged, and was not executed ({reason});"
            " save its state_dict() as safetensors"
        ) from None
    found = dict(_states(content, "", DEPTH))
    if not found:
        raise FrostlineError(f"weights.path: {path} is not a state dict; save the model's state_dict()")
    name = chosen(found, key if len(found) > 1 else None, path)
    return found[name], name


def chosen(found: Mapping[str, Any], key: str | None, source: object) -> str:
    """Return the name of the weights to take.

    Args:
        found: name → weights.
        key: the name that the config gives.
        source: what to call the file in an error.

    Raises:
        FrostlineError: there are several and none is named, or the one that is named is not there.
    """
    named = sorted(name for name in found if name)
    if key is not None:
        if key not in found:
            hint = allowed(key, named) if named else "set weights.key=null, since it holds only one"
            raise FrostlineError(f"weights.key: {source} has no weights {key!r}; {hint}")
        return key
    if len(found) > 1:
        listed = ", ".join(f"{name or 'plain keys'} ({len(found[name])} keys)" for name in sorted(found))
        choices = " or ".join(f"weights.key={name}" for name in named)
        raise FrostlineError(f"weights.path: {source} holds several weights, {listed}; set {choices}")
    return next(iter(found))


def prefixes(state: Collection[str], wanted: Collection[str]) -> dict[str, list[str]]:
    """Return the prefixes behind which most of a network's names are, and the names behind each.

    Args:
        state: names in a file, such as ``module.conv1.weight``.
        wanted: names in the network, such as ``conv1.weight``.

    Returns:
        Prefix, such as ``module.`` → names in the network; empty where no name is found. Several prefixes
        have equally many names.
    """
    names, found = frozenset(wanted), dict[str, list[str]]()
    for key in state:
        parts = key.split(".")
        for i in range(len(parts)):
            if (name := ".".join(parts[i:])) in names:
                found.setdefault(key.removesuffix(name), []).append(name)
    most = max(map(len, found.values()), default=0)
    return {prefix: names for prefix, names in found.items() if len(names) == most}


def _states(content: Any, name: str, depth: int) -> Iterator[tuple[str, State]]:
    """The state dicts in a file's content, by the names under which they lie."""
    if not isinstance(content, Mapping) or not depth:
        return
    if _is_state(content):
        yield name, {key: value for key, value in content.items() if value is not None}
        return
    for key, inner in content.items():
        # An optimizer's averages have the parameters' names and shapes.
        if isinstance(key, str) and "optim" not in key.lower():
            yield from _states(inner, f"{name}.{key}" if name else key, depth - 1)


def _is_state(content: Mapping[Any, Any]) -> bool:
    """Whether it is names and tensors, and more than single numbers."""
    return (
        all(isinstance(key, str) for key in content)
        and all(isinstance(value, torch.Tensor | None) for value in content.values())
        and any(isinstance(value, torch.Tensor) and value.ndim for value in content.values())
    )


def _blanks(path: Path) -> AbstractContextManager[Any]:
    """Let torch put a `Blank` where a file has an object of a library's that is no code to run."""
    try:
        needed = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (ValueError, RuntimeError, OSError, EOFError, pickle.UnpicklingError):  # damaged, or an old format
        return nullcontext()
    inert = [name for name in needed if name in INERT or name.startswith(INERT_LIBRARIES)]
    places: list[Any] = [(blank_dict if name.lower().endswith("dict") else Blank, name) for name in inert]
    return torch.serialization.safe_globals(places)
