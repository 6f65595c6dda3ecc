"""Record, replace and stop the forward passes of a network's modules."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


class Recording:
    """Records the module calls of a forward pass, up to the first layer that changes from step to step.

    Args:
        frozen: modules that neither change nor contain a module that does.
    """

    def __init__(self, frozen: Set[nn.Module], changing: Container[nn.Module]) -> None:
        self._frozen, self._changing = frozen, changing
        self.calls: list[tuple[nn.Module, Any]] = []
        """Outermost frozen modules in call order, with their outputs."""
        self.flops = [0]
        """flops[n]: total after n calls."""
        self.entered: list[tuple[nn.Module, tuple[Any, ...], int]] = []
        """Running modules at the end, outermost first: module, arguments, number of earlier calls."""
        self._counter = FlopCounterMode(display=False)
        self._inside = False  # whether a frozen module is running

    def run(self, network: nn.Module, modules: Iterable[nn.Module], example: Tensor) -> bool:
        """Run the network, and record the calls of `modules`; return whether a changing layer was reached.

        Buffers that the layers update get their values back.
        """
        watched = {module: self._watch(module, module.forward) for module in modules}
        before = [(buffer, buffer.clone()) for buffer in network.buffers()]
        try:
            with torch.no_grad(), replaced_forwards(watched), self._counter:
                network.forward(example)
        except Reached:
            return True
        finally:
            for buffer, value in before:
                buffer.copy_(value)
        return False

    def _watch(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return forward(*args, **kwargs)
            if module in self._frozen:
                self._inside = True
                output = forward(*args, **kwargs)
                self._inside = False
                self.calls.append((module, output))
                self.flops.append(self._counter.get_total_flops())
                return output
            self.entered.append((module, args, len(self.calls)))
            if module in self._changing:
                raise Reached(None)
            output = forward(*args, **kwargs)
            self.entered.pop()
            return output

        return call


class Reached(BaseException):
    """Ends a forward pass at the split point; no `except Exception` in the network catches it."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


def stop(*args: Any, **kwargs: Any) -> Any:
    """Replace the forward of the module whose input is wanted."""
    raise Reached(args[0])


@contextmanager
def replaced_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Replace the forward methods of modules inside the block."""
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
