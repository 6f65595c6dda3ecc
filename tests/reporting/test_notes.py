"""Notes of the report: what limits it."""

from types import SimpleNamespace

import pytest

from frostline.reporting.learned import Majority
from frostline.reporting.notes import _below


@pytest.mark.parametrize(("accuracy", "noted"), [(0.85, False), (0.844, True), (0.8, True)])
def test_an_arm_that_always_predicts_the_majority_class_is_named(accuracy, noted):
    arm = SimpleNamespace(name="full", score=SimpleNamespace(mean=accuracy))
    sentence = _below(arm, Majority("test", "good", 0.844))
    assert bool(sentence) is noted
    assert not noted or sentence.endswith("on test, not above the 84.4 % of always predicting good.")
