import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from frostline.probing import closed_form as probes
from frostline.probing.closed_form import choose_k, knn, ridge
from frostline.probing.feature_set import FeatureSet

PENALTIES = [1000.0, 0.1, 1.0, 10.0]


def image_features(features, labels):
    return FeatureSet([features], labels)


@pytest.fixture(scope="module")
def digits():
    """Real digits: 1,000 to fit and 797 to try, 64 features each."""
    found = load_digits()
    pixels = torch.from_numpy(found.data).float() / 16
    labels = torch.from_numpy(found.target).long()
    return pixels[:1000], labels[:1000], pixels[1000:], labels[1000:]


def sklearns_ridge(features, labels, penalty):
    return Ridge(alpha=penalty).fit(features.double().numpy(), np.eye(10)[labels.numpy()])


# 40 images have fewer than 64 dimensions: the other eigendecomposition.
@pytest.mark.parametrize("images", [1000, 64, 40])
def test_ridge_is_scikit_learns(digits, images):
    features, labels, val_features, val_labels = digits
    features, labels = features[:images], labels[:images]
    fit = ridge(image_features(features, labels), image_features(val_features, val_labels), 10, PENALTIES)
    for penalty, accuracy in fit.scores:
        theirs = sklearns_ridge(features, labels, penalty).predict(val_features.double().numpy())
        assert accuracy == (theirs.argmax(1) == val_labels.numpy()).mean()
    assert [penalty for penalty, _ in fit.scores] == PENALTIES
    assert fit.scores[PENALTIES.index(fit.penalty)][1] == max(a for _, a in fit.scores)
    best = sklearns_ridge(features, labels, fit.penalty)
    np.testing.assert_allclose(fit.weight, best.coef_, atol=1e-6)
    np.testing.assert_allclose(fit.bias, best.intercept_, atol=1e-6)
    assert fit.weight.dtype == fit.bias.dtype == torch.float32


def test_ridge_of_large_features_far_from_zero(digits):
    features, labels, val_features, val_labels = digits
    fit = ridge(
        image_features(features * 100 + 3e4, labels),
        image_features(val_features * 100 + 3e4, val_labels),
        10,
        [10.0],
    )
    best = sklearns_ridge(features * 100 + 3e4, labels, 10.0)
    np.testing.assert_allclose(fit.weight, best.coef_, atol=1e-8)


def test_ties_go_to_the_larger_penalty():
    features = torch.tensor([[-1.0], [1.0]])
    labels = torch.tensor([0, 1])
    assert (
        ridge(image_features(features, labels), image_features(features, labels), 2, [1.0, 7.0, 0.1]).penalty
        == 7.0
    )


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (200, 0.5), (1000, 0.01)])
def test_neighbours_are_scikit_learns(digits, k, temperature):
    features, labels, queries, _ = (each.double() if each.is_floating_point() else each for each in digits)
    theirs = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda far: np.exp(-far / temperature)
    ).fit(features.numpy(), labels.numpy())
    shares = knn(image_features(features, labels), queries, 10, k, temperature)
    np.testing.assert_allclose(shares, theirs.predict_proba(queries.numpy()), atol=1e-9)


@pytest.mark.parametrize("chunk", [70_000, 2**26])
def test_k_is_what_knn_does_best_with(digits, chunk, monkeypatch):
    monkeypatch.setattr(probes, "CHUNK_BYTES", chunk)
    features, labels, queries, truth = digits
    fit = choose_k(image_features(features, labels), image_features(queries, truth), 10, [1, 20, 5], 0.07)
    assert [k for k, _ in fit.scores] == [1, 20, 5]
    for k, accuracy in fit.scores:
        shares = knn(image_features(features, labels), queries, 10, k, 0.07)
        assert accuracy == (shares.argmax(1) == truth).sum().item() / len(truth)
    assert dict(fit.scores)[fit.k] == max(accuracy for _, accuracy in fit.scores)


def test_ties_go_to_more_neighbours():
    features, labels = torch.eye(3), torch.tensor([0, 1, 2])
    assert choose_k(image_features(features, labels), image_features(features, labels), 3, [2, 1], 1.0).k == 2


def test_neighbours_know_most_digits(digits):
    features, labels, queries, truth = digits
    shares = knn(image_features(features, labels), queries, 10, 20, 0.07)
    assert (shares.argmax(1) == truth).float().mean() > 0.93
    torch.testing.assert_close(shares.sum(1), torch.ones(len(queries)))


def test_a_small_temperature_leaves_the_nearest_alone(digits):
    features, labels, queries, _ = digits
    shares = knn(image_features(features, labels), queries, 10, 20, 1e-6)
    torch.testing.assert_close(
        shares, knn(image_features(features, labels), queries, 10, 1, 1.0), atol=1e-3, rtol=0
    )


def test_a_feature_of_zeros_is_like_none(digits):
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 1, 2])
    shares = knn(image_features(features, labels), torch.tensor([[2.0, 0.0], [0.0, 0.0]]), 3, 3, 1.0)
    torch.testing.assert_close(shares[0], torch.tensor([0.0, 1.0, -1.0]).softmax(0))
    torch.testing.assert_close(shares[1], torch.full((3,), 1 / 3))


def test_blocks_change_nothing_but_rounding(digits, monkeypatch):
    features, labels, queries, truth = digits
    fit, shares = (
        ridge(image_features(features, labels), image_features(queries, truth), 10, PENALTIES),
        knn(image_features(features, labels), queries, 10, 20, 1.0),
    )
    monkeypatch.setattr(probes, "CHUNK_BYTES", 70_000)
    again = ridge(image_features(features, labels), image_features(queries, truth), 10, PENALTIES)
    assert again.scores == fit.scores
    torch.testing.assert_close(again.weight, fit.weight)
    torch.testing.assert_close(knn(image_features(features, labels), queries, 10, 20, 1.0), shares)
