"""Transfer measures: gain over the from-scratch baseline, time to reach it, and confidence intervals.

The measures are those of Taylor & Stone, "Transfer Learning for Reinforcement Learning Domains: A Survey"
(JMLR 10, 2009, section 2.2): jumpstart, asymptotic performance, transfer ratio and time to threshold. An arm
and its baseline share data, budget and seeds, so they are compared seed by seed: pairing removes the effect
of the seed.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar

import numpy as np

BASELINE = "scratch"
"""The name of the from-scratch baseline's arm, with which the others are compared."""
CONFIDENCE = 0.95
MOST_FLIPPED_PAIRS = 16
"""With more pairs, the 2ⁿ signs are not enumerated: the t-test needs no check there."""
ROUNDING = 1e-12
"""A standard deviation below this share of the values is rounding error."""
DIFFERENCES = (-1.0, 1.0)
"""The bounds of a difference of two shares."""
DECIMALS = 12
"""Differences of accuracies are rounded to these, so that 0.9 − 0.8 equals 0.8 − 0.7."""

Outcome = Literal["helped", "hurt", "undecided"]
Curve = Sequence[float]
"""A validation metric after 0, 1, 2, … epochs; entry 0 is the network before training."""


@dataclass(frozen=True)
class Estimate:
    """A mean over repetitions (seeds, or folds and seeds) with its 95 % interval; see `estimate`."""

    mean: float
    std: float | None
    """Sample standard deviation (n − 1); None for a single repetition, as are both ends of the interval."""
    low: float | None
    high: float | None
    n: int
    """Number of repetitions."""


@dataclass(frozen=True)
class Gain(Estimate):
    """The mean of paired differences, arm − baseline, with p-values under the null of no difference."""

    p: float | None
    """Two-sided p of the paired t-test. None for a single repetition.

    If all differences are equal, the t-test is undefined; then it is `p_sign_flip`.
    """
    p_sign_flip: float | None
    """Two-sided p of the exact sign-flip test (Fisher 1935), at least 2 / 2ⁿ.

    None for a single repetition, for more than 16, and for overlapping training sets.
    """


@dataclass(frozen=True)
class TimeToThreshold:
    """Times to a threshold, over seeds; a seed that never reaches it counts as the latest."""

    median: float | None
    """None: at least half of the seeds never reached it."""
    least: float | None
    most: float | None
    """`least` and `most` are over the seeds that reached it."""
    reached: int
    n: int
    """Number of repetitions."""


# ── means over seeds ────────────────────────────────────────────────────────────────────────────────────────


def estimate(
    values: Sequence[float],
    *,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    overlap: float = 0.0,
) -> Estimate:
    """Return the mean of `values`, one per repetition, with its interval: mean ± t · s · √(1/n + overlap).

    Args:
        bounds: the values that the quantity can take; the interval is clipped to them, which keeps coverage.
        overlap: n_test/n_train if the training sets of the repetitions overlap, as the folds of a
            cross-validation; 0 for repetitions that differ in their seeds only. Results with overlap are
            correlated, so that s²/n underestimates the variance of their mean; Nadeau & Bengio, "Inference
            for the Generalization Error" (Machine Learning 52, 2003, section 3, "corrected resampled t"),
            estimate it by (1/n + n_test/n_train) · s², with n − 1 degrees of freedom.
    """
    n = len(values)
    if n == 0:
        raise ValueError("there is no value to average")
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, None, None, 1)
    std = _spread(values, mean)
    half = t_critical(CONFIDENCE, n - 1) * std / _root_size(n, overlap)
    return Estimate(mean, std, max(mean - half, bounds[0]), min(mean + half, bounds[1]), n)


def fold_overlap(used: int, folds: int) -> float:
    """Return the overlap of `estimate` for repetitions on `used` of K folds: 1/(K − 1), or 0 on a single one.

    Validation images are counted among the training images.
    """
    return 1 / (folds - 1) if used > 1 else 0.0


Repetition = TypeVar("Repetition", bound=Hashable)
"""What identifies a repetition: a seed, or a fold and a seed."""


def paired_gain(
    arm: Mapping[Repetition, float],
    baseline: Mapping[Repetition, float],
    *,
    bounds: tuple[float, float] = DIFFERENCES,
    overlap: float = 0.0,
) -> Gain | None:
    """Return the mean difference arm − baseline over shared repetitions; None where they share none.

    Args:
        bounds: as for `estimate`; by default those of differences of shares, such as accuracies.
        overlap: as for `estimate`. With overlapping training sets, the differences are not exchangeable:
            there is no sign-flip test, and equal differences have no p.
    """
    differences = [round(arm[key] - baseline[key], DECIMALS) for key in arm if key in baseline]
    if not differences:
        return None
    e = estimate(differences, bounds=bounds, overlap=overlap)
    flipped = None if overlap else sign_flip_p(differences)
    if e.std is None:
        p = None
    elif e.std == 0:
        p = flipped
    else:
        p = t_two_sided(e.mean / (e.std / _root_size(e.n, overlap)), e.n - 1)
    return Gain(e.mean, e.std, e.low, e.high, e.n, p, flipped if e.n > 1 else None)


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Return the exact two-sided p of the sign-flip test.

    That is the share of all 2ⁿ assignments of signs to `differences` whose sum is at least as far from 0.

    Exact if differences are symmetric about 0 under the null (Fisher, The Design of Experiments, 1935,
    section 21). None for more than 16 differences.
    """
    n = len(differences)
    if n > MOST_FLIPPED_PAIRS:
        return None
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    observed, slack = abs(math.fsum(differences)), ROUNDING * math.fsum(map(abs, differences))
    return float((np.abs(sums) >= observed - slack).mean())


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for multiple comparisons (Holm 1979): i-th smallest of m, times m − i + 1."""
    adjusted: dict[str, float] = {}
    floor = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: (p_values[name], name))):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = floor
    return adjusted


def verdict(gain: Gain | None, corrected: float | None = None) -> Outcome:
    """Say whether the transfer helped, hurt, or is undecided.

    It is decided if p < 5 %: if the gain's is, its interval excludes 0. It is undecided without a gain, for a
    single repetition, and for equal differences whose sign-flip p is too high or does not exist.

    Args:
        corrected: the p-value corrected for several comparisons, which decides; None: the gain's own does.
    """
    if gain is None:
        return "undecided"
    p = gain.p if corrected is None else corrected
    if p is None or p >= 1 - CONFIDENCE:
        return "undecided"
    return "helped" if gain.mean > 0 else "hurt"


# ── learning curves ─────────────────────────────────────────────────────────────────────────────────────────


def jumpstart(
    arm: Mapping[Repetition, Curve], baseline: Mapping[Repetition, Curve], *, overlap: float = 0.0
) -> Gain | None:
    """Return the paired difference before any training; None where the arms share no repetition.

    Args:
        overlap: as for `estimate`.
    """
    return _paired(arm, baseline, lambda curve: curve[0], overlap)


def asymptote(
    arm: Mapping[Repetition, Curve], baseline: Mapping[Repetition, Curve], *, overlap: float = 0.0
) -> Gain | None:
    """Return the paired difference of the curves' best values; None where the arms share no repetition.

    Args:
        overlap: as for `estimate`.
    """
    return _paired(arm, baseline, max, overlap)


def epochs_to_threshold(curve: Curve, threshold: float) -> int | None:
    """Return the first epoch whose value is at least `threshold`; None where there is none."""
    return next((epoch for epoch, value in enumerate(curve) if value >= threshold), None)


def time_to_threshold(times: Sequence[float | None]) -> TimeToThreshold:
    """Summarize the times, one per seed, at which a threshold was reached; None stands for never.

    The median is defined if more than half of the seeds reach it; a mean over those alone would flatter an
    arm that often fails.
    """
    if not times:
        raise ValueError("there is no time to summarize")
    reached = [time for time in times if time is not None]
    ordered = sorted(math.inf if time is None else time for time in times)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return TimeToThreshold(
        median=middle if math.isfinite(middle) else None,
        least=min(reached, default=None),
        most=max(reached, default=None),
        reached=len(reached),
        n=len(times),
    )


def pad_curve(curve: Curve, epochs: int) -> list[float]:
    """Return `curve` for epochs 0…`epochs`; a run that stopped earlier is padded with its last value."""
    return [curve[min(epoch, len(curve) - 1)] for epoch in range(epochs + 1)]


def area_under_curve(curve: Curve, epochs: int) -> float:
    """Return the mean of `curve` over epochs 0…`epochs` by trapezoids; a shorter one is padded."""
    heights = pad_curve(curve, epochs)
    if epochs == 0:
        return heights[0]
    return math.fsum((a + b) / 2 for a, b in pairwise(heights)) / epochs


def transfer_ratio(
    arm: Mapping[Repetition, Curve],
    baseline: Mapping[Repetition, Curve],
    epochs: int,
    *,
    overlap: float = 0.0,
) -> Estimate | None:
    """Return (arm's area − baseline's area) / baseline's area over 0…`epochs`, the mean over repetitions.

    None where the arms share no repetition, or where a baseline's area is 0.

    Args:
        overlap: as for `estimate`.
    """
    pairs = [
        (area_under_curve(arm[key], epochs), area_under_curve(baseline[key], epochs))
        for key in arm
        if key in baseline
    ]
    if not pairs or any(base == 0 for _, base in pairs):
        return None
    return estimate([(own - base) / base for own, base in pairs], overlap=overlap)


# ── Student's t ─────────────────────────────────────────────────────────────────────────────────────────────


def t_central(t: float, df: int) -> float:
    """Return the probability that a Student t variable of `df` degrees of freedom lies within ±`t`.

    The closed form for whole degrees of freedom: with θ = atan(t/√df),
        odd df:   2/π · (θ + sin θ · (cos θ + 2/3 cos³ θ + … + 2·4⋯(df−3) / 3·5⋯(df−2) · cos^(df−2) θ))
        even df:  sin θ · (1 + 1/2 cos² θ + … + 1·3⋯(df−3) / 2·4⋯(df−2) · cos^(df−2) θ)
    (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4).
    """
    if df < 1:
        raise ValueError(f"{df} degrees of freedom; at least 1 is needed")
    theta = math.atan2(abs(t), math.sqrt(df))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = df % 2
    term = cosine if odd else 1.0
    series = []
    for k in range(2 + odd, df + 1, 2):
        series.append(term)
        term *= (k - 1) / k * cosine * cosine
    total = sine * math.fsum(series)
    return min(1.0, 2 / math.pi * (theta + total) if odd else total)


def t_two_sided(t: float, df: int) -> float:
    """Return the two-sided p-value of `t` with `df` degrees of freedom; exact to about 1e-15."""
    return 1.0 - t_central(t, df)


def t_critical(confidence: float, df: int) -> float:
    """Return the t such that a Student t variable lies within ±t with probability `confidence`."""
    low, high = 0.0, 1.0
    while t_central(high, df) < confidence:
        low, high = high, 2 * high
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if t_central(middle, df) < confidence else (low, middle)
    return high


def _root_size(n: int, overlap: float) -> float:
    """Return √n, or for overlapping training sets what takes its place: 1/√(1/n + overlap)."""
    return 1 / math.sqrt(1 / n + overlap) if overlap else math.sqrt(n)


def _spread(values: Sequence[float], mean: float) -> float:
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return std if std > ROUNDING * max(map(abs, values)) else 0.0


def _paired(
    arm: Mapping[Repetition, Curve],
    baseline: Mapping[Repetition, Curve],
    of: Callable[[Curve], float],
    overlap: float,
) -> Gain | None:
    return paired_gain(
        {key: of(curve) for key, curve in arm.items()},
        {key: of(curve) for key, curve in baseline.items()},
        overlap=overlap,
    )
