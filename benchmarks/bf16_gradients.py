"""Which convolutions have weight gradients in bfloat16 that depend on what lay in memory before, on this CPU?

    .venv/bin/python -m benchmarks.bf16_gradients         three minutes; prints a row for each kind affected

Each convolution's forward and backward pass is computed twice, with new memory filled with one byte and with
another; what differs in a single bit is listed, with the input sizes that do it. The last line counts those
that `features.execution.undefined_gradient` misses, which must be none, and the exit code says so.

On an AMD EPYC with AVX-512 BF16 (torch 2.15, oneDNN 3.13), of 11,172 convolutions: no forward pass, no
gradient of the input; weight gradients where kernel > 1, padding > 0 and the input (of a transposed
convolution: the output) is narrower than the stride. With ONEDNN_MAX_CPU_ISA=AVX2: nothing.
"""

import ctypes
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from frostline.features.execution import undefined_gradient
from frostline.training import machine

CHANNELS, OUT, IMAGES = 32, 64, 4
M_PERTURB = -6
"""glibc's number of the option."""
KERNELS, STRIDES, DILATIONS, PADDINGS = (1, 2, 3, 5, 7), (1, 2, 3, 4), (1, 2), (0, 1, 2, 3)
SIDES = (1, 2, 3, 4, 5, 7, 8)
GROUPS = {"dense": 1, "grouped": 4, "depthwise": CHANNELS}
LAYOUTS = {"channels last": torch.channels_last, "planes": torch.contiguous_format}


@contextmanager
def new_memory_holds(byte: int) -> Iterator[None]:
    """Fill the memory that glibc allocates in the block with a byte, 0…254."""
    libc = ctypes.CDLL(None)
    libc.mallopt(M_PERTURB, ~byte & 0xFF)  # glibc fills new memory with the complement
    try:
        yield
    finally:
        libc.mallopt(M_PERTURB, 0)


def gradients(layer: nn.Module, images: Tensor, fill: int) -> dict[str, Tensor]:
    """Return what a step in bfloat16 gives, all in float32."""
    with new_memory_holds(fill):
        layer.zero_grad(set_to_none=True)
        images = images.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(images).float()
        output.square().sum().backward()
    return {"output": output.detach(), "weight": layer.weight.grad, "input": images.grad}


def differing(layer: nn.Module, images: Tensor) -> list[str]:
    """Return which results depend on what memory held."""

    def bits(fill: int) -> dict[str, Tensor]:
        results = gradients(layer, images, fill)
        return {name: result.reshape(-1).view(torch.int32) for name, result in results.items()}

    one, other = bits(0x11), bits(0xEE)
    return [name for name in one if not torch.equal(one[name], other[name])]


def main() -> int:
    machine.configure(1)
    torch.manual_seed(0)
    found: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    tried = missed = 0
    for make, kernel, stride, dilation, padding, kind in itertools.product(
        (nn.Conv2d, nn.ConvTranspose2d), KERNELS, STRIDES, DILATIONS, PADDINGS, GROUPS
    ):
        out = CHANNELS if kind == "depthwise" else OUT
        layer = make(
            CHANNELS, out, kernel, stride, padding, dilation=dilation, groups=GROUPS[kind], bias=False
        )
        for side, (layout, form) in itertools.product(SIDES, LAYOUTS.items()):
            images = torch.randn(IMAGES, CHANNELS, side, side).to(memory_format=form)
            layer = layer.to(memory_format=form)
            try:
                which = differing(layer, images)
            except RuntimeError:  # the kernel is larger than the image
                continue
            tried += 1
            if which:
                what = f"{kernel}×{kernel}, stride {stride}, dilation {dilation}, padding {padding}"
                found[f"{kind} {make.__name__} ({layout}) {what}", ", ".join(which)].add(side)
                missed += which != ["weight"] or undefined_gradient(layer, (CHANNELS, side, side)) is None
    for (convolution, results), sides in found.items():
        print(f"{convolution}: {results} at input sizes {sorted(sides)}")
    print(f"{tried} tried, {sum(map(len, found.values()))} differ, {missed} of them missed by the rule")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
