"""Find the state dicts in checkpoint files: nested, prefixed or several. Never runs code from a file."""

import pickle
import re
import warnings
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
"""What checkpoints contain besides tensors: hyperparameters, metrics. Each is replaced by an empty object."""


class Placeholder:
    """Replaces an object that is not a tensor; drops all its arguments and state."""

    def __new__(cls, *arguments: Any, **options: Any) -> "Placeholder":
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def placeholder_dict(*arguments: Any) -> dict[Any, Any]:
    """Replace a subclass of dict by a plain dict, since torch fills no other."""
    return {}


def read(path: Path, key: str | None) -> tuple[State, str]:
    """Read the state dict in a file that torch saved.

    Args:
        key: name of the state dict, such as ``model_ema``; None: the only one.

    Returns:
        The tensors, and the name of the state dict in the file, such as ``state_dict``; empty: it has none.
        If there is only one, it is returned whatever the key, which may be a prefix of tensor names instead.

    Raises:
        FrostlineError: the file is damaged, contains code, no state dict, several, or none of that name; or a
            tensor is quantized, or has no values.
    """
    try:
        # As a stream, since torch would also consider the file's name.
        with _placeholders(path), path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of torch, about kinds of tensors that it drops
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        first = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        reason = f"it calls {code[1]}" if code else first
        raise FrostlineError(
            f"weights.path: {path} holds more than tensors, or is damaged, and was not executed ({reason});"
            " save its state_dict() as safetensors"
        ) from None
    state_dicts = dict(_states(content, "", DEPTH))
    if not state_dicts:
        raise FrostlineError(f"weights.path: {path} is not a state dict; save the model's state_dict()")
    name = choose(state_dicts, key if len(state_dicts) > 1 else None, path)
    _check_values(state_dicts[name], path)
    return state_dicts[name], name


def _check_values(state: State, path: Path) -> None:
    """Refuse tensors that have no floating-point values to copy."""
    for name, tensor in state.items():
        if tensor.is_quantized:
            fault = (
                f"is quantized ({type_name(tensor.dtype)}); save the state_dict() of the model before that"
            )
        elif tensor.is_meta:
            fault = "is on the device meta, without values; load the model's weights before you save them"
        else:
            continue
        raise FrostlineError(f"weights.path: {path}: {name} {fault}")


def type_name(dtype: torch.dtype) -> str:
    """Return the name of a type of numbers, such as ``float32``."""
    return str(dtype).removeprefix("torch.")


def choose(weights: Mapping[str, Any], key: str | None, source: object) -> str:
    """Return the name of the weights to load.

    Args:
        weights: name → tensors.
        key: `weights.key` of the config.
        source: name of the file in errors.

    Raises:
        FrostlineError: there are several and `key` is None, or none has the name `key`.
    """
    named = sorted(name for name in weights if name)
    if key is not None:
        if key not in weights:
            hint = allowed(key, named) if named else "set weights.key=null, since it holds only one"
            raise FrostlineError(f"weights.key: {source} has no weights {key!r}; {hint}")
        return key
    if len(weights) > 1:
        listed = ", ".join(f"{name or 'plain keys'} ({len(weights[name])} keys)" for name in sorted(weights))
        choices = " or ".join(f"weights.key={name}" for name in named)
        raise FrostlineError(f"weights.path: {source} holds several weights, {listed}; set {choices}")
    return next(iter(weights))


def prefixes(state: Collection[str], wanted: Collection[str]) -> dict[str, list[str]]:
    """Return the prefixes that match most of a network's names, and the names that each matches.

    Args:
        state: names in the file, such as ``module.conv1.weight``.
        wanted: names in the network, such as ``conv1.weight``.

    Returns:
        Prefix, such as ``module.`` → names in the network; empty if no name matches. If there are several
        prefixes, they match equally many names.
    """
    names, matches = frozenset(wanted), dict[str, list[str]]()
    for key in state:
        parts = key.split(".")
        for i in range(len(parts)):
            if (name := ".".join(parts[i:])) in names:
                matches.setdefault(key.removesuffix(name), []).append(name)
    most = max(map(len, matches.values()), default=0)
    return {prefix: names for prefix, names in matches.items() if len(names) == most}


def _states(content: Any, name: str, depth: int) -> Iterator[tuple[str, State]]:
    """Yield the state dicts in the content of a file, with their names."""
    if not isinstance(content, Mapping) or not depth:
        return
    if _is_state(content):
        yield name, {key: value for key, value in content.items() if value is not None}
        return
    for key, inner in content.items():
        # Optimizer states have the same names and shapes as parameters.
        if isinstance(key, str) and "optim" not in key.lower():
            yield from _states(inner, f"{name}.{key}" if name else key, depth - 1)


def _is_state(content: Mapping[Any, Any]) -> bool:
    """Return whether the content maps names to tensors, not all of them scalars."""
    return (
        all(isinstance(key, str) for key in content)
        and all(isinstance(value, torch.Tensor | None) for value in content.values())
        and any(isinstance(value, torch.Tensor) and value.ndim for value in content.values())
    )


def _placeholders(path: Path) -> AbstractContextManager[Any]:
    """Let torch load a `Placeholder` instead of each harmless object of a library."""
    try:
        needed = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (ValueError, RuntimeError, OSError, EOFError, pickle.UnpicklingError):  # damaged, or an old format
        return nullcontext()
    inert = [name for name in needed if name in INERT or name.startswith(INERT_LIBRARIES)]
    places: list[Any] = [
        (placeholder_dict if name.lower().endswith("dict") else Placeholder, name) for name in inert
    ]
    return torch.serialization.safe_globals(places)
