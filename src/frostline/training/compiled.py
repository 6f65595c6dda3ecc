"""Keeps torch.compile to a graph a phase, and one for validation."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from torch import nn

SPARE_GRAPHS = 8
"""For batches of other sizes: the last of an epoch, validation's."""


def is_compiled(module: pl.LightningModule) -> bool:
    """Say whether torch.compile has to do with the module or any of its layers."""
    return bool(getattr(module, "_compiler_ctx", None)) or any(
        "_orig_mod" in layer._modules or layer._compiled_call_impl is not None for layer in module.modules()
    )


class Graphs:
    """The graphs of a compiled network whose parameters freeze and thaw.

    torch.compile takes a graph only where the same parameters require gradients, even in validation, which
    has none; and after `recompile_limit` graphs, 8, it says so once and goes on uncompiled.

    Args:
        network: what is compiled, not its wrapper.
        phases: in all.
    """

    def __init__(self, network: nn.Module, phases: int) -> None:
        from torch._dynamo import config

        self._network = network
        self._limit = config.recompile_limit
        self._trained: list[nn.Parameter] = []
        config.recompile_limit = max(self._limit, 2 * phases + SPARE_GRAPHS)

    def begin_validation(self) -> None:
        """Let no parameter require gradients, whatever the phase."""
        self._trained = [parameter for parameter in self._network.parameters() if parameter.requires_grad]
        for parameter in self._trained:
            parameter.requires_grad_(False)

    def end_validation(self) -> None:
        """Go back to what the phase says."""
        for parameter in self._trained:
            parameter.requires_grad_(True)
        self._trained = []

    def close(self) -> None:
        """Give torch.compile its limit back."""
        from torch._dynamo import config

        self.end_validation()
        config.recompile_limit = self._limit


@contextmanager
def compiling(network: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Let torch.compile translate the passes of the whole network, if wanted; afterwards it is as before."""
    if wanted:
        network.compile()
    try:
        yield
    finally:
        if wanted:
            network._compiled_call_impl = None
