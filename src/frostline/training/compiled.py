"""Limits torch.compile to one graph per phase and one for validation."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from torch import nn

SPARE_GRAPHS = 8
"""For other batch sizes, such as validation's."""


def is_compiled(module: pl.LightningModule) -> bool:
    """Return whether the module or any of its layers is compiled."""
    return bool(getattr(module, "_compiler_ctx", None)) or any(
        "_orig_mod" in layer._modules or layer._compiled_call_impl is not None for layer in module.modules()
    )


class Graphs:
    """The graphs of a compiled network whose parameters are frozen and unfrozen.

    torch.compile reuses a graph only if the same parameters require gradients, even in validation, which
    computes none. After `recompile_limit` graphs, 8 by default, it warns once and runs uncompiled.

    Args:
        network: the compiled module, not its wrapper.
    """

    def __init__(self, network: nn.Module, phases: int) -> None:
        from torch._dynamo import config

        self._network = network
        self._limit = config.recompile_limit
        self._trained: list[nn.Parameter] = []
        config.recompile_limit = max(self._limit, 2 * phases + SPARE_GRAPHS)

    def begin_validation(self) -> None:
        """Set `requires_grad` to False everywhere, so that all phases share a validation graph."""
        self._trained = [parameter for parameter in self._network.parameters() if parameter.requires_grad]
        for parameter in self._trained:
            parameter.requires_grad_(False)

    def end_validation(self) -> None:
        """Restore `requires_grad` of the phase."""
        for parameter in self._trained:
            parameter.requires_grad_(True)
        self._trained = []

    def close(self) -> None:
        """Restore torch.compile's limit."""
        from torch._dynamo import config

        self.end_validation()
        config.recompile_limit = self._limit


@contextmanager
def compiling(network: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Compile the network inside the block, if wanted."""
    if wanted:
        network.compile()
    try:
        yield
    finally:
        if wanted:
            network._compiled_call_impl = None
