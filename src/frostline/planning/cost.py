"""What a step costs in each phase of a plan: arithmetic, and memory kept for the backward pass.

Nothing is computed: a copy of the network without data (torch's meta device) is run forwards and backwards,
frozen as the phase says, so that autograd itself decides how far down the backward pass goes and which
gradients it takes. Of a frozen prefix the forward pass alone is left: no gradient, nothing kept. Where its
features are reused (`features.split_point`), that is done once.

Arithmetic is that of matrix products, convolutions and attention, a multiply-add counted as two operations;
additions, activations and norms are left out, as in published counts. A linear layer from n to m units:

    forward                          2·n·m an image
    backward, of the weights         2·n·m, if they train
    backward, of the inputs          2·n·m, if something below them trains
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from frostline.features.split_point import Split
from frostline.freezing.plan import FreezePlan
from frostline.training.thaw import enter

IMAGES = 2
"""In the batch that is counted: BatchNorm refuses to train on a single value per channel."""


@dataclass(frozen=True)
class Cost:
    """Of training on one image."""

    forward: int
    """Floating-point operations at each step."""
    backward: int
    """Floating-point operations."""
    activations: int
    """Bytes that the forward pass keeps for the backward pass, in float32, weights left out. Attention is
    counted as torch computes it without a fused kernel, which keeps more than one with."""
    once: int = 0
    """Floating-point operations that are done once, before the first step."""


def of_phases(network: nn.Module, plan: FreezePlan, shape: Sequence[int]) -> list[Cost | None]:
    """Return the cost of each phase; None where the network can't be run without data.

    Args:
        network: the plan's; it stays as it is.
        plan: a run's.
        shape: (C, H, W) of an image.
    """
    try:
        sketch = without_data(network)
    except Exception:  # the network's own code: what it can't do is not known here
        return [None] * len(plan.phases)
    return [_of_phase(sketch, plan, phase, shape) for phase in range(len(plan.phases))]


def behind(cut: Split) -> Cost | None:
    """Return the cost of a phase on the features of a cut; None: the layers behind it need more than these.

    Args:
        cut: of a network without data as `training.thaw.enter` makes it for the phase. Its stand-in is not of
            `IMAGES` images: what is taken from it in place of the features does not fit to them.
    """
    assert len(cut.stand_in) != IMAGES
    try:
        features = cut.stand_in.new_empty((IMAGES, *cut.shape), dtype=cut.dtype)
        return _counted(cut.network, features, cut.rest, cut.flops)
    except Exception:  # as above
        return None
    finally:
        cut.network.zero_grad(set_to_none=True)


def without_data(network: nn.Module) -> nn.Module:
    """Return a copy on the meta device, made without a copy of the weights in between."""
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): _empty(tensor) for tensor in tensors})


def _empty(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _of_phase(sketch: nn.Module, plan: FreezePlan, phase: int, shape: Sequence[int]) -> Cost | None:
    try:
        enter(sketch, plan, phase)
        return _counted(sketch, torch.empty(IMAGES, *shape, device="meta"), sketch)
    except Exception:  # as above
        return None
    finally:
        sketch.zero_grad(set_to_none=True)


def _counted(sketch: nn.Module, images: Tensor, forwards: Callable[[Tensor], Tensor], once: int = 0) -> Cost:
    """The cost of a step, whose loss is left out: next to the network's it is nothing.

    Args:
        sketch: the network.
        images: or their features.
        forwards: makes logits of them.
        once: what is done before.
    """
    own = {_storage(tensor) for tensor in (*sketch.parameters(), *sketch.buffers())}
    kept: dict[
        int, torch.UntypedStorage
    ] = {}  # the storages themselves, lest another takes a freed one's place

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            kept[_storage(tensor)] = tensor.untyped_storage()
        return tensor

    with _counter() as forward, saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = forwards(images)
    assert len(logits) == len(images)
    with _counter() as backward:
        if logits.requires_grad:
            logits.backward(torch.empty_like(logits))
    count = len(images)
    return Cost(
        forward=forward.get_total_flops() // count,
        backward=backward.get_total_flops() // count,
        activations=sum(storage.nbytes() for storage in kept.values()) // count,
        once=once,
    )


def _counter() -> FlopCounterMode:
    return FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward}
    )


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _convolution_backward(
    grad_shape: list[int],
    input_shape: list[int],
    weight_shape: list[int],
    *arguments: Any,
    out_shape: Any,
    **more: Any,
) -> int:
    """Each gradient of a convolution takes the multiply-adds of its forward pass.

    torch's own formula forgets the groups in the weights' gradient: of a depthwise convolution of C channels
    it counts C times too many.
    """
    *_, transposed, _output_padding, _groups, wanted = arguments
    once = conv_flop_count(input_shape, weight_shape, grad_shape, transposed=transposed)
    return once * sum(wanted[:2])
