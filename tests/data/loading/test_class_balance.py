import numpy as np
import pytest
import torch

from frostline.data.loading.class_balance import (
    balanced_order,
    balanced_weights,
    class_weights,
    counts,
    effective_weights,
)
from frostline.schema import Effective


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def test_classes_are_counted_those_without_images_too():
    assert counts(torch.tensor([0, 2, 2]), 4).tolist() == [1, 0, 2, 0]


def test_balanced_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    labels = torch.tensor([0] * 7 + [1] * 2 + [2] * 3)
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    ours = balanced_weights(counts(labels, 3))
    assert ours.tolist() == pytest.approx(theirs.tolist())
    assert ours[labels].mean().item() == pytest.approx(1.0)


def test_effective_weights_by_hand():
    # E_1 = 1, E_2 = 1.5, E_3 = 1.75 at beta 0.5; inverses 1, 2/3, 4/7, scaled to a sum of 3.
    inverse = [1.0, 2 / 3, 4 / 7]
    expected = [3 * v / sum(inverse) for v in inverse]
    assert effective_weights(torch.tensor([1, 2, 3]), 0.5).tolist() == pytest.approx(expected)


def test_effective_weights_lie_between_none_and_balanced():
    count = torch.tensor([10, 1000])
    assert effective_weights(count, 0.0).tolist() == [1.0, 1.0]
    nearly = effective_weights(count, 1 - 1e-9)
    assert (nearly[0] / nearly[1]).item() == pytest.approx(100, rel=1e-3)


def test_a_class_without_images_weighs_nothing():
    count = torch.tensor([2, 0, 6])
    assert balanced_weights(count).tolist() == pytest.approx([2.0, 0.0, 8 / 12])
    effective = effective_weights(count, 0.9)
    assert effective[1] == 0
    assert effective.sum().item() == pytest.approx(2.0)


def test_a_balanced_order_draws_all_classes_alike():
    labels = torch.tensor([5] * 900 + [1] * 90 + [3] * 10)[torch.randperm(1000, generator=drawn())]
    order = balanced_order(labels, drawn())
    assert order.shape == labels.shape
    found = counts(labels[order], 6)
    assert found[[0, 2, 4]].sum() == 0
    # Three standard deviations of a count of 1000 draws at one third.
    assert all(abs(n - 1000 / 3) < 45 for n in found[[1, 3, 5]].tolist())
    # Within a class all come up: each of the ten about 33 times.
    times = torch.bincount(order, minlength=1000)[labels == 3]
    assert times.min() > 10


def test_a_balanced_order_is_a_function_of_its_generator():
    labels = torch.tensor([0, 0, 0, 1])
    assert torch.equal(balanced_order(labels, drawn(1)), balanced_order(labels, drawn(1)))
    orders = {tuple(balanced_order(labels, drawn(seed)).tolist()) for seed in range(5)}
    assert len(orders) > 1


def test_the_config_chooses_the_weights():
    count = torch.tensor([6, 2])
    assert class_weights(None, count) is None
    assert torch.equal(class_weights("balanced", count), balanced_weights(count))
    assert torch.equal(class_weights(Effective(effective=0.9), count), effective_weights(count, 0.9))
