"""Numbers as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.reporting import words
from frostline.reporting.repeats import Repeats
from frostline.reporting.verdict import Verdict
from frostline.stats.transfer import Estimate, Gain, Outcome, TimeToThreshold


@pytest.mark.parametrize(
    ("difference", "text"),
    [(0.0724, "+7.2"), (-0.004, "−0.4"), (0.0004, "0.0"), (-0.0004, "0.0"), (0, "0.0"), (1, "+100.0")],
)
def test_points(difference: float, text: str) -> None:
    assert words.points(difference) == text


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (None, "no p-value"),
        (1.0, "p = 1"),
        (0.0312, "p = 0.031"),
        (0.00084, "p = 0.0008"),
        (0.0001, "p = 0.0001"),
        (0.0000999, "p < 0.0001"),
        (0.0, "p < 0.0001"),
    ],
)
def test_p_value(p: float | None, text: str) -> None:
    assert words.p_value(p) == text


@given(st.floats(-1, 1))
def test_a_sign_says_the_truth(difference: float) -> None:
    text = words.points(difference)
    assert float(text.replace("−", "-")) == pytest.approx(100 * difference, abs=0.05 + 1e-9)
    assert ("+" in text, "−" in text) == (round(100 * difference, 1) > 0, round(100 * difference, 1) < 0)


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.051, 0.093, "+5.1 to +9.3"),
        (0.0003, 0.037, "+0.03 to +3.7"),
        (-0.00002, 0.037, "−0.002 to +3.7"),
        (-0.04, 0.0, "−4.0 to 0.0"),
        (None, None, ""),
    ],
)
def test_an_interval_shows_on_which_side_of_zero_it_ends(
    low: float | None, high: float | None, text: str
) -> None:
    assert words.gain_interval(Gain(0.01, 0.01, low, high, 5, p=0.04, p_sign_flip=0.0625)) == text


def test_counts() -> None:
    assert (words.counted_epochs(1), words.counted_epochs(3.5)) == ("1 epoch", "3.5 epochs")
    assert words.missed(TimeToThreshold(3, 3, 3, reached=3, n=5)) == "2 of 5 seeds"
    assert words.missed(TimeToThreshold(3, 3, 3, reached=5, n=5)) == ""


def test_a_headline_claims_only_what_is_decided() -> None:
    gain = Gain(0.072, 0.01, 0.05, 0.09, 5, p=0.001, p_sign_flip=0.0625)
    helped = Verdict("helped", "full", gain, None, None, Repeats((0, 1)))
    assert helped.headline == "Transfer helped: +7.2 points of test accuracy"
    undecided = Verdict("undecided", "full", gain, None, None, Repeats((0, 1)))
    assert undecided.headline == "Undecided for full"
    alone = Verdict("undecided", None, None, None, None, Repeats((0, 1)))
    assert alone.headline == "Undecided: this study can't tell whether transfer helped"


@pytest.mark.parametrize(
    ("mean", "p", "certainty"),
    [
        (0.156, 0.5, "the same in all 2 seeds, p = 0.5 by sign flips, the least that 2 seeds can give"),
        (0.0, 1.0, "the same in all 2 seeds, p = 1 by sign flips"),
    ],
)
def test_equal_differences_say_what_their_p_can_be(mean: float, p: float, certainty: str) -> None:
    gain, same = Gain(mean, 0.0, mean, mean, 2, p=p, p_sign_flip=p), Estimate(0.8, 0.0, 0.8, 0.8, 2)
    verdict = Verdict("undecided", "full", gain, same, same, Repeats((0, 1)))
    assert f"; {certainty}), which may well be chance" in verdict.sentence


@pytest.mark.parametrize(
    ("others", "headline"),
    [
        ({"a": "undecided"}, "Undecided for full"),
        ({"a": "helped"}, "Undecided for full; a gained"),
        ({"a": "helped", "b": "hurt", "c": "helped"}, "Undecided for full; a and c gained; b lost"),
        (dict.fromkeys("abcd", "helped"), "Undecided for full; 4 other arms gained"),
        ({"a" * 30: "helped", "b" * 30: "helped"}, "Undecided for full; 2 other arms gained"),
    ],
)
def test_an_undecided_headline_names_its_arm_and_those_that_are_decided(
    others: dict[str, Outcome], headline: str
) -> None:
    gain = Gain(0.002, 0.01, -0.05, 0.09, 5, p=0.5, p_sign_flip=0.5)
    assert Verdict("undecided", "full", gain, None, None, Repeats((0, 1)), others=others).headline == headline


def test_lists_in_sentences() -> None:
    assert [words.listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
