"""How a learning rate moves inside a phase: a pure factor of (step in the phase, the phase's length).

The curves are those of torch.optim.lr_scheduler: after a warm-up of w steps, with p = (i − w) / (n − w),

    constant     1
    linear       1 − (1 − f)·p
    polynomial   f + (1 − f)·(1 − p)^power
    cosine       f + (1 − f)·(1 + cos πp) / 2         Loshchilov & Hutter 2017, eq. 5
    exponential  f^p
    one_cycle    as cosine, and the warm-up is a cosine from 1/25 too; Smith & Topin 2018 as fastai runs it

where f is `final`. The warm-up is (i + 1) / w: the first step already moves.
"""

import math
from dataclasses import dataclass

KINDS = ("constant", "linear", "cosine", "polynomial", "exponential", "one_cycle")
ONE_CYCLE_START = 1 / 25


@dataclass(frozen=True)
class Curve:
    """A rate inside a phase."""

    kind: str
    warmup: float = 0.0
    """Share of the phase, in steps."""
    final: float = 0.0
    """The factor at the phase's end."""
    power: float = 1.0

    def factor(self, step: int, length: int) -> float:
        """Return the factor at `step` (0 … length − 1) of a phase of `length` steps."""
        warm = round(self.warmup * length)
        if step < warm:
            risen = (step + 1) / warm
            if self.kind == "one_cycle":
                return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * (1 - math.cos(math.pi * risen)) / 2
            return risen
        p = min((step - warm) / max(length - warm, 1), 1.0)
        match self.kind:
            case "constant":
                return 1.0
            case "linear":
                return 1 - (1 - self.final) * p
            case "polynomial":
                return self.final + (1 - self.final) * float((1 - p) ** self.power)
            case "exponential":
                return float(self.final**p)
            case "cosine" | "one_cycle":
                return self.final + (1 - self.final) * (1 + math.cos(math.pi * p)) / 2
        raise AssertionError(self.kind)
