"""Split a network at its split point: the frozen prefix runs once, the rest trains on its output (features).

The split works for any architecture:

1. One forward pass of an example image is recorded. The modules that are called before the first changing
   one (it trains, updates running statistics or drops activations) are the longest prefix. There are shorter
   prefixes, too: each ends just before a parent of the changing module is entered.
2. `NetworkSplit.features` runs the network until the prefix has been computed, and returns its output.
3. `NetworkSplit.rest` runs the network's own `forward` on the example. Prefix modules return their recorded
   outputs, except where the features enter. Candidates for that place are, for the first changing module and
   for each module that contains it: its input; or the output of the last frozen module that is called before
   it is entered. One more: the outputs of the last two modules of the longest prefix, concatenated.
4. Before a split is used, `features.verification` compares its logits with those of the whole network.

`network.forward(…)` is called, not `network(…)`: the latter may run code of torch.compile, which ignores the
replaced forwards.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from frostline.features.forwards import Reached, Recording, replaced_forwards, stop
from frostline.features.tensors import all_names, named_tensors
from frostline.freezing.plan import FreezePlan

BRANCHES = 2
"""Number of the prefix's last outputs that are concatenated, for networks with branches, such as CrossViT."""
FLOPS_PER_BYTE = 100
"""Floating-point operations that a byte of features has to save. A core computes about 50 in the time that it
takes to read one byte from a disk; with 100, reading the features takes half as long as computing them."""
ALL_TRAINS = "every layer trains"


@dataclass(frozen=True)
class NoSplit:
    """The network is not split: all of it runs at every step."""

    reason: str
    """As a clause."""


@dataclass
class NetworkSplit:
    """A network that is split: `features` runs the frozen prefix, `rest` all after it."""

    network: nn.Module
    module: str
    """Name of the module at the split point."""
    side: Literal["input", "output"]
    """Whether the features are the module's input or its output."""
    shape: tuple[int, ...]
    """Shape of the features of one image."""
    dtype: torch.dtype
    flops: int
    """Floating-point operations of the prefix for one image."""
    dependencies: frozenset[str]
    """Names of the parameters and buffers that the features may depend on."""
    example: Tensor = field(repr=False)
    calls: Sequence[tuple[nn.Module, Any]] = field(repr=False)
    """The prefix's modules in call order, each with its output for the example."""
    concatenated: Sequence[tuple[int, ...]] = ()
    """If the features are the outputs of the last calls, flattened and concatenated: the shapes of these
    outputs for one image. Empty: the features are a single tensor."""

    @property
    def name(self) -> str:
        """Name of the split point, such as ``fc:input``, or ``head_drop:2 outputs`` (concatenated)."""
        side = f"{len(self.concatenated)} outputs" if self.concatenated else self.side
        return f"{self.module}:{side}"

    @property
    def bytes(self) -> int:
        """Bytes of the features of one image."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def fingerprint(self) -> str:
        """Return the sha256 of the tensors that features may depend on: names, dtypes, shapes and bytes."""
        state = named_tensors(self.network)
        digest = hashlib.sha256()
        for name in sorted(self.dependencies):
            tensor = state[name].detach().cpu().contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return the features of images: the output of the frozen prefix.

        Args:
            images: (N, C, H, W), the network's input.

        Returns:
            (N, *shape).
        """
        if self.side == "input":
            watched = {self.network.get_submodule(self.module): stop}
        else:
            # A module may be called several times: only its last calls give the features.
            count = len(self.concatenated) or 1
            last = {module for module, _ in self.calls[-count:]}
            remaining_calls, outputs = sum(module in last for module, _ in self.calls), []

            def watch(forward: Callable[..., Any]) -> Callable[..., Any]:
                def call(*args: Any, **kwargs: Any) -> Any:
                    nonlocal remaining_calls
                    output = forward(*args, **kwargs)
                    remaining_calls -= 1
                    if remaining_calls < count:
                        outputs.append(output)
                    if not remaining_calls:
                        flat = (part.flatten(1) for part in outputs)
                        raise Reached(torch.cat([*flat], 1) if self.concatenated else output)
                    return output

                return call

            watched = {module: watch(module.forward) for module in last}
        with replaced_forwards(watched):
            try:
                self.network.forward(images)
            except Reached as reached:
                return reached.value
        raise AssertionError(f"{self.module} was not called")

    def rest(self, features: Tensor) -> Tensor:
        """Return the network's logits, (N, K), given the features, (N, *shape), of N images."""
        replayed = 0
        outputs = [features] if self.side == "output" else []
        if self.concatenated:
            pieces = features.split([math.prod(shape) for shape in self.concatenated], 1)
            outputs = [
                piece.unflatten(1, shape) for piece, shape in zip(pieces, self.concatenated, strict=True)
            ]

        def stub(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal replayed
                if replayed == len(self.calls) or self.calls[replayed][0] is not module:
                    return forward(*args, **kwargs)
                replayed += 1
                remaining = len(self.calls) - replayed
                return outputs[-1 - remaining] if remaining < len(outputs) else self.calls[replayed - 1][1]

            return call

        stubs = {module: stub(module, module.forward) for module, _ in self.calls}
        if self.side == "input":
            first = self.network.get_submodule(self.module)
            forward, reached = first.forward, False

            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal reached
                args, reached = (args if reached else (features, *args[1:])), True
                return forward(*args, **kwargs)

            stubs[first] = call
        with replaced_forwards(stubs):
            logits: Tensor = self.network.forward(self.example)
        return logits


def first_valid(
    splits: Sequence[NetworkSplit], is_valid: Callable[[NetworkSplit], bool], fault: str
) -> NetworkSplit | NoSplit:
    """Return the first split for which `is_valid` is true, or the reason why there is none.

    Args:
        fault: what is wrong with an invalid split, such as "can't run on features alone".
    """
    none_valid = NoSplit(
        f"the network split at {splits[0].name} {fault}; the same holds for the others that were tried"
    )
    return next((split for split in splits if is_valid(split)), none_valid)


def worthwhile_splits(
    network: nn.Module, plan: FreezePlan, phase: int, example: Tensor
) -> list[NetworkSplit] | NoSplit:
    """Return the `candidate_splits` whose features save `FLOPS_PER_BYTE`, if there are any."""
    splits = candidate_splits(network, plan, phase, example)
    if isinstance(splits, NoSplit):
        return splits
    worth = [split for split in splits if split.flops >= FLOPS_PER_BYTE * split.bytes]
    if worth:
        return worth
    best = max(splits, key=lambda split: split.flops / split.bytes)
    return NoSplit(
        f"caching the features at {best.name} would save little: {best.flops / best.bytes:.2g} FLOPs per"
        f" byte in {str(best.dtype).removeprefix('torch.')}, less than the minimum of {FLOPS_PER_BYTE}"
    )


def candidate_splits(
    network: nn.Module, plan: FreezePlan, phase: int, example: Tensor
) -> list[NetworkSplit] | NoSplit:
    """Return the possible splits just before the first changing layer, or before one of its parent modules.

    They are not verified.

    Those with the most operations in the prefix come first; among equals, those with the smallest features.

    Args:
        network: prepared for the phase by `training.trainable.apply_phase`; may be on torch's meta device.
        phase: index of the phase whose split point is wanted.
        example: (N, C, H, W), one image or a few.
    """
    if plan.trained(phase).issuperset(name for name, _ in network.named_parameters()):
        return NoSplit(ALL_TRAINS)
    changing = _changing_layers(network, plan, phase)
    if network in changing:
        return NoSplit(
            f"{changing[network]}, is a parameter or buffer of the network itself, not of one of its layers"
        )
    if not changing:
        return NoSplit("nothing trains")
    names = {module: name for name, module in network.named_modules()}
    containers = {network.get_submodule(name) for module in changing for name in _ancestors(names[module])}
    containers -= changing.keys()
    frozen = names.keys() - containers - changing.keys()
    recording = Recording(frozen, changing)
    if not recording.run(network, frozen | changing.keys() | containers, example):
        return NoSplit("the layers that train are never called, so it is unknown where the frozen ones end")
    first = recording.entered[-1][0]
    if not recording.calls:
        return NoSplit(f"no layer comes before {changing[first]}")
    splitter = _Splitter(network, example, recording, containers | frozen)
    splits: dict[str, NetworkSplit] = {}
    for place in splitter.places():
        if (split := splitter.split(place)) is not None:
            splits.setdefault(split.name, split)
    if not splits:
        return NoSplit(f"no tensor just before {names[first]} has one entry per image")
    # The sort is stable: among equals, the one nearest to the first changing layer comes first.
    return sorted(splits.values(), key=lambda split: (-split.flops, split.bytes))


class _Place(NamedTuple):
    """A place in a forward pass, after some calls of frozen modules."""

    module: nn.Module
    side: Literal["input", "output"]
    values: Sequence[Any]
    """What passes through it."""
    call_count: int
    """The number of earlier calls of frozen modules."""


class _Splitter:
    """Splits a network at the places of a recorded forward pass.

    Args:
        unchanged: modules whose own parameters and buffers do not change, though those of submodules may.
    """

    def __init__(
        self, network: nn.Module, example: Tensor, recording: Recording, unchanged: Set[nn.Module]
    ) -> None:
        self.network, self.example, self.recording = network, example, recording
        self.names = {module: name for name, module in network.named_modules()}
        # Features may depend on a tensor outside the recorded calls: a parent's code may use it directly.
        self._maybe_used_directly = {
            f"{self.names[module]}.".lstrip(".") + tensor
            for module in unchanged
            for tensor in _tensors(module, own=True)
        } - self._called(len(recording.calls))

    def places(self) -> Iterator[_Place]:
        """Yield places from the first changing layer outwards: this layer, then the modules around it."""
        calls = self.recording.calls
        for module, args, count in reversed(self.recording.entered):
            if args and module is not self.network:  # features can't replace a keyword argument
                yield _Place(module, "input", args[:1], count)
            if count:
                yield _Place(calls[count - 1][0], "output", [calls[count - 1][1]], count)
        if len(calls) >= BRANCHES:
            yield _Place(calls[-1][0], "output", [output for _, output in calls[-BRANCHES:]], len(calls))

    def split(self, place: _Place) -> NetworkSplit | None:
        """Return the split at a place, if what passes through it has one entry per image."""
        n, count = place.call_count, len(self.example)
        tensors = [value for value in place.values if isinstance(value, Tensor) and value.ndim > 1]
        if not n or len(tensors) < len(place.values) or any(len(tensor) != count for tensor in tensors):
            return None
        shapes = [tuple(tensor.shape[1:]) for tensor in tensors]
        concatenated = len(shapes) > 1
        return NetworkSplit(
            self.network,
            self.names[place.module],
            place.side,
            shape=(sum(map(math.prod, shapes)),) if concatenated else shapes[0],
            dtype=tensors[0].dtype,
            flops=self.recording.flops[n] // count,
            dependencies=frozenset(self._maybe_used_directly | self._called(n)),
            example=self.example,
            calls=self.recording.calls[:n],
            concatenated=shapes if concatenated else (),
        )

    def _called(self, count: int) -> set[str]:
        """Return the names of the tensors of the first `count` calls."""
        return {
            f"{self.names[module]}.{tensor}"
            for module, _ in self.recording.calls[:count]
            for tensor in _tensors(module, own=False)
        }


def _changing_layers(network: nn.Module, plan: FreezePlan, phase: int) -> dict[nn.Module, str]:
    """Return the layers that change or are random themselves, each with the reason as a clause."""
    trained = all_names(network, plan.trained(phase))
    statistics = all_names(network, plan.updated_statistics(phase))
    changing_layers: dict[nn.Module, str] = {}
    for name, module in network.named_modules():
        own = [f"{name}.{tensor}" if name else tensor for tensor in _tensors(module, own=True)]
        if changing := next((tensor for tensor in own if tensor in trained | statistics), None):
            changing_layers[module] = f"{changing}, which {'trains' if changing in trained else 'changes'}"
        elif module.training and _is_random(module):
            changing_layers[module] = f"{name}, which drops activations at random"
    return changing_layers


def _is_random(module: nn.Module) -> bool:
    rates = (getattr(module, rate, None) for rate in ("p", "prob", "drop_prob"))
    named = isinstance(module, _DropoutNd) or "Drop" in type(module).__name__
    return named and any(isinstance(rate, float) and rate > 0 for rate in rates)


def _ancestors(name: str) -> Iterator[str]:
    """Yield the names of the modules that contain a module, outermost first; '' is the network."""
    parts = name.split(".")
    return (".".join(parts[:n]) for n in range(len(parts)))


def _tensors(module: nn.Module, *, own: bool) -> Iterator[str]:
    for named in (module.named_parameters, module.named_buffers):
        yield from (name for name, _ in named(recurse=not own))
