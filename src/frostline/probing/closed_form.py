"""Probes of features that need no training: ridge regression in closed form, and k nearest neighbours.

They show in seconds how well a frozen network's features separate the classes. The logistic regression of
Kornblith et al. 2019 is trained by `probing.batched_heads`.

Penalty and k are chosen by the accuracy on validation, or with several labels per image by the mean average
precision.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from frostline.base.multi_label_metrics import mean_average_precision
from frostline.probing.feature_set import FeatureSet
from frostline.training.losses import hits

CHUNK_BYTES = 64 * 2**20
"""The largest size of a block of float64 features, or of similarities."""


@dataclass(frozen=True)
class RidgeFit:
    """The ridge regression that is best on validation."""

    penalty: float
    weight: Tensor
    """(K, D) float32."""
    bias: Tensor
    """(K,) float32."""
    scores: tuple[tuple[float, float], ...]
    """(penalty, metric on validation) of all penalties, in their order."""


def ridge(train: FeatureSet, val: FeatureSet, classes: int, penalties: Sequence[float]) -> RidgeFit:
    """Fit labels, 0 and 1 for each class, by ridge regression and choose the penalty on validation.

    Minimizes ‖Y − XWᵀ − 1bᵀ‖² + λ‖W‖² (Hoerl & Kennard 1970) for each λ of `penalties`, all from one
    eigendecomposition; the intercept b is not penalized. Ties go to the larger penalty. Computed in
    float64, a block of rows at a time.

    Args:
        train: N images.
        val: M images.
        classes: K.
        penalties: above 0, for the loss summed over the images, as scikit-learn's `alpha`.
    """
    # The intercept makes the residuals sum to 0, so it drops out when X and Y are centred: b = ȳ − Wx̄.
    mean = torch.stack([rows.sum(0) for rows in _blocks(train.features)]).sum(0) / len(train)
    several = train.labels.ndim == 2
    truth = (train.labels if several else functional.one_hot(train.labels, classes)).double()
    share = truth.mean(0)
    values, basis, target = _decomposed(train.features, mean, truth - share)
    seen = torch.cat([(rows - mean) @ basis for rows in _blocks(val.features)])
    scores = [metric(seen @ (target / (values + penalty)) + share, val.labels) for penalty in penalties]
    best = max(zip(scores, penalties, strict=True))[1]
    weight = (basis @ (target / (values + best))).T
    return RidgeFit(
        penalty=best,
        weight=weight.float(),
        bias=(share - weight @ mean).float(),
        scores=tuple(zip(penalties, scores, strict=True)),
    )


def _decomposed(features: Tensor, mean: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return s, B and T of Wᵀ = B · diag(1/(s + λ)) · T; B and T do not depend on λ.

    Args:
        features: (N, D).
        mean: (D,) float64, of the features.
        truth: (N, K) float64, Y centred.
    """
    # With XᵀX = V diag(s) Vᵀ,  Wᵀ = (XᵀX + λI)⁻¹XᵀY = V diag(1/(s + λ)) VᵀXᵀY.
    # Fewer images than dimensions have the smaller XXᵀ = U diag(s) Uᵀ, and
    # Wᵀ = Xᵀ(XXᵀ + λI)⁻¹Y = XᵀU diag(1/(s + λ)) UᵀY.
    count, width = features.shape
    if count < width:
        centred = features.double() - mean
        values, basis = torch.linalg.eigh(centred @ centred.T)
        basis, target = centred.T @ basis, basis.T @ truth
    else:
        gram = features.new_zeros(width, width, dtype=torch.float64)
        moment = features.new_zeros(width, truth.shape[1], dtype=torch.float64)
        begin = 0
        for rows in _blocks(features):
            rows = rows - mean
            gram += rows.T @ rows
            moment += rows.T @ truth[begin : begin + len(rows)]
            begin += len(rows)
        values, basis = torch.linalg.eigh(gram)
        target = basis.T @ moment
    # Rounding makes eigenvalues that are 0 slightly negative.
    return values.clamp(min=0)[:, None], basis, target


@dataclass(frozen=True)
class KnnFit:
    """The number of neighbours that is best on validation."""

    k: int
    scores: tuple[tuple[int, float], ...]
    """(k, metric on validation) of all k, in their order."""


def choose_k(
    train: FeatureSet, val: FeatureSet, classes: int, ks: Sequence[int], temperature: float
) -> KnnFit:
    """Choose from `ks` by the metric of `knn` on validation, with one neighbour search; ties: the largest.

    The arguments are those of `ridge` and `knn`.
    """
    votes = _votes(train, val.features, classes, ks, temperature)
    scores = [metric(torch.cat(shares), val.labels) for shares in zip(*votes, strict=True)]
    best = max(zip(scores, ks, strict=True))[1]
    return KnnFit(best, tuple(zip(ks, scores, strict=True)))


def knn(train: FeatureSet, queries: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    """Classify queries by their `k` nearest neighbours by cosine, with weights exp(cosine/T).

    Wu et al. 2018, section 3.4, as DINO's evaluation does it (Caron et al. 2021: k = 20, T = 0.07).

    Args:
        train: the N neighbours.
        queries: (M, D).
        classes: K.
        temperature: T, above 0.

    Returns:
        (M, K), each class's share of the votes; with several labels per image, a row may add up to more
        than 1.
    """
    return torch.cat([shares for (shares,) in _votes(train, queries, classes, [k], temperature)])


def _votes(
    train: FeatureSet, queries: Tensor, classes: int, ks: Sequence[int], temperature: float
) -> Iterator[list[Tensor]]:
    """Yield the shares of the votes, (m, K) for each k, for a block of queries at a time."""
    features, labels = train.features, train.labels
    # Dividing the products by the norms avoids a normalized copy of all features.
    lengths = features.norm(dim=1).clamp(min=torch.finfo(features.dtype).tiny)
    for query in queries.split(max(1, CHUNK_BYTES // (features.element_size() * len(features)))):
        cosines = functional.normalize(query, dim=1) @ features.T / lengths
        nearest, index = cosines.topk(max(ks))
        # Softmax gives the weights as shares of their sum, without overflow for small T.
        weights = ((nearest[:, :k] / temperature).softmax(1) for k in ks)
        if labels.ndim == 2:
            yield [
                torch.einsum("mk,mkc->mc", own, labels[index[:, :k]].to(own))
                for k, own in zip(ks, weights, strict=True)
            ]
        else:
            yield [
                query.new_zeros(len(query), classes).scatter_add_(1, labels[index[:, :k]], own)
                for k, own in zip(ks, weights, strict=True)
            ]


def metric(scores: Tensor, labels: Tensor) -> float:
    """Return the accuracy of (M, K) scores for labels (M,), or their mean average precision for (M, K)."""
    if labels.ndim == 2:
        return mean_average_precision(scores.cpu(), labels.cpu())
    return int(hits(scores, labels)) / len(labels)


def _blocks(features: Tensor) -> Iterator[Tensor]:
    """Yield blocks of rows in float64."""
    for rows in features.split(max(1, CHUNK_BYTES // (8 * features.shape[1]))):
        yield rows.double()
