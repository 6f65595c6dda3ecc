"""The initial weights of a network, and the preprocessing that they were trained with."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from frostline import schema
from frostline.models.input_spec import InputSpec


@dataclass(frozen=True)
class InitialWeights:
    """The initial weights of a network that is not built yet."""

    state: Mapping[str, torch.Tensor] | None
    """None: random."""
    input: InputSpec | None
    """The preprocessing that the weights were trained with; None: unknown."""
    classes: tuple[str, ...] | None
    """The classes of the weights' head; None: unknown."""
    source: str
    """Their name in errors."""
    sha256: str | None
    """Hash of their file."""
    head: schema.Head = "auto"
    key: str | None = None
    """The prefix of the tensor names to load, without its dot; None: the only one."""

    @property
    def device(self) -> torch.device:
        """Device of the tensors: meta if only their shapes are known."""
        return next(iter(self.state.values())).device if self.state else torch.device("cpu")


NO_WEIGHTS = InitialWeights(None, None, None, "random weights", None)
