"""Averages of weights: along a run (EMA, SWA), from its start to its end (WiSE-FT), over runs (soups).

A state is a network's `state_dict()`, running statistics included. What is not a floating-point number, such
as BatchNorm's count of batches, can't be averaged: the newest is kept.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Score = tuple[float, ...]
"""What validation says of a network; the larger, compared from the left, is the better."""


class Ema:
    """An exponential moving average of weights (Polyak & Juditsky 1992; as timm's ModelEmaV3 does it).

    After each step ``average ← d·average + (1 − d)·weights``. A frozen tensor's average is the tensor; when
    it thaws, its average starts from it. With `warmup`, d = min(decay, (1 + t)/(10 + t)) at the t-th step
    since the tensor thawed (TensorFlow's ExponentialMovingAverage), so that a short phase is not all start.
    """

    def __init__(self, decay: float, warmup: bool) -> None:
        self.decay, self.warmup = decay, warmup
        self.average: dict[str, Tensor] = {}
        self._steps = 0
        self._since: dict[str, int] = {}
        """Tensors that move, each with the number of steps before it thawed."""

    def seed(self, state: State) -> None:
        """Start again from `state`, where nothing moves yet."""
        self.average = _copy(state)
        self._since = {}

    @torch.no_grad()
    def enter(self, state: State, moving: Collection[str]) -> None:
        """Begin a stretch of steps that change the tensors `moving` alone."""
        before = {name: since for name, since in self._since.items() if name in moving}
        for name in state.keys() - before.keys():
            self.average[name].copy_(state[name])
        self._since = {name: before.get(name, self._steps) for name in state if name in moving}

    @torch.no_grad()
    def update(self, state: State) -> None:
        """Take in the weights after a step."""
        self._steps += 1
        for since in sorted(set(self._since.values())):
            t = self._steps - since
            decay = min(self.decay, (1 + t) / (10 + t)) if self.warmup else self.decay
            _approach(self.average, state, [n for n, s in self._since.items() if s == since], 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"average": self.average, "steps": self._steps, "since": self._since}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.average, self._steps = dict(state_dict["average"]), state_dict["steps"]
        self._since = dict(state_dict["since"])


class Swa:
    """The plain mean of a run's weights at several times (Izmailov et al. 2018, algorithm 1).

    After the n-th, ``average ← (average·(n − 1) + weights)/n``. The statistics of BatchNorm are to be taken
    anew for the averaged weights: see `training.thaw.recalibrate`.
    """

    def __init__(self) -> None:
        self.average: dict[str, Tensor] = {}
        self.count = 0
        """States taken in."""

    @torch.no_grad()
    def update(self, state: State) -> None:
        """Take in one more state."""
        self.count += 1
        if self.count == 1:
            self.average = _copy(state)
        else:
            _approach(self.average, state, list(state), 1 / self.count)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"average": self.average, "count": self.count}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.average, self.count = dict(state_dict["average"]), state_dict["count"]


def interpolate(start: State, end: State, alpha: float) -> dict[str, Tensor]:
    """Return (1 − α)·start + α·end (Wortsman et al. 2022b, eq. 1); α = 0 and 1 give the two to the bit."""
    return {
        name: torch.lerp(start[name], tensor, alpha) if tensor.is_floating_point() else tensor.clone()
        for name, tensor in end.items()
    }


def best_alpha(alphas: Sequence[float], score: Callable[[float], Score]) -> float:
    """Score every α once and return the best; ties go to the larger α, the nearer to the fine-tuned end."""
    return max((score(alpha), alpha) for alpha in alphas)[1]


def uniform_soup(states: Iterable[State]) -> dict[str, Tensor]:
    """Return the mean of several networks' weights: a uniform soup (Wortsman et al. 2022a, table 2)."""
    swa = Swa()
    for state in states:
        swa.update(state)
    return swa.average


def greedy_soup(scores: Mapping[int, Score], score: Callable[[Sequence[int]], Score]) -> tuple[int, ...]:
    """Choose what goes into a greedy soup (Wortsman et al. 2022a, recipe 1).

    In the order of their own scores, the best first, each network is added to the soup and stays if the
    soup's score is not worse for it.

    Args:
        scores: network → its score on validation; ties go to the smaller number.
        score: the score of the mean of some of them.

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


def _copy(state: State) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _approach(average: Mapping[str, Tensor], state: State, names: Sequence[str], share: float) -> None:
    """Move `average` in place by `share` of the way to `state`; where they are equal it stays, to the bit."""
    floats = [name for name in names if state[name].is_floating_point()]
    if floats:
        torch._foreach_lerp_([average[n] for n in floats], [state[n] for n in floats], share)
    for name in names:
        if not state[name].is_floating_point():
            average[name].copy_(state[name])
