"""Verify a split of a network before features are reused; a wrong one would be a silent error.

A network is any code, so a split is tested, not proven:

- Its two parts must give the logits of the whole network, with random weights after the split: a new head of
  zeros, for instance, would give equal logits whatever is below it.
- The features of an image must depend on nothing that changes: not on weights that train (a network may use a
  layer's weight without calling the layer), on other images of the batch, on earlier batches, or on random
  numbers.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from frostline.features.split_point import NetworkSplit, NoSplit, first_valid
from frostline.features.tensors import all_names

RTOL = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Dtype of features → largest difference of logits that counts as rounding, relative to the largest logit."""
RTOL_HALF = 3e-2
"""As `RTOL`, for bfloat16 and float16."""


def first_verified(splits: Sequence[NetworkSplit], images: Tensor) -> NetworkSplit | NoSplit:
    """Return the first split whose two parts give the same logits as the whole network on images.

    Args:
        splits: from `worthwhile_splits`, recorded in the precision of frozen layers.
        images: (N, C, H, W) with N ≥ 3, clearly different: outputs that were recorded for one image must not
            pass for those of another. Each split is tested with two batch sizes.
    """
    fault = "does not give the logits of the whole network"
    return first_valid(splits, lambda split: _is_equivalent(split, images), fault)


def _is_equivalent(split: NetworkSplit, images: Tensor) -> bool:
    """Return whether the split gives the network's logits, for two batch sizes and again in eval mode.

    The weights after the split are random meanwhile, since the split has to be right for all values that
    training may give them. Weights of zero, as in a new head or in a residual block's last norm, hide faults.
    """
    network = split.network
    modes = {module: module.training for module in network.modules()}
    after_split = _parameters_after(split)
    restored = [(tensor, tensor.detach().clone()) for tensor in (*network.buffers(), *after_split)]
    devices = [images.device] if images.is_cuda else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            features = split.features(images)
            for parameter in after_split:
                _randomize(parameter)
            torch.clear_autocast_cache()  # it holds the weights' former values
            if not is_constant(split, images, features):
                return False
            in_phase = _outputs_match(split, images) and _outputs_match(split, images[:-1])
            network.eval()
            return in_phase and _outputs_match(split, images)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        return False
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for tensor, value in restored:
                tensor.copy_(value)
        torch.clear_autocast_cache()


@torch.no_grad()
def is_constant(split: NetworkSplit, images: Tensor, earlier: Tensor | None = None) -> bool:
    """Return whether an image has the same features at every step, whatever the rest of its batch.

    Args:
        images: (N, C, H, W), clearly different.
        earlier: (N, …) features of the images, with other weights after the split.
    """
    random_state = _rng_state(images.device)
    buffers = {name: tensor.clone() for name, tensor in split.network.named_buffers()}
    features = split.features(images)
    uses_random_numbers = not torch.equal(_rng_state(images.device), random_state)
    remembers = any(
        not torch.equal(tensor, buffers[name])
        for name, tensor in split.network.named_buffers()
        if name in split.dependencies
    )
    return (
        not uses_random_numbers
        and not remembers
        and _close(split.features(images[:1]), features[:1], RTOL_HALF)
        and (earlier is None or _close(features, earlier, RTOL_HALF))
    )


def _parameters_after(split: NetworkSplit) -> list[nn.Parameter]:
    """Return the parameters that the features do not depend on."""
    before = all_names(split.network, split.dependencies)
    return [parameter for name, parameter in split.network.named_parameters() if name not in before]


def _randomize(parameter: Tensor) -> None:
    """Draw weights with which each branch contributes to the output."""
    if parameter.ndim > 1:
        parameter.normal_(std=math.prod(parameter.shape[1:]) ** -0.5)
    else:
        parameter.uniform_(0.5, 1.5)


def _rng_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _outputs_match(split: NetworkSplit, images: Tensor) -> bool:
    torch.manual_seed(0)
    features = split.features(images)
    if features.shape != (len(images), *split.shape):
        return False
    whole = split.network.forward(images).float()
    for _ in range(2):  # the second pass shows whether the first changed the recorded outputs in place
        torch.manual_seed(0)
        logits = split.rest(features.clone()).float()
        if logits.shape != whole.shape or not _close(logits, whole, RTOL.get(features.dtype, RTOL_HALF)):
            return False
    return True


def _close(actual: Tensor, expected: Tensor, rtol: float) -> bool:
    """Return whether the largest difference is at most `rtol` of the largest expected value; not for NaN."""
    return bool(((actual - expected).abs() <= rtol * float(expected.abs().max())).all())
