"""How a network is run: in which precision, and how its images lie in memory.

Chosen by hardware and architecture, not by the clock: a measurement could turn out differently the next time,
and results would then differ by rounding.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from frostline.console.errors import FrostlineError

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Execution:
    """How a network is run."""

    trains: Precision
    """Of a network that trains, when it is measured too."""
    frozen: Precision
    """Of frozen layers that run once."""
    channels_last: bool
    """Images and weights of convolutions lie in memory channel by channel of a pixel, not plane by plane."""

    def arranged(self, images: Tensor) -> Tensor:
        """Return images, (N, C, H, W), as they should lie in memory."""
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def arrange(self, network: nn.Module) -> None:
        """Let the network's weights lie in memory as its images do."""
        if self.channels_last:
            network.to(memory_format=torch.channels_last)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which a forward pass has this precision; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def run(part: Callable[[Tensor], Tensor], features: Tensor, precision: Precision) -> Tensor:
    """Run the layers behind features in a precision of their own, whatever the features are kept in.

    Args:
        part: those layers.
        features: (N, …), on the device that runs them.
        precision: as `behind` says.
    """
    with autocast(precision, features.device):
        return part(features if precision == "bf16" else features.float())


def behind(trained: Iterable[str], network: nn.Module, precision: Precision) -> Precision:
    """Return the precision of the layers behind features: of linear heads alone always float32.

    A head's products are too small to gain, and its logits lose most by rounding.

    Args:
        trained: names of the parameters that train.
        network: that they are in.
        precision: of the network that trains.
    """
    owners = (network.get_submodule(name.rpartition(".")[0]) for name in trained)
    return "fp32" if all(isinstance(owner, nn.Linear) for owner in owners) else precision


def execution_of(
    network: nn.Module,
    precision: Literal["auto", "fp32", "bf16"],
    device: torch.device,
    image: Sequence[int] | None = None,
) -> Execution:
    """Choose how to run a network.

    auto: bfloat16 where the device has instructions for it and the network has convolutions. Depthwise ones
    train in float32 on a CPU, which has no such kernel for their backward pass: EfficientNet-Lite0 trains at
    half the speed in bfloat16, where ResNet-18 trains at twice.

    Whatever the precision asked for, a network in which `undefined_gradient` finds something trains in
    float32 on a CPU.

    Args:
        network: any.
        precision: as `trainer.precision` says.
        device: that runs it.
        image: (C, H, W) of what the network sees; None: only `frozen` and `channels_last` are needed.
    """
    found = _execution_of(network, precision, device)
    if found.trains == "bf16" and device.type == "cpu" and image and undefined_gradient(network, image):
        return replace(found, trains="fp32")
    return found


@torch.no_grad()
def undefined_gradient(network: nn.Module, image: Sequence[int]) -> str | None:
    """Name the first convolution whose weight gradient oneDNN computes wrongly in bfloat16; None: none.

    Where the input is smaller than the stride, so that a single position is left, and there is padding,
    oneDNN 3.13 (torch 2.15) does not write the gradients of the taps that see nothing but padding: they are
    what the memory held before. `benchmarks/bf16_gradients.py` lists the shapes that are affected on a
    processor. The rule takes in some that are not, but all that are, on every processor alike.

    Args:
        network: in memory, on a CPU.
        image: (C, H, W) of what it sees.

    Returns:
        Such as ``a 3×3 convolution of stride 2 on a 1×1 input``.
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
    """Watches the convolutions of a forward pass, whichever module or function calls them."""

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
    network: nn.Module, precision: Literal["auto", "fp32", "bf16"], device: torch.device
) -> Execution:
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    # peft's DoRA looks at weights in a way that takes them plane by plane.
    adapted = any(type(module).__module__.startswith("peft.") for module in network.modules())
    spread = sum(max(module.kernel_size) > 1 for module in convolutions) > 1 and not adapted
    if precision != "auto":
        return Execution(precision, precision, channels_last=spread)
    fast = bool(convolutions) and has_bf16(device)
    slow_backward = device.type == "cpu" and _depthwise(convolutions)
    return Execution(
        trains="bf16" if fast and not slow_backward else "fp32",
        frozen="bf16" if fast else "fp32",
        channels_last=spread,
    )


def device_of(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device that `trainer.device` means; auto: a GPU where there is one.

    Raises:
        FrostlineError: it is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise FrostlineError("trainer.device: no CUDA device is here; set trainer.device=cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def has_bf16(device: torch.device) -> bool:
    """Say whether a device has instructions for products of bfloat16 numbers."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: Mapping[str, Any] = {}
    if device.type == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # some versions since 2.8 have it not
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def _depthwise(convolutions: Iterable[nn.Conv2d]) -> bool:
    return any(module.groups == module.in_channels > 1 for module in convolutions)
