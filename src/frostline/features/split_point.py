"""Cuts a network at its frost line: what is frozen and comes first runs once, the rest trains on its output.

No family of networks needs code of its own. One forward pass of a stand-in image is watched: the modules that
are called before the first one that trains are the prefix. To run the rest alone, the network's own `forward`
runs on the stand-in, where each module of the prefix hands out what it gave for the stand-in, without
computing, until the features of the batch take the place of the last one's output or of the first trained
one's input. So whatever a network does between its modules (pooling, class tokens, dropout) is done by its
own code. That this equals the whole network is not argued but tried, on images, before anything relies on it.
`network.forward` is called, not the network: what torch.compile made of it would not see other modules.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.flop_counter import FlopCounterMode

from frostline.freezing.plan import FreezePlan

ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Largest difference of a logit, as a share of the largest logit, that counts as rounding; else BF16."""
ROUNDING_BF16 = 3e-2
OUTPUTS = 3
"""Layers right below the frost line whose outputs are tried: the last one's may be dropped at random."""
BRANCHES = 2
"""Outputs that are tried together, for networks with two branches, such as CrossViT."""
FLOPS_PER_BYTE = 100
"""Features pay if a byte of them saves as much arithmetic. A core computes some 50 operations in the time
that it takes to read a byte from a disk; the features of a stem alone save fewer."""
ALL_TRAINS = "all of it trains"


@dataclass(frozen=True)
class Whole:
    """The whole network runs at every step."""

    reason: str
    """A clause."""


@dataclass
class Split:
    """A network in two: `features` computes the frozen prefix, `rest` everything after it."""

    network: nn.Module
    module: str
    """At which the cut lies."""
    side: Literal["input", "output"]
    """Of the module: before or behind it."""
    shape: tuple[int, ...]
    """Of an image's features."""
    dtype: torch.dtype
    flops: int
    """Floating-point operations of the prefix for an image."""
    prefix: frozenset[str]
    """Names of the parameters and buffers that the features depend on, or may."""
    stand_in: Tensor = field(repr=False)
    calls: Sequence[tuple[nn.Module, Any]] = field(repr=False)
    """The modules of the prefix in the order of their calls, and what they gave for the stand-in."""
    parts: Sequence[tuple[int, ...]] = ()
    """Shapes of what the last calls gave for an image, where the features are all of that, flat, in a row;
    empty: they are one tensor."""

    @property
    def name(self) -> str:
        """Where the cut lies, such as ``fc:input``; ``head_drop:2 outputs`` is the last two calls' output."""
        side = f"{len(self.parts)} outputs" if self.parts else self.side
        return f"{self.module}:{side}"

    @property
    def bytes(self) -> int:
        """Of an image's features."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def fingerprint(self) -> str:
        """Return the sha256 of what the features depend on: the names and bytes of the prefix's tensors."""
        named = self.network.named_parameters, self.network.named_buffers
        state = {name: tensor for each in named for name, tensor in each(remove_duplicate=False)}
        digest = hashlib.sha256()
        for name in sorted(self.prefix):
            tensor = state[name].detach().cpu().contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return what the frozen part makes of images.

        Args:
            images: (N, C, H, W), as the network gets them.

        Returns:
            (N, *shape).
        """
        if self.side == "input":
            watched = {self.network.get_submodule(self.module): _stop}
        else:
            count = len(self.parts) or 1
            ends = {module for module, _ in self.calls[-count:]}
            left, given = sum(module in ends for module, _ in self.calls), []

            def watch(forward: Callable[..., Any]) -> Callable[..., Any]:
                def call(*args: Any, **kwargs: Any) -> Any:
                    nonlocal left
                    output = forward(*args, **kwargs)
                    left -= 1
                    if left < count:
                        given.append(output)
                    if not left:
                        flat = (part.flatten(1) for part in given)
                        raise _Reached(torch.cat([*flat], 1) if self.parts else output)
                    return output

                return call

            watched = {module: watch(module.forward) for module in ends}
        with _instead(watched):
            try:
                self.network.forward(images)
            except _Reached as reached:
                return reached.value
        raise AssertionError(f"{self.module} was not called")

    def rest(self, features: Tensor) -> Tensor:
        """Return the network's logits, (N, K), given the features, (N, *shape), of N images."""
        turn = 0
        given = [features] if self.side == "output" else []
        if self.parts:
            pieces = features.split([math.prod(shape) for shape in self.parts], 1)
            given = [piece.unflatten(1, shape) for piece, shape in zip(pieces, self.parts, strict=True)]

        def stub(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal turn
                if turn == len(self.calls) or self.calls[turn][0] is not module:
                    return forward(*args, **kwargs)
                turn += 1
                left = len(self.calls) - turn
                return given[-1 - left] if left < len(given) else self.calls[turn - 1][1]

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
        with _instead(stubs):
            logits: Tensor = self.network.forward(self.stand_in)
        return logits


def proven(cuts: Sequence[Split], images: Tensor) -> Split | Whole:
    """Return the first cut of a network whose parts give, on images, what the whole gives.

    Args:
        cuts: as `worthwhile` gives them, under the precision of the run.
        images: (N, C, H, W); of N, at least 3, they are tried in batches of two sizes.
    """
    return the_first(cuts, lambda cut: _proven(cut, images))


def the_first(cuts: Sequence[Split], holds: Callable[[Split], bool]) -> Split | Whole:
    """Return the first cut that holds, or that none does."""
    most = f"{cuts[0].module} need more than its {cuts[0].side}"
    nowhere = Whole(f"the layers behind {most}, so no two parts make the whole")
    return next((cut for cut in cuts if holds(cut)), nowhere)


def worthwhile(network: nn.Module, plan: FreezePlan, phase: int, stand_in: Tensor) -> list[Split] | Whole:
    """Return those of the `candidates` whose features are read sooner than computed; at least one."""
    found = candidates(network, plan, phase, stand_in)
    if isinstance(found, Whole):
        return found
    worth = [each for each in found if each.flops >= FLOPS_PER_BYTE * each.bytes]
    if worth:
        return worth
    best = max(found, key=lambda each: each.flops / each.bytes)
    return Whole(
        f"the layers below {best.module} are computed as fast as their output is read:"
        f" {best.flops / best.bytes:.2g} operations for a byte, and it takes {FLOPS_PER_BYTE} to pay"
    )


def candidates(network: nn.Module, plan: FreezePlan, phase: int, stand_in: Tensor) -> list[Split] | Whole:
    """Return cuts at the frost line and right below, none of them proven, in the order in which to try them.

    Args:
        network: as `split` has it; may have no data, as on torch's meta device.
        plan: a run's.
        phase: whose frost line is meant.
        stand_in: (N, C, H, W), one image or a few.
    """
    if plan.trained(phase).issuperset(name for name, _ in network.named_parameters()):
        return Whole(ALL_TRAINS)
    moving = _moving(network, plan, phase)
    if network in moving:
        return Whole(f"the network itself, not one of its layers, holds {moving[network]}")
    if not moving:
        return Whole("nothing trains")
    names = {module: name for name, module in network.named_modules()}
    around = {network.get_submodule(name) for module in moving for name in _ancestors(names[module])}
    around -= moving.keys()
    frozen = names.keys() - around - moving.keys()
    calls: list[tuple[nn.Module, Any]] = []
    flops = [0]  # after so many calls
    entered: list[tuple[nn.Module, tuple[Any, ...], int]] = []  # with the calls before it
    counter = FlopCounterMode(display=False)
    inside = False  # a frozen layer

    def watch(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside:
                return forward(*args, **kwargs)
            if module in frozen:
                inside = True
                output = forward(*args, **kwargs)
                inside = False
                calls.append((module, output))
                flops.append(counter.get_total_flops())
                return output
            entered.append((module, args, len(calls)))
            if module in moving:
                raise _Reached(None)
            output = forward(*args, **kwargs)
            entered.pop()
            return output

        return call

    watched = {module: watch(module, module.forward) for module in frozen | moving.keys() | around}
    try:
        with torch.no_grad(), _instead(watched), counter:
            network.forward(stand_in)
    except _Reached:
        first = entered[-1][0]
    else:
        return Whole("the layers that train are never called, so where the frozen ones end can't be seen")
    if not calls:
        return Whole(f"no layer comes before {moving[first]}")
    called = {f"{names[each]}.{tensor}" for each, _ in calls for tensor in _tensors(each, own=False)}
    # What no call shows may be used in any place: by the network itself, or out of a layer never called.
    anywhere = {
        f"{names[module]}.".lstrip(".") + tensor
        for module in around | frozen
        for tensor in _tensors(module, own=True)
    } - called
    found: dict[str, Split] = {}

    def note(at: nn.Module, side: Literal["input", "output"], values: Sequence[Any], n: int) -> None:
        """Take in the cut behind the first n calls, if these values of it have an entry for each image."""
        tensors = [value for value in values if isinstance(value, Tensor) and value.ndim > 1]
        if not n or len(tensors) < len(values) or any(len(each) != len(stand_in) for each in tensors):
            return
        below = {f"{names[each]}.{tensor}" for each, _ in calls[:n] for tensor in _tensors(each, own=False)}
        shapes = [tuple(each.shape[1:]) for each in tensors]
        together = len(shapes) > 1
        cut = Split(
            network,
            names[at],
            side,
            shape=(sum(map(math.prod, shapes)),) if together else shapes[0],
            dtype=tensors[0].dtype,
            flops=flops[n] // len(stand_in),
            prefix=frozenset(anywhere | below),
            stand_in=stand_in,
            calls=calls[:n],
            parts=shapes if together else (),
        )
        found.setdefault(cut.name, cut)

    # From the frost line outwards: the first trained layer, then the blocks that it lies in.
    for module, args, count in reversed(entered):
        if module is not network:
            note(module, "input", args[:1], count if args else 0)
        for n in range(count, max(count - OUTPUTS, 0), -1):
            note(calls[n - 1][0], "output", [calls[n - 1][1]], n)
    if len(calls) >= BRANCHES:
        note(calls[-1][0], "output", [output for _, output in calls[-BRANCHES:]], len(calls))
    if not found:
        return Whole(f"what {names[first]} is given is not one tensor with an entry for each image")
    # A sort is stable: of equal ones the nearest to the frost line comes first.
    return sorted(found.values(), key=lambda each: (-each.flops, each.bytes))


class _Reached(BaseException):
    """Ends a forward pass at the cut, past any `except Exception` of the network's own."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


def _stop(*args: Any, **kwargs: Any) -> Any:
    """Stands for the forward of a module whose input is wanted."""
    raise _Reached(args[0])


@contextmanager
def _instead(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Let modules do something else when they are called."""
    before = {module: vars(module).get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            vars(module)["forward"] = forward
        yield
    finally:
        for module, own in before.items():
            if own is None:
                del vars(module)["forward"]
            else:
                vars(module)["forward"] = own


def _moving(network: nn.Module, plan: FreezePlan, phase: int) -> dict[nn.Module, str]:
    """What gives another output at the next step: layer → what of it does, and why."""
    trained, statistics = plan.trained(phase), plan.moving_statistics(phase)
    found: dict[nn.Module, str] = {}
    for name, module in network.named_modules():
        own = [f"{name}.{tensor}" if name else tensor for tensor in _tensors(module, own=True)]
        if changing := next((tensor for tensor in own if tensor in trained | statistics), None):
            found[module] = f"{changing}, which {'trains' if changing in trained else 'moves'}"
        elif module.training and _is_random(module):
            found[module] = f"{name}, which drops at random"
    return found


def _is_random(module: nn.Module) -> bool:
    rates = (getattr(module, rate, None) for rate in ("p", "prob", "drop_prob"))
    named = isinstance(module, _DropoutNd) or "Drop" in type(module).__name__
    return named and any(isinstance(rate, float) and rate > 0 for rate in rates)


def _ancestors(name: str) -> Iterator[str]:
    """The modules around a module, the network, whose name is empty, the first."""
    parts = name.split(".")
    return (".".join(parts[:n]) for n in range(len(parts)))


def _tensors(module: nn.Module, *, own: bool) -> Iterator[str]:
    for named in (module.named_parameters, module.named_buffers):
        yield from (name for name, _ in named(recurse=not own))


def _proven(cut: Split, images: Tensor) -> bool:
    """Say whether the parts give what the whole gives, training and not, for batches of two sizes."""
    network = cut.network
    modes = {module: module.training for module in network.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    devices = [images.device] if images.is_cuda else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            training = _equal(cut, images) and _equal(cut, images[:-1])
            network.eval()
            return training and _equal(cut, images)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        return False
    finally:
        for module, mode in modes.items():
            module.training = mode
        for buffer, value in buffers:
            buffer.copy_(value)


def _drawn(device: torch.device) -> Tensor:
    """The state of the generator that a network on a device draws from."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _equal(cut: Split, images: Tensor) -> bool:
    torch.manual_seed(0)
    drawn = _drawn(images.device)
    features = cut.features(images)
    if not torch.equal(_drawn(images.device), drawn):
        return False  # the prefix draws numbers
    if features.shape != (len(images), *cut.shape):
        return False
    whole = cut.network.forward(images).float()
    rounding = ROUNDING.get(features.dtype, ROUNDING_BF16) * float(whole.abs().max())
    for _ in range(2):  # the second time, whatever the first has done to the stand-in's values shows
        torch.manual_seed(0)
        parts = cut.rest(features.clone()).float()
        if parts.shape != whole.shape or not bool(((parts - whole).abs() <= rounding).all()):
            return False
    return True
