"""Learning-rate curves of a phase: a factor as a pure function of (step in the phase, length of the phase).

The curves are those of torch.optim.lr_scheduler, except one_cycle. At step i = 0, …, n − 1 of a phase of n
steps, after a warm-up of w steps, with p = (i − w) / (n − w), the factor is

    constant     1
    linear       1 − (1 − f)·p
    polynomial   f + (1 − f)·(1 − p)^power
    cosine       f + (1 − f)·(1 + cos πp) / 2         Loshchilov & Hutter 2017, eq. 5
    exponential  f^p
    one_cycle    as cosine, after a cosine warm-up           Smith & Topin 2018, as fastai runs it

where f is `final`. The warm-up is s + (1 − s)·(i + 1) / w with s = `start`: the first step is already above
s. one_cycle evaluates the curve at i / n, so that its first step is at s itself. It may also change the
momentum, opposite to the learning rate.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from frostline.console.errors import FrostlineError

if TYPE_CHECKING:
    from frostline import schema

KINDS = ("constant", "linear", "cosine", "polynomial", "exponential", "one_cycle")
ONE_CYCLE_START = 1 / 25


@dataclass(frozen=True)
class Curve:
    """A learning-rate curve, and possibly a momentum curve, of a phase."""

    kind: str
    warmup: float = 0.0
    """Warm-up, as a fraction of the phase's steps."""
    final: float = 0.0
    """Factor at the end of the phase."""
    power: float = 1.0
    start: float | None = None
    """Factor at which the warm-up starts; None: the default of the kind."""
    momenta: tuple[float, float] | None = None
    """one_cycle: momentum at the lowest and at the highest learning rate; None: constant."""

    def factor(self, step: int, length: int) -> float:
        """Return the factor at `step` (0 … length − 1) of a phase of `length` steps."""
        if self.kind == "one_cycle":
            start = ONE_CYCLE_START if self.start is None else self.start
            return self._cycle(step / length, start, 1.0, self.final)
        warm = round(self.warmup * length)
        if step < warm:
            start = self.start or 0.0
            return start + (1 - start) * (step + 1) / warm
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
            case "cosine":
                return _cosine(1.0, self.final, p)
        raise AssertionError(self.kind)

    def is_constant(self, step: int, length: int) -> bool:
        """Return whether learning rate and momentum are constant from `step` to the end of the phase."""
        return self.kind == "constant" and step + 1 >= round(self.warmup * length)

    def momentum(self, step: int, length: int) -> float | None:
        """Return the momentum at `step`; None: that of the optimizer."""
        if self.momenta is None:
            return None
        at_lowest_lr, at_highest_lr = self.momenta
        return self._cycle(step / length, at_lowest_lr, at_highest_lr, at_lowest_lr)

    def _cycle(self, at: float, start: float, middle: float, end: float) -> float:
        """fastai's combined_cos: up (or down) to `middle` at the warm-up's end, then to `end`."""
        if at < self.warmup:
            return _cosine(start, middle, at / self.warmup)
        return _cosine(middle, end, (at - self.warmup) / (1 - self.warmup))


def build_curve(rate: "schema.Rate") -> Curve:
    """Return the curve that a config describes.

    Raises:
        FrostlineError: `momentum` is set for a kind other than one_cycle, or `power` for one other than
            polynomial.
    """
    momenta = tuple(rate.momentum) if rate.momentum else None
    if momenta and rate.kind != "one_cycle":
        raise FrostlineError(f"schedule.momentum: only one_cycle changes it, not {rate.kind}; remove it")
    if rate.power is not None and rate.kind != "polynomial":
        raise FrostlineError(f"schedule.power: only polynomial has one, not {rate.kind}; remove it")
    power = 1.0 if rate.power is None else rate.power
    return Curve(rate.kind, rate.warmup, rate.final, power, rate.start, momenta)  # type: ignore[arg-type]


def _cosine(start: float, end: float, p: float) -> float:
    return start + (1 + math.cos(math.pi * (1 - p))) * (end - start) / 2
