"""The measures of a transfer against numbers by hand, against scipy, and as laws that hold for all inputs."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from frostline.stats import transfer
from frostline.stats.transfer import Estimate, Gain, TimeToThreshold

shares = st.integers(0, 360).map(lambda right: right / 360)
accuracies = st.dictionaries(st.integers(0, 9), shares, min_size=2, max_size=8)
curves = st.lists(shares, min_size=1, max_size=12)


# ── Student's t ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 6, 9, 10, 31, 100, 999])
def test_t_equals_scipy(df: int) -> None:
    for t in (0.0, 0.3, 1.0, 2.776, 12.7, 80.0):
        assert transfer.t_two_sided(t, df) == pytest.approx(2 * stats.t.sf(t, df), abs=1e-13)
        assert transfer.t_two_sided(-t, df) == transfer.t_two_sided(t, df)
    for confidence in (0.5, 0.95, 0.999):
        expected = stats.t.ppf((1 + confidence) / 2, df)
        assert transfer.t_critical(confidence, df) == pytest.approx(expected, rel=1e-11)


def test_t_of_a_table() -> None:
    assert [round(transfer.t_critical(0.95, df), 3) for df in (1, 2, 4, 30)] == [12.706, 4.303, 2.776, 2.042]


def test_t_needs_a_degree_of_freedom() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        transfer.t_central(1.0, 0)


# ── means over seeds ────────────────────────────────────────────────────────────────────────────────────────


def test_interval_by_hand() -> None:
    # mean 3, s = √2.5, half width 2.776445 · √2.5 / √5
    found = transfer.estimate([1, 2, 3, 4, 5])
    half = 2.7764451051977987 * math.sqrt(2.5) / math.sqrt(5)
    assert found == Estimate(3, math.sqrt(2.5), pytest.approx(3 - half), pytest.approx(3 + half), 5)


def test_interval_equals_scipy() -> None:
    values = [0.91, 0.94, 0.90, 0.95, 0.935]
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    found = transfer.estimate(values)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@given(st.lists(shares, min_size=2, max_size=20), st.integers(2, 10))
def test_overlapping_training_sets_by_nadeau_and_bengios_formula(values: list[float], folds: int) -> None:
    """Computed directly: (1/J + n₂/n₁) · s², J − 1 degrees of freedom."""
    count, overlap = len(values), 1 / (folds - 1)
    found = transfer.estimate(values, overlap=overlap)
    error = math.sqrt((1 / count + overlap) * np.var(values, ddof=1))
    half = stats.t.ppf(0.975, count - 1) * error
    assert found.low == pytest.approx(np.mean(values) - half, abs=1e-9)
    assert found.high == pytest.approx(np.mean(values) + half, abs=1e-9)
    plain = transfer.estimate(values)
    assert (found.mean, found.std) == (plain.mean, plain.std)
    assert found.low <= plain.low + 1e-12
    gain = transfer.paired_gain(dict(enumerate(values)), dict.fromkeys(range(count), 0.0), overlap=overlap)
    assert gain.p_sign_flip is None
    if gain.std:
        assert gain.p == pytest.approx(2 * stats.t.sf(abs(gain.mean) / error, count - 1), abs=1e-9)
    else:
        assert gain.p is None


def test_folds_of_one_data_set_decide_less_than_independent_results() -> None:
    """Random guesses on one data set: plain intervals of ten repetitions of 2 folds are far too narrow."""
    rng = np.random.default_rng(0)
    wrong = {0.0: 0, 1.0: 0}
    for _ in range(300):
        arm, other = rng.random((2, 60)) < 0.5
        folds = [rng.permutation(60) for _ in range(5)]
        halves = [part for order in folds for part in (order[:30], order[30:])]
        first, second = (
            {i: float(hits[part].mean()) for i, part in enumerate(halves)} for hits in (arm, other)
        )
        for overlap in wrong:
            gain = transfer.paired_gain(first, second, overlap=overlap)
            wrong[overlap] += gain is not None and gain.p is not None and gain.p < 0.05
    assert wrong[1.0] < 0.1 * 300 < 0.3 * 300 < wrong[0.0]


def test_a_single_seed_has_no_interval() -> None:
    assert transfer.estimate([0.9]) == Estimate(0.9, None, None, None, 1)
    with pytest.raises(ValueError, match="no value"):
        transfer.estimate([])


def test_equal_values_have_an_interval_of_no_width() -> None:
    found = transfer.estimate([0.1 + 0.2, 0.3, 0.3])
    assert found.std == 0
    assert found.low == found.high == found.mean


def test_an_accuracy_is_never_above_one() -> None:
    found = transfer.estimate([1.0, 0.98, 1.0], bounds=(0, 1))
    assert found.high == 1
    assert found.low is not None
    assert found.low < 0.98


@given(st.lists(shares, min_size=2, max_size=9), st.randoms())
def test_the_order_of_seeds_does_not_matter(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert transfer.estimate(shuffled) == transfer.estimate(values)


# ── gains ───────────────────────────────────────────────────────────────────────────────────────────────────


def _by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_paired_gain_equals_scipy() -> None:
    arm, baseline = [0.95, 0.94, 0.96, 0.93, 0.97], [0.86, 0.88, 0.85, 0.87, 0.84]
    gain = transfer.paired_gain(_by_seed(*arm), _by_seed(*baseline))
    test = stats.ttest_rel(arm, baseline)
    interval = test.confidence_interval(0.95)
    flips = stats.permutation_test(
        [np.subtract(arm, baseline)], np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert gain is not None
    assert gain.mean == pytest.approx(0.09)
    assert gain.p == pytest.approx(test.pvalue)
    assert (gain.low, gain.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert gain.p_sign_flip == pytest.approx(flips.pvalue) == 2 / 2**5


def test_only_shared_seeds_are_paired() -> None:
    gain = transfer.paired_gain({0: 0.9, 1: 0.8, 7: 0.1}, {1: 0.7, 0: 0.7, 3: 0.9})
    assert gain is not None
    assert (gain.n, gain.mean) == (2, pytest.approx(0.15))
    assert transfer.paired_gain({0: 0.9}, {1: 0.7}) is None


def test_the_same_gain_in_every_seed_falls_back_on_sign_flips() -> None:
    # 0.9 − 0.8 and 0.8 − 0.7 differ in their last bit; that is no spread, and no certainty.
    arm, baseline = (0.9, 0.8, 0.7, 0.6, 0.5), (0.8, 0.7, 0.6, 0.5, 0.4)
    for n, outcome in ((2, "undecided"), (5, "undecided")):
        gain = transfer.paired_gain(_by_seed(*arm[:n]), _by_seed(*baseline[:n]))
        assert gain is not None
        assert (gain.std, gain.p) == (0, 2 / 2**n)
        assert transfer.verdict(gain) == outcome
    gain = transfer.paired_gain(dict.fromkeys(range(6), 0.9), dict.fromkeys(range(6), 0.8))
    assert transfer.verdict(gain) == "helped"


def test_no_difference_at_all_is_undecided() -> None:
    gain = transfer.paired_gain(_by_seed(0.9, 0.8, 0.7), _by_seed(0.9, 0.8, 0.7))
    assert gain == Gain(0, 0, 0, 0, 3, p=1, p_sign_flip=1)
    assert transfer.verdict(gain) == "undecided"


def test_a_corrected_p_decides_in_place_of_the_gains_own() -> None:
    gain = transfer.paired_gain(_by_seed(0.9, 0.81, 0.86, 0.83, 0.85), _by_seed(*[0.8] * 5))
    assert gain is not None
    assert gain.p is not None
    assert gain.p < 0.05
    assert [transfer.verdict(gain, p) for p in (None, 0.049, 0.051)] == ["helped", "helped", "undecided"]


def test_a_single_seed_decides_nothing() -> None:
    gain = transfer.paired_gain({0: 0.99}, {0: 0.10})
    assert gain is not None
    assert (gain.p, gain.p_sign_flip, gain.low) == (None, None, None)
    assert transfer.verdict(gain) == transfer.verdict(None) == "undecided"


@given(accuracies, accuracies)
def test_swapping_the_arms_turns_the_gain_round(arm: dict[int, float], baseline: dict[int, float]) -> None:
    there, back = transfer.paired_gain(arm, baseline), transfer.paired_gain(baseline, arm)
    assume(there is not None)
    assert there is not None
    assert back is not None
    assert back.mean == -there.mean
    assert (back.p, back.p_sign_flip, back.std) == (there.p, there.p_sign_flip, there.std)
    assert [back.low, back.high] == [None if x is None else -x for x in (there.high, there.low)]
    opposite = {"helped": "hurt", "hurt": "helped", "undecided": "undecided"}
    assert transfer.verdict(back) == opposite[transfer.verdict(there)]


@given(accuracies, st.integers(-5, 5), st.data())
def test_adding_a_constant_to_both_leaves_the_gain(
    arm: dict[int, float], c: int, data: st.DataObject
) -> None:
    baseline = {seed: data.draw(shares) for seed in arm}
    gain = transfer.paired_gain(arm, baseline)
    moved = transfer.paired_gain({s: v + c for s, v in arm.items()}, {s: v + c for s, v in baseline.items()})
    assert gain is not None
    assert moved is not None
    for name in ("mean", "std", "low", "high", "p"):
        assert getattr(moved, name) == pytest.approx(getattr(gain, name), abs=1e-9), name
    assert moved.p_sign_flip == gain.p_sign_flip


@given(accuracies, st.data())
def test_the_verdict_is_decided_where_the_interval_leaves_zero_out(
    arm: dict[int, float], data: st.DataObject
) -> None:
    gain = transfer.paired_gain(arm, {seed: data.draw(shares) for seed in arm})
    assert gain is not None
    assume(gain.std)
    assert gain.low is not None
    assert gain.high is not None
    assume(min(abs(gain.low), abs(gain.high)) > 1e-9)
    expected = "helped" if gain.low > 0 else "hurt" if gain.high < 0 else "undecided"
    assert transfer.verdict(gain) == expected


# ── sign flips and Holm ─────────────────────────────────────────────────────────────────────────────────────


def test_sign_flips_by_hand() -> None:
    # |±1 ±2 ±3| reaches 4 in four of eight signings: ±(1+2+3), ±(−1+2+3)
    assert transfer.sign_flip_p([-1, 2, 3]) == 4 / 8


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=8))
def test_sign_flips_count_all_signings(differences: list[int]) -> None:
    signings = itertools.product((-1, 1), repeat=len(differences))
    reached = [abs(np.dot(signs, differences)) >= abs(sum(differences)) for signs in signings]
    p = transfer.sign_flip_p(differences)
    assert p == np.mean(reached)
    assert p is not None
    assert 2 / 2 ** len(differences) <= p <= 1


def test_sign_flips_stop_where_they_would_take_long() -> None:
    assert transfer.sign_flip_p([1.0] * 16) == 2 / 2**16
    assert transfer.sign_flip_p([1.0] * 17) is None


def test_holm_by_hand() -> None:
    found = transfer.holm({"a": 0.01, "b": 0.04, "c": 0.03})
    assert found == {"a": pytest.approx(0.03), "c": pytest.approx(0.06), "b": pytest.approx(0.06)}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=6))
def test_holm_never_makes_a_result_surer(p_values: dict[str, float]) -> None:
    adjusted = transfer.holm(p_values)
    assert adjusted.keys() == p_values.keys()
    assert all(p_values[name] <= adjusted[name] <= 1 for name in p_values)
    ranked = sorted(p_values, key=lambda name: p_values[name])
    assert [adjusted[name] for name in ranked] == sorted(adjusted.values())


# ── learning curves ─────────────────────────────────────────────────────────────────────────────────────────


def test_measures_of_taylor_and_stone_by_hand() -> None:
    arm, baseline = {0: [0.5, 0.8, 0.9], 1: [0.6, 0.8, 1.0]}, {0: [0.1, 0.5, 0.9], 1: [0.2, 0.4, 0.6]}
    jumpstart, asymptote = transfer.jumpstart(arm, baseline), transfer.asymptote(arm, baseline)
    ratio = transfer.transfer_ratio(arm, baseline, 2)
    assert jumpstart is not None
    assert asymptote is not None
    assert ratio is not None
    assert jumpstart.mean == pytest.approx(0.4)
    assert asymptote.mean == pytest.approx((0.0 + 0.4) / 2)
    # areas 0.75 and 0.5; 0.8 and 0.4
    assert ratio.mean == pytest.approx(((0.75 - 0.5) / 0.5 + (0.8 - 0.4) / 0.4) / 2)


def test_time_to_threshold() -> None:
    assert transfer.epochs_to_threshold([0.1, 0.5, 0.4, 0.6], 0.5) == 1
    assert transfer.epochs_to_threshold([0.5], 0.5) == 0
    assert transfer.epochs_to_threshold([0.1, 0.2], 0.5) is None


@given(curves)
def test_a_run_reaches_its_own_best_and_nothing_above(curve: list[float]) -> None:
    assert transfer.epochs_to_threshold(curve, max(curve)) == curve.index(max(curve))
    assert transfer.epochs_to_threshold(curve, max(curve) + 0.001) is None


def test_a_median_counts_never_as_later_than_any() -> None:
    assert transfer.time_to_threshold([3, 5, 4]) == TimeToThreshold(4, 3, 5, reached=3, n=3)
    assert transfer.time_to_threshold([3, None, 4]) == TimeToThreshold(4, 3, 4, reached=2, n=3)
    assert transfer.time_to_threshold([3, None, None]) == TimeToThreshold(None, 3, 3, reached=1, n=3)
    assert transfer.time_to_threshold([3, 4]) == TimeToThreshold(3.5, 3, 4, reached=2, n=2)
    assert transfer.time_to_threshold([3, None]) == TimeToThreshold(None, 3, 3, reached=1, n=2)
    assert transfer.time_to_threshold([None]) == TimeToThreshold(None, None, None, reached=0, n=1)
    with pytest.raises(ValueError, match="no time"):
        transfer.time_to_threshold([])


def test_a_run_that_stops_keeps_its_last_value() -> None:
    assert transfer.pad_curve([0.1, 0.4], 3) == [0.1, 0.4, 0.4, 0.4]
    assert transfer.area_under_curve([0.4], 5) == pytest.approx(0.4)
    assert transfer.area_under_curve([0.3], 0) == 0.3


@given(curves, st.integers(0, 15))
def test_an_area_lies_between_the_curves_extremes(curve: list[float], epochs: int) -> None:
    assert min(curve) - 1e-12 <= transfer.area_under_curve(curve, epochs) <= max(curve) + 1e-12


def test_no_ratio_to_a_baseline_that_learned_nothing() -> None:
    assert transfer.transfer_ratio({0: [0.5, 0.6]}, {0: [0.0, 0.0]}, 1) is None
    assert transfer.transfer_ratio({0: [0.5]}, {1: [0.5]}, 1) is None
