"""Weights move strictly: every key is accounted for, nothing is skipped in silence, no pickle is executed."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from frostline.core.head_start import RANDOM, HeadStart
from frostline.errors import FrostlineError
from frostline.files import canonical_json, write_bytes
from frostline.names import nfc

METADATA = "frostline"
RIGHT_BACKBONE = "choose the backbone that the weights were made with"


@dataclass(frozen=True)
class LoadReport:
    """What became of each key; the names are sorted."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    """In the network, not in the weights."""
    unexpected: tuple[str, ...]
    """In the weights, not in the network."""
    reset: tuple[str, ...]
    """Not taken on purpose: the head."""
    head: HeadStart = RANDOM
    """What the head starts from."""

    def to_dict(self) -> dict[str, list[str]]:
        """Return the names as plain lists."""
        return {key: list(getattr(self, key)) for key in ("loaded", "missing", "unexpected", "reset")}

    def summary(self) -> str:
        """Return the counts in a line."""
        return ", ".join(f"{len(names)} {what}" for what, names in self.to_dict().items())


def detached(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy that training does not change, on the CPU, plane by plane as files keep it."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def transfer(
    model: nn.Module,
    state: Mapping[str, torch.Tensor],
    head: Collection[str],
    *,
    reset_head: bool,
    source: str,
) -> LoadReport:
    """Copy `state` into `model`.

    Args:
        model: the network; its parameters and buffers are overwritten.
        state: name → tensor.
        head: the names of the network's head, as they are in both.
        reset_head: leave the network's head as it is.
        source: what to call the weights in an error.

    Raises:
        FrostlineError: no key matches, one is missing or unexpected, or a shape differs.
    """
    own = model.state_dict()
    reset = frozenset(head) if reset_head else frozenset()
    wanted, given = own.keys() - reset, state.keys() - reset
    if not wanted & given:
        raise FrostlineError(
            f"{source}: none of its {len(state)} keys is in the network"
            f" ({_few(given)} there, {_few(wanted)} here); {RIGHT_BACKBONE}"
        )
    shapes = sorted(k for k in wanted & given if own[k].shape != state[k].shape)
    if shapes and set(shapes) <= set(head):
        there, here = (tuple(s[shapes[-1]].shape) for s in (state, own))
        raise FrostlineError(
            f"weights.head: the weights' head has {there[0]} outputs, the data set {here[0]} classes;"
            " set weights.head=reset"
        )
    if shapes:
        there, here = (tuple(s[shapes[0]].shape) for s in (state, own))
        raise FrostlineError(
            f"{source}: {shapes[0]} has shape {there}, the network wants {here};"
            " use the backbone, input.size and input.channels that the weights were made with"
        )
    missing, unexpected = sorted(wanted - given), sorted(given - wanted)
    if missing or unexpected:
        raise FrostlineError(
            f"{source}: {len(missing)} keys are missing ({_few(missing)}) and {len(unexpected)} unexpected"
            f" ({_few(unexpected)}); {RIGHT_BACKBONE}"
        )
    model.load_state_dict({k: state[k] for k in wanted}, strict=False)
    return LoadReport(tuple(sorted(wanted)), (), tuple(unexpected), tuple(sorted(reset & own.keys())))


def save(path: Path, state: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
    """Write `state` and what there is to know `about` it as safetensors; equal content gives equal bytes."""
    from safetensors.torch import save as serialise

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    # One metadata key: with several, safetensors writes them in random order.
    about_text = json.dumps(json.loads(canonical_json(dict(about))), sort_keys=True, ensure_ascii=False)
    write_bytes(path, serialise(tensors, metadata={METADATA: about_text}))


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
    """Read weights from safetensors, or from a state dict that torch saved.

    Returns:
        The tensors, and what frostline wrote about them, None where it did not.

    Raises:
        FrostlineError: the file is missing, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise FrostlineError(f"weights.path: {path} is not a file; name a .safetensors or .pth")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0][:120]
        raise FrostlineError(
            f"weights.path: {path} holds more than tensors, or is damaged, and was not executed ({reason});"
            " save its state_dict() as safetensors"
        ) from None
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise FrostlineError(f"weights.path: {path} is not a state dict; save the model's state_dict()")
    return dict(state), None


def _load_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            about = (file.metadata() or {}).get(METADATA)
            known = json.loads(about) if about else None
            if known and "classes" in known:
                known["classes"] = [nfc(name) for name in known["classes"]]
            return {name: file.get_tensor(name) for name in file.keys()}, known  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError) as error:
        raise FrostlineError(
            f"weights.path: {path} is damaged ({error}); copy or download it again"
        ) from None


def _few(names: Collection[str], limit: int = 3) -> str:
    listed = sorted(names)
    return ", ".join(listed[:limit]) + (", …" if len(listed) > limit else "") if listed else "none"
