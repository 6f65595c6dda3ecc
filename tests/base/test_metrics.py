"""Metrics against scikit-learn, against sums by hand, and on inputs that others stumble over."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sk

from frostline.base import metrics
from frostline.base.metrics import (
    METRICS,
    classification_metrics,
    expected_calibration_error,
    spread,
)


def _made_up(n: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) + 1.5 * np.eye(k)[labels]
    return logits.astype(np.float32), labels


@pytest.mark.parametrize(("n", "k"), [(500, 10), (40, 3), (7, 2), (300, 6)])
def test_equals_scikit_learn(n: int, k: int) -> None:
    logits, labels = _made_up(n, k)
    probabilities = torch.from_numpy(logits).double().softmax(1).numpy()
    predictions = logits.argmax(1)
    found = classification_metrics(logits, labels)
    expected = {
        "accuracy": sk.accuracy_score(labels, predictions),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predictions),
        "f1_macro": sk.f1_score(labels, predictions, average="macro"),
        "loss": sk.log_loss(labels, probabilities, labels=range(k)),
        "n": n,
    }
    if k > 5:
        expected["top5_accuracy"] = sk.top_k_accuracy_score(labels, logits, k=5, labels=range(k))
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert set(found) == set(expected) | {"ece"}
    assert set(METRICS) >= set(found) - {"n"}


def test_classes_without_images_count_as_in_scikit_learn() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    predictions = np.array([0, 2, 1, 1, 0])  # class 2 is only predicted, class 3 neither
    logits = 4.0 * np.eye(4)[predictions]
    found = classification_metrics(logits, labels)
    assert found["f1_macro"] == pytest.approx(sk.f1_score(labels, predictions, average="macro"))
    assert found["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_calibration_error_by_hand() -> None:
    # Two bins are in use: (9/15, 10/15] with confidence 0.65 twice, one right; (14/15, 1] with 0.95, right.
    confidence, right = np.array([0.65, 0.65, 0.95]), np.array([True, False, True])
    by_hand = 2 / 3 * abs(0.5 - 0.65) + 1 / 3 * abs(1 - 0.95)
    assert expected_calibration_error(confidence, right) == pytest.approx(by_hand)


def test_calibration_error_sums_bins_of_guo_et_al() -> None:
    logits, labels = _made_up(400, 10, seed=3)
    probabilities = torch.from_numpy(logits).double().softmax(1).numpy()
    confidence, right = probabilities.max(1), logits.argmax(1) == labels
    expected = 0.0
    for m in range(1, 16):
        inside = (confidence > (m - 1) / 15) & (confidence <= m / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert classification_metrics(logits, labels)["ece"] == pytest.approx(expected)


def test_sure_and_right_is_calibrated() -> None:
    logits = 1000 * np.eye(3, dtype=np.float32)
    found = classification_metrics(logits, np.arange(3))
    assert (found["ece"], found["loss"], found["accuracy"]) == (0, 0, 1)


def test_ties_go_to_the_lower_class_and_a_dead_network_is_not_top_five() -> None:
    found = classification_metrics(np.zeros((10, 10), np.float32), np.arange(10))
    assert found["accuracy"] == 0.1
    assert found["top5_accuracy"] == 0.5
    assert found["loss"] == pytest.approx(math.log(10))


def test_tensors_and_arrays_give_the_same_bits() -> None:
    logits, labels = _made_up(64, 10)
    assert classification_metrics(
        torch.from_numpy(logits), torch.from_numpy(labels)
    ) == classification_metrics(logits, labels)


def test_blocks_of_images_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = _made_up(64, 10)
    whole = classification_metrics(logits, labels)
    monkeypatch.setattr(metrics, "_BLOCK", 70)
    assert classification_metrics(logits, labels) == whole


@given(
    arrays(np.float32, (12, 7), elements=st.floats(-50, 50, width=32)),
    arrays(np.int64, 12, elements=st.integers(0, 6)),
)
def test_every_share_is_a_share(logits: np.ndarray, labels: np.ndarray) -> None:
    found = classification_metrics(logits, labels)
    assert all(0 <= found[name] <= 1 for name in METRICS if name != "loss")
    assert found["loss"] >= 0
    assert found["top5_accuracy"] >= found["accuracy"]


@pytest.mark.parametrize(
    ("logits", "labels", "reason"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "no image"),
        (np.zeros((2, 3)), np.zeros(3, int), "don't match"),
        (np.zeros(3), np.zeros(3, int), "don't match"),
        (np.full((1, 3), np.nan), np.zeros(1, int), "not finite"),
        (np.zeros((1, 3)), np.array([3]), "from 0 to 2"),
        (np.zeros((1, 3)), np.array([-1]), "from 0 to 2"),
        (np.zeros((1, 3)), np.array([0.0]), "whole numbers"),
    ],
)
def test_refuses_what_it_cannot_score(logits: np.ndarray, labels: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        classification_metrics(logits, labels)


def test_a_spread_over_seeds():
    assert spread([]) == {"n": 0.0}
    assert spread([0.5]) == {"mean": 0.5, "std": 0.0, "n": 1.0}
    assert spread([1.0, 2.0, 3.0]) == {"mean": 2.0, "std": 1.0, "n": 3.0}
