"""Names of a network's tensors. A plan names each tensor once; a state dict names a shared one repeatedly."""

from collections.abc import Container, Set

from torch import Tensor, nn

from frostline.freezing.layers import Layers


def named_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name; a tensor that several modules share has several names."""
    named = network.named_parameters, network.named_buffers
    return {name: tensor for tensors in named for name, tensor in tensors(remove_duplicate=False)}


def all_names(network: nn.Module, names: Container[str]) -> frozenset[str]:
    """Return all names of the tensors that `names` are some names of."""
    tensors = named_tensors(network)
    wanted = {id(tensor) for name, tensor in tensors.items() if name in names}
    return frozenset(name for name, tensor in tensors.items() if id(tensor) in wanted)


def may_change(network: nn.Module, layers: Layers, changing: Set[str]) -> frozenset[str]:
    """Return the names in a network's state dict whose values training may change.

    These are all names of the `changing` tensors, and the buffers that no freeze schedule governs, such as
    those of spectral normalization: a layer of any kind may update its own.

    Args:
        layers: the layers of the network.
        changing: parameters and running statistics, from a plan.
    """
    return frozenset(network.state_dict().keys() - all_names(network, layers.places.keys() - changing))
