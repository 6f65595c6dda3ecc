import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, log_loss

from frostline.base.metrics import headline, headlines, task_metrics
from frostline.base.multi_label_metrics import (
    average_precision,
    best_thresholds,
    fixed_thresholds,
    multi_label_metrics,
    per_class,
    probabilities,
)


def drawn(seed, images=60, labels=5):
    """Logits that know something of the labels, with ties; each label occurs."""
    generator = np.random.default_rng(seed)
    truth = generator.random((images, labels)) < [0.5, 0.3, 0.2, 0.1, 0.7]
    truth[:labels] |= np.eye(labels, dtype=bool)
    logits = np.round(generator.normal(size=truth.shape) + 1.5 * truth - 1, 1)
    return logits.astype(np.float32), truth.astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_those_of_scikit_learn(seed):
    logits, truth = drawn(seed)
    thresholds = [0.3, 0.4, 0.5, 0.6, 0.7]
    predicted = probabilities(logits) >= thresholds
    losses = [log_loss(truth[:, k], probabilities(logits)[:, k]) for k in range(5)]
    assert multi_label_metrics(logits, truth, thresholds) == pytest.approx(
        {
            "mAP": average_precision_score(truth, logits, average="macro"),
            "f1_micro": f1_score(truth, predicted, average="micro"),
            "f1_macro": f1_score(truth, predicted, average="macro", zero_division=0),
            "loss": np.mean(losses),
            "n": 60,
        },
        abs=1e-7,
    )


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=30))
def test_average_precision_with_ties_is_that_of_scikit_learn(rows):
    scores, truth = np.array([float(s) for s, _ in rows]), np.array([t for _, t in rows])
    truth[0] = True
    assert average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores))


def test_a_label_without_images_counts_in_f1_only():
    logits, truth = drawn(0)
    truth[:, 3] = 0
    others = [0, 1, 2, 4]
    measured = multi_label_metrics(logits, truth)
    assert measured["mAP"] == pytest.approx(average_precision_score(truth[:, others], logits[:, others]))
    predicted = probabilities(logits) >= 0.5
    assert measured["f1_macro"] == pytest.approx(f1_score(truth, predicted, average="macro", zero_division=0))
    assert multi_label_metrics(logits, np.zeros_like(truth))["mAP"] == 0


@pytest.mark.parametrize("seed", range(4))
def test_thresholds_have_the_best_f1_of_all(seed):
    logits, truth = drawn(seed, images=12)
    shares = probabilities(logits)
    per_label = best_thresholds(logits, truth, "per_class")
    one = best_thresholds(logits, truth, "one")
    candidates = [*np.unique(shares), 1.0]
    for k, threshold in enumerate(per_label):
        best = max(f1_score(truth[:, k], shares[:, k] >= t, zero_division=0) for t in candidates)
        assert f1_score(truth[:, k], shares[:, k] >= threshold) == pytest.approx(best)
    assert len(set(one)) == 1
    best = max(f1_score(truth, shares >= t, average="micro", zero_division=0) for t in candidates)
    assert f1_score(truth, shares >= one[0], average="micro") == pytest.approx(best)


def test_a_threshold_may_be_given_and_unknown_labels_have_a_half():
    logits, truth = drawn(0)
    truth[:, 1] = 0
    assert fixed_thresholds(0.3, 5) == [0.3] * 5
    assert best_thresholds(logits, truth, "per_class")[1] == 0.5


def test_the_table_of_classes():
    logits, truth = np.array([[2.0, -2], [1, -2], [-1, -2]]), np.array([[1, 0], [0, 0], [1, 0]])
    first, second = per_class(logits, truth, [0.5, 0.5])
    assert first == (0.5, 2, pytest.approx(5 / 6), 0.5, 0.5, 0.5)
    assert second == (0.5, 0, None, None, None, 0.0)


def test_the_headline_follows_the_labels():
    logits, truth = drawn(0)
    several, one = task_metrics(logits, truth), task_metrics(logits, truth.argmax(1))
    assert (headline(several), headline(one), headline(["val/mAP"])) == ("mAP", "accuracy", "mAP")
    assert headlines({"val": several, "test": several}, ["test", "val"]) == (
        f"test mAP {several['mAP']:.4f}, val mAP {several['mAP']:.4f}"
    )
    shown = f"(micro F1 {several['f1_micro']:.4f}, macro F1 {several['f1_macro']:.4f})"
    assert headlines({"val": several, "test": several}, ["test", "val"], details=True) == (
        f"test mAP {several['mAP']:.4f} {shown}, val mAP {several['mAP']:.4f}"
    )
    shown = f"(balanced {one['balanced_accuracy']:.4f}, macro F1 {one['f1_macro']:.4f})"
    assert (
        headlines({"val": one}, ["test", "val"], details=True)
        == f"val accuracy {one['accuracy']:.4f} {shown}"
    )
    with pytest.raises(ValueError, match="don't match"):
        multi_label_metrics(logits, truth[:, 0])
    with pytest.raises(ValueError, match="not finite"):
        multi_label_metrics(np.full_like(logits, np.nan), truth)
