"""How a network runs: its precision and its memory format.

The choice depends on hardware and architecture, never on a timing: timings vary, and results would then
differ by rounding.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from frostline.console.errors import FrostlineError

Precision = Literal["fp32", "bf16", "fp16"]
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Execution:
    """Precision and memory format of a network."""

    precision: Precision
    """Precision of a network that trains, also during its validation."""
    frozen_precision: Precision
    """Precision of frozen layers that run once."""
    channels_last: bool
    """Whether images and convolution weights use torch.channels_last."""

    def in_memory_format(self, images: Tensor) -> Tensor:
        """Return images, (N, C, H, W), in this memory format."""
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def set_memory_format(self, network: nn.Module) -> None:
        """Convert the network's weights to the memory format of its images."""
        if self.channels_last:
            network.to(memory_format=torch.channels_last)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which a forward pass runs in this precision; weights stay float32."""
    dtype = AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype) if dtype else nullcontext()


def run_layers(part: Callable[[Tensor], Tensor], features: Tensor, precision: Precision) -> Tensor:
    """Run the layers after the split point in their own precision, whatever the dtype of the features.

    Args:
        features: (N, …), on the device that runs the layers.
        precision: from `FeatureExtractor.precision_after_split`.
    """
    with autocast(precision, features.device):
        return part(features.float() if precision == "fp32" else features)


def execution_of(
    network: nn.Module,
    precision: Literal["auto", "fp32", "bf16", "fp16"],
    device: torch.device,
    image: Sequence[int] | None = None,
) -> Execution:
    """Choose how to run a network.

    auto: bfloat16 if the device has instructions for it and the network has convolutions. Networks with
    depthwise convolutions train in float32 on a CPU, which has no bfloat16 kernel for their backward pass: in
    bfloat16 EfficientNet-Lite0 trains half as fast, whereas ResNet-18 trains twice as fast.

    A network for which `undefined_gradient` returns a layer always trains in float32 on a CPU.

    Args:
        precision: `trainer.precision`.
        image: (C, H, W) of its input; None: only `frozen_precision` and `channels_last` are needed.
    """
    execution = _execution_of(network, precision, device)
    if (
        execution.precision == "bf16"
        and device.type == "cpu"
        and image
        and undefined_gradient(network, image)
    ):
        return replace(execution, precision="fp32")
    return execution


@torch.no_grad()
def undefined_gradient(network: nn.Module, image: Sequence[int]) -> str | None:
    """Describe the first convolution whose weight gradient may be wrong in bfloat16; None: there is none.

    If the input is smaller than the stride and there is padding, oneDNN 3.13 (torch 2.15) leaves the
    gradients of the kernel positions that only see padding uninitialized. `benchmarks/bf16_gradients.py`
    lists the affected shapes on a processor. This rule covers all of them, and some unaffected shapes, on
    every processor.

    Args:
        network: on a CPU.
        image: (C, H, W) of its input.

    Returns:
        A description, such as ``a 3×3 convolution of stride 2 on a 1×1 input``.
    """
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.random.fork_rng(devices=[]), _Convolutions() as watched:
            network.eval()(torch.zeros(1, *image))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return watched.undefined


class _Convolutions(TorchDispatchMode):
    """Inspects every convolution of a forward pass, whichever module or function calls it."""

    undefined: str | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default and self.undefined is None:
            features, weight, _, strides, paddings, _, transposed = args[:7]
            # A transposed convolution is the backward pass of a plain one, from its output to its input.
            sides = (result if transposed else features).shape[2:]
            kernel = weight.shape[2:]
            if any(
                side < stride and padding and taps > 1
                for side, stride, padding, taps in zip(sides, strides, paddings, kernel, strict=True)
            ):
                what = "transposed convolution" if transposed else "convolution"
                taps, side = ("×".join(map(str, shape)) for shape in (kernel, features.shape[2:]))
                self.undefined = f"a {taps} {what} of stride {max(strides)} on a {side} input"
        return result


def _execution_of(
    network: nn.Module, precision: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device
) -> Execution:
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    spread = sum(max(module.kernel_size) > 1 for module in convolutions) > 1
    if precision != "auto":
        return Execution(precision, precision, channels_last=spread)
    fast = bool(convolutions) and has_bf16(device)
    slow_backward = device.type == "cpu" and _depthwise(convolutions)
    return Execution(
        precision="bf16" if fast and not slow_backward else "fp32",
        frozen_precision="bf16" if fast else "fp32",
        channels_last=spread,
    )


def device_of(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device of `trainer.device`; auto: a GPU if there is one.

    Raises:
        FrostlineError: there is no such device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise FrostlineError("trainer.device: torch finds no CUDA device; set trainer.device=cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def has_bf16(device: torch.device) -> bool:
    """Return whether a device has instructions for bfloat16 products."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: Mapping[str, Any] = {}
    if device.type == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # some versions since 2.8 lack it
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def _depthwise(convolutions: Iterable[nn.Conv2d]) -> bool:
    return any(module.groups == module.in_channels > 1 for module in convolutions)


def gathered(parts: Iterable[Tensor], count: int) -> Tensor:
    """Concatenate the outputs for batches, (n, …) each, to one tensor of `count` rows on the CPU.

    Each is copied as it comes. If outputs were held until the end, they would be allocated in the memory that
    earlier batches freed. A later batch would not fit there any more, so the process would grow.
    """
    whole, start = torch.empty(0), 0
    for part in parts:
        if start == 0:
            whole = torch.empty(count, *part.shape[1:], dtype=part.dtype)
        whole[start : start + len(part)] = part
        start += len(part)
    assert start == count, "a batch is missing"
    return whole
