"""The cost of a training step in each phase of a plan: FLOPs, and activation memory for the backward pass.

A copy of the network on torch's meta device runs forwards and backwards with the frozen parameters of the
phase. Autograd itself decides how far down the backward pass goes and which gradients it computes. A frozen
prefix only costs its forward pass, and only once if its features are reused (`features.split_point`).

FLOPs are those of matrix products, convolutions and attention, where a multiply-add counts as two. Additions,
activations and norms are not counted, as in published counts. A linear layer from n to m units costs:

    forward                          2·n·m per image
    backward, of the weights         2·n·m, if they train
    backward, of the inputs          2·n·m, if anything below them trains
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from frostline.features.split_point import NetworkSplit
from frostline.freezing.plan import FreezePlan
from frostline.training.trainable import apply_phase

IMAGES = 2
"""Size of the batch that is counted: BatchNorm can't train on a single value per channel."""


@dataclass(frozen=True)
class Cost:
    """Cost of training on one image."""

    forward: int
    """FLOPs of the forward pass of each step."""
    backward: int
    """FLOPs of the backward pass of each step."""
    activations: int
    """Bytes that the forward pass stores for the backward pass, in float32, without weights. Attention is
    counted without a fused kernel, which stores less."""
    once: int = 0
    """FLOPs that are done once, before the first step."""


def phase_costs(network: nn.Module, plan: FreezePlan, shape: Sequence[int]) -> list[Cost | None]:
    """Return the cost of each phase; None if the network can't run on the meta device.

    Args:
        network: the network of the plan; it is not changed.
        shape: (C, H, W) of an image.
    """
    try:
        sketch = copy_to_meta(network)
    except Exception:  # The network's own code may raise anything.
        return [None] * len(plan.phases)
    return [_of_phase(sketch, plan, phase, shape) for phase in range(len(plan.phases))]


def split_cost(split: NetworkSplit) -> Cost | None:
    """Return the cost of a phase that reuses features; None: the layers after the split need more than these.

    Args:
        split: a split of a network on the meta device, prepared by `trainable.apply_phase`. The batch size
            of its `example` differs from `IMAGES`, so that its outputs can't replace the features.
    """
    assert len(split.example) != IMAGES
    try:
        features = split.example.new_empty((IMAGES, *split.shape), dtype=split.dtype)
        return _counted(split.network, features, split.rest, split.flops)
    except Exception:  # as above
        return None
    finally:
        split.network.zero_grad(set_to_none=True)


def copy_to_meta(network: nn.Module) -> nn.Module:
    """Return a copy on the meta device, without copying the weights in between."""
    empty: dict[int, Any] = {
        id(tensor): nn.Parameter(torch.empty_like(tensor, device="meta"), tensor.requires_grad)
        for tensor in network.parameters()
    }
    empty |= {id(tensor): torch.empty_like(tensor, device="meta") for tensor in network.buffers()}
    return copy.deepcopy(network, empty)


def _of_phase(sketch: nn.Module, plan: FreezePlan, phase: int, shape: Sequence[int]) -> Cost | None:
    try:
        apply_phase(sketch, plan, phase)
        return _counted(sketch, torch.empty(IMAGES, *shape, device="meta"), sketch)
    except Exception:  # as above
        return None
    finally:
        sketch.zero_grad(set_to_none=True)


def _counted(sketch: nn.Module, images: Tensor, forwards: Callable[[Tensor], Tensor], once: int = 0) -> Cost:
    """Return the cost of a step without its loss, which is negligible.

    Args:
        sketch: the network on the meta device.
        forwards: images or features → logits.
        once: FLOPs before the first step.
    """
    own = {_storage(tensor) for tensor in (*sketch.parameters(), *sketch.buffers())}
    stored: dict[
        int, torch.UntypedStorage
    ] = {}  # Holding the storages keeps their addresses from being reused.

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            stored[_storage(tensor)] = tensor.untyped_storage()
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
        activations=sum(storage.nbytes() for storage in stored.values()) // count,
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
    """Count the forward pass's FLOPs for each gradient of a convolution.

    torch's own formula ignores the groups in the gradient of the weights: for a depthwise convolution of C
    channels it counts C times too many.
    """
    *_, transposed, _output_padding, _groups, output_mask = arguments
    once = conv_flop_count(input_shape, weight_shape, grad_shape, transposed=transposed)
    return once * sum(output_mask[:2])
