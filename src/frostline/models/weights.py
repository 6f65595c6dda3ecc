"""Load and save weights strictly: every key is accounted for, and no pickle is executed."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from frostline.base.files import is_html, write_bytes
from frostline.base.formats import canonical_json, parsed_json
from frostline.base.names import nfc
from frostline.base.run_folder import CHECKPOINTS, METADATA
from frostline.console.errors import FrostlineError
from frostline.console.progress import Say, no_output
from frostline.models import checkpoints
from frostline.models.checkpoints import State, type_name
from frostline.models.head_init import RANDOM, HeadInit
from frostline.models.initial_weights import InitialWeights

COUNTS = "num_batches_tracked"
HEADS = ("fc.", "classifier.", "head.", "heads.", "head_dist.", "last_linear.", "linear.")
"""Names of the classifier in common libraries."""
NAMED = 3
"""Maximum number of tensors that a sentence names."""
RIGHT_BACKBONE = "choose the backbone that the weights were made with"


@dataclass(frozen=True)
class LoadReport:
    """What happened to each key; names are sorted."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    """In the network, not in the weights."""
    unexpected: tuple[str, ...]
    """In the weights, not in the network."""
    reset: tuple[str, ...]
    """Deliberately not loaded: the head."""
    head: HeadInit = RANDOM
    """Initialization of the head."""

    def to_dict(self) -> dict[str, list[str]]:
        """Return the names as plain lists."""
        return {key: list(getattr(self, key)) for key in ("loaded", "missing", "unexpected", "reset")}


def detached(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy that training does not change, on the CPU, contiguous as in a file."""
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
        head: names of the tensors of the head.
        reset_head: whether to ignore the weights' head, so that the network's own initialization stays.
        source: name of the weights in errors.

    Raises:
        FrostlineError: no key matches, one is missing or unexpected, or a shape or kind of numbers differs.
    """
    own = model.state_dict()
    reset = frozenset(head) if reset_head else frozenset()
    wanted, available = own.keys() - reset, state.keys() - reset
    if not wanted & available:
        raise FrostlineError(
            f"{source}: none of its {len(state)} keys is in the network"
            f" (weights: {_few(available)}; network: {_few(wanted)}); {RIGHT_BACKBONE}"
        )
    shapes = sorted(k for k in wanted & available if own[k].shape != state[k].shape)
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
    _check_types(own, state, sorted(wanted & available), source)
    missing, unexpected = sorted(wanted - available), sorted(available - wanted)
    if missing or unexpected:
        raise FrostlineError(
            f"{source}: {len(missing)} keys are missing ({_few(missing)}) and {len(unexpected)} unexpected"
            f" ({_few(unexpected)}); {RIGHT_BACKBONE}"
        )
    model.load_state_dict({k: state[k] for k in wanted}, strict=False)
    return LoadReport(tuple(sorted(wanted)), (), tuple(unexpected), tuple(sorted(reset & own.keys())))


def _check_types(own: State, state: State, names: Sequence[str], source: str) -> None:
    """Refuse integers for floating-point numbers, and complex numbers for real ones."""
    for name in names:
        there, here = state[name].dtype, own[name].dtype
        if (here.is_floating_point and not there.is_floating_point) or (
            there.is_complex and not here.is_complex
        ):
            raise FrostlineError(
                f"{source}: {name} is {type_name(there)}, and the network wants {type_name(here)}; save the"
                " weights as floating-point numbers"
            )


def save(path: Path, state: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
    """Write `state` and the metadata `about` as safetensors; equal content gives equal bytes."""
    from safetensors.torch import save as serialize

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    # A single metadata key, since safetensors writes several in random order.
    about_text = json.dumps(json.loads(canonical_json(dict(about))), sort_keys=True, ensure_ascii=False)
    write_bytes(path, serialize(tensors, metadata={METADATA: about_text}))


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
    """Read weights from a safetensors or torch file; the content decides which, not the name.

    Returns:
        The tensors, and frostline's metadata about them, if any.

    Raises:
        FrostlineError: the file is missing, damaged, or contains more than tensors.
    """
    state, about, _ = load_entry(path, None, no_output)
    return state, about


def load_entry(
    path: Path, key: str | None, say: Say
) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None, str | None]:
    """Read weights like `load`, from a file that may contain several.

    Args:
        key: name of the weights; see `checkpoints.read`.
        say: receives the name of the weights in the file.

    Returns:
        What `load` returns, and `key` if it named nothing in the file, else None: `match_names` then looks
        for it among the prefixes of the tensors' names.

    Raises:
        FrostlineError: as `load`, or no weights have the name `key`.
    """
    if path.is_dir():
        files = sorted(p.name for p in path.iterdir() if p.suffix in CHECKPOINTS)
        hint = f"name the file in it, such as weights.path={path / files[0]}" if files else "name a file"
        raise FrostlineError(f"weights.path: {path} is a folder; {hint}")
    if not path.is_file():
        raise FrostlineError(f"weights.path: {path} is not a file; name a .safetensors or .pth")
    with path.open("rb") as stream:
        begin = stream.read(512)
    if not begin:
        raise FrostlineError(f"weights.path: {path} is empty; copy or download it again")
    if is_html(begin):
        raise FrostlineError(
            f"weights.path: {path} is an HTML page, not weights (a failed download?); download it again"
        )
    if begin.startswith(b"version https://git-lfs"):
        raise FrostlineError(f"weights.path: {path} is a pointer of Git LFS; run git lfs pull")
    if path.suffix == ".json":
        raise FrostlineError(
            f"weights.path: {path} is a JSON file, such as the index of weights in several files; save the"
            " model's whole state_dict() as one .safetensors"
        )
    is_torch = begin[:2] in (b"PK", b"\x80\x02")  # a zip archive, or a pickle
    if begin[8:9] == b"{" or (path.suffix == ".safetensors" and not is_torch):
        state, about = _load_safetensors(path)
        if about and key is not None:
            checkpoints.choose({"": state}, key, path)
        return state, about, key
    tensors, name = checkpoints.read(path, key)
    if name:
        say(f"weights.path: {path}: the weights are those under {name}")
    return dict(tensors), None, None if name == key else key


def _load_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FrostlineError(
            f"weights.path: {path} is damaged ({error}); copy or download it again"
        ) from None
    return state, None if text is None else _about(path, text)


def _about(path: Path, text: str) -> dict[str, Any] | None:
    """Return frostline's metadata about weights; None: there is none."""
    try:
        about = parsed_json(text)
    except ValueError:
        about = None
    if about == {}:  # the best epoch of a run whose loss became NaN
        return None
    match about:
        case {"input": dict(), "classes": list(classes)} if all(isinstance(name, str) for name in classes):
            return {**about, "classes": [nfc(name) for name in classes]}
    raise FrostlineError(
        f"weights.path: the metadata {METADATA!r} in {path} is not what frostline writes; save the tensors"
        " again without metadata, or copy the file again"
    )


def match_names(
    initial: InitialWeights, model: nn.Module, head: Collection[str], say: Say, *, reset_head: bool
) -> Mapping[str, torch.Tensor]:
    """Return the weights of a file under the network's names, if they differ only by a prefix or the head.

    Args:
        initial: the weights as in the file.
        say: receives what is stripped or left out.
        reset_head: whether the file's head is ignored.

    Raises:
        FrostlineError: several prefixes match, and `initial.key` is none of them.
    """
    assert initial.state is not None
    state, source = initial.state, initial.source
    own = model.state_dict()
    body = own.keys() - set(head)
    by_prefix = {
        prefix.removesuffix("."): names for prefix, names in checkpoints.prefixes(state, body).items()
    }
    if not by_prefix:
        return state
    key = checkpoints.choose(by_prefix, initial.key, source.removeprefix("weights.path: "))
    if key:
        inside = {name.removeprefix(f"{key}."): t for name, t in state.items() if name.startswith(f"{key}.")}
        others = (
            f", and the {len(state) - len(inside)} others are left out" if len(inside) < len(state) else ""
        )
        say(f"{source}: the prefix {key}. of {len(inside)} keys is stripped{others}")
        state = inside
    # Files older than torch 1.0 have no num_batches_tracked.
    counts = [name for name in body - state.keys() if name.endswith(COUNTS)]
    state = {**state, **{name: torch.zeros_like(own[name]) for name in counts}}
    heads = [name for name in state.keys() - own.keys() if name.startswith(HEADS)]
    if reset_head and heads and state.keys() - own.keys() == set(heads):
        say(f"{source}: the head {_few(heads)} is left out")
        state = {name: tensor for name, tensor in state.items() if name not in heads}
    return state


def _few(names: Collection[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:NAMED]) + (", …" if len(listed) > NAMED else "") if listed else "none"
