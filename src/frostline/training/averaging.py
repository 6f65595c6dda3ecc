"""Weight averages: along a run (EMA, SWA), between its start and end (WiSE-FT), over runs (soups).

A state is a network's `state_dict()`, including running statistics. Integer tensors, such as BatchNorm's
count of batches, are not averaged: the newest one is used.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Score = tuple[float, ...]
"""A network's validation metrics, compared from the left; larger is better."""


class Ema:
    """An exponential moving average of weights (Polyak & Juditsky 1992; as timm's ModelEmaV3 does it).

    After each step ``average ← d·average + (1 − d)·weights``. The average of a frozen tensor is the tensor
    itself. When it is unfrozen, its average starts from there. With `warmup`,
    d = min(decay, (1 + t)/(10 + t)) at the t-th step since then (TensorFlow's ExponentialMovingAverage), so
    that the start of a short phase does not dominate.
    """

    def __init__(self, decay: float, warmup: bool) -> None:
        self.decay, self.warmup = decay, warmup
        self.average: dict[str, Tensor] = {}
        self._steps = 0
        self._since: dict[str, int] = {}
        """Trained tensor → number of steps before it was unfrozen."""

    def seed(self, state: State) -> None:
        """Restart from `state`, with every tensor frozen."""
        self.average = copied(state)
        self._since = {}

    @torch.no_grad()
    def enter(self, state: State, moving: Collection[str]) -> None:
        """Start a phase whose steps change only the tensors `moving`."""
        before = {name: since for name, since in self._since.items() if name in moving}
        for name in state.keys() - before.keys():
            self.average[name].copy_(state[name])
        self._since = {name: before.get(name, self._steps) for name in state if name in moving}

    @torch.no_grad()
    def update(self, state: State) -> None:
        """Add the weights after a step."""
        self._steps += 1
        for since in sorted(set(self._since.values())):
            t = self._steps - since
            decay = min(self.decay, (1 + t) / (10 + t)) if self.warmup else self.decay
            _approach(self.average, state, [n for n, s in self._since.items() if s == since], 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"average": self.average, "steps": self._steps, "since": self._since}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.average, self._steps = dict(state_dict["average"]), state_dict["steps"]
        self._since = dict(state_dict["since"])


class Swa:
    """The plain mean of a run's weights at several times (Izmailov et al. 2018, algorithm 1).

    After the n-th, ``average ← (average·(n − 1) + weights)/n``. BatchNorm's statistics must be recalibrated
    for the averaged weights: see `training.trainable.recalibrate`.
    """

    def __init__(self) -> None:
        self.average: dict[str, Tensor] = {}
        self.count = 0
        """Number of averaged states."""

    @torch.no_grad()
    def update(self, state: State) -> None:
        """Add a state."""
        self.count += 1
        if self.count == 1:
            self.average = copied(state)
        else:
            _approach(self.average, state, list(state), 1 / self.count)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"average": self.average, "count": self.count}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.average, self.count = dict(state_dict["average"]), state_dict["count"]


def interpolate(start: State, end: State, alpha: float) -> dict[str, Tensor]:
    """Return (1 − α)·start + α·end (Wortsman et al. 2022b, eq. 1); α = 0 and 1 give them bit by bit."""
    return {
        name: torch.lerp(start[name], tensor, alpha) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in end.items()
    }


def best_alpha(alphas: Sequence[float], score: Callable[[float], Score]) -> float:
    """Score every α once and return the best; ties go to the larger α, nearer to the fine-tuned weights."""
    return max((score(alpha), alpha) for alpha in alphas)[1]


def uniform_soup(states: Iterable[State]) -> dict[str, Tensor]:
    """Return the mean of several networks' weights: a uniform soup (Wortsman et al. 2022a, table 2)."""
    swa = Swa()
    for state in states:
        swa.update(state)
    return swa.average


def greedy_soup(scores: Mapping[int, Score], score: Callable[[Sequence[int]], Score]) -> tuple[int, ...]:
    """Choose the networks of a greedy soup (Wortsman et al. 2022a, recipe 1).

    From the best network to the worst, each one is added if the soup's score does not get worse.

    Args:
        scores: network → its score on validation; ties go to the smaller number.
        score: returns the score of the mean of some networks.

    Returns:
        The chosen networks, in the order in which they were added.
    """
    first, *others = sorted(scores, key=lambda network: (tuple(-v for v in scores[network]), network))
    chosen: tuple[int, ...] = (first,)
    best = scores[first]
    for other in others:
        if (value := score((*chosen, other))) >= best:
            chosen, best = (*chosen, other), value
    return chosen


def copied(state: State) -> dict[str, Tensor]:
    """Return a copy of a state that training does not change."""
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _approach(average: Mapping[str, Tensor], state: State, names: Sequence[str], share: float) -> None:
    """Move `average` in place by `share` of the way to `state`; equal values stay bit by bit."""
    floats = [name for name in names if state[name].is_floating_point()]
    if floats:
        torch._foreach_lerp_([average[n] for n in floats], [state[n] for n in floats], share)
    for name in names:
        if not state[name].is_floating_point():
            average[name].copy_(state[name])
