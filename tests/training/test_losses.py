import math

import pytest
import torch
import torch.nn.functional as F

from frostline.training.losses import CrossEntropy, half_mse, hits

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -3.0]])
LABELS = torch.tensor([0, 2])
SHARES = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.1, 0.9]])


def test_the_articles_squared_error_by_hand():
    total = 0.0
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        shares = [math.exp(v) / sum(math.exp(u) for u in row) for v in row]
        total += sum((share - (k == label)) ** 2 for k, share in enumerate(shares))
    assert half_mse(LOGITS, LABELS).item() == pytest.approx(total / (2 * len(LABELS)), rel=1e-6)


def test_a_perfect_answer_costs_nothing_and_the_worst_one_costs_one():
    sure = torch.tensor([[100.0, 0.0]])
    assert half_mse(sure, torch.tensor([0])).item() == 0.0
    assert half_mse(sure, torch.tensor([1])).item() == pytest.approx(1.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_is_torchs_and_szegedys(smoothing):
    ours = CrossEntropy(smoothing)
    assert torch.equal(ours(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing))
    target = (1 - smoothing) * F.one_hot(LABELS, 3) + smoothing / 3
    by_hand = -(target * LOGITS.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(ours(LOGITS, LABELS), by_hand)


@pytest.mark.parametrize(
    "loss", [half_mse, CrossEntropy(0.1), CrossEntropy(0.1, torch.tensor([0.5, 1.0, 2.0]))]
)
def test_shares_of_classes_count_like_classes(loss):
    one_hot = F.one_hot(LABELS, 3).float()
    torch.testing.assert_close(loss(LOGITS, one_hot), loss(LOGITS, LABELS))


def test_shares_by_hand():
    by_hand = -(SHARES * LOGITS.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(CrossEntropy(0.0)(LOGITS, SHARES), by_hand)
    by_hand = 0.5 * (LOGITS.softmax(1) - SHARES).square().sum(1).mean()
    torch.testing.assert_close(half_mse(LOGITS, SHARES), by_hand)


def test_an_image_weighs_what_its_class_weighs_whatever_the_batch():
    loss = CrossEntropy(0.0, torch.tensor([0.5, 1.0, 2.0]))
    each = -LOGITS.log_softmax(1)[[0, 1], LABELS]
    torch.testing.assert_close(loss(LOGITS, LABELS), (0.5 * each[0] + 2.0 * each[1]) / 2)
    alone = [loss(LOGITS[i : i + 1], LABELS[i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(loss(LOGITS, LABELS), (alone[0] + alone[1]) / 2)
    assert not loss.state_dict()


def test_a_hit_is_the_class_of_the_largest_share():
    assert hits(LOGITS, LABELS).item() == 1
    assert hits(LOGITS, SHARES).item() == 1
    assert hits(LOGITS, SHARES.flip(1)).item() == 0


@pytest.mark.parametrize("weighted_classes", [False, True])
def test_the_weights_of_images_multiply_their_losses(weighted_classes):
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(5, 3, generator=generator), torch.tensor([0, 1, 2, 1, 0])
    image_weights = torch.tensor([0.0, 1.0, 3.0, 0.5, 0.5])
    classes = torch.tensor([1.0, 2.0, 0.5]) if weighted_classes else None
    for loss in (CrossEntropy(0.1, classes), half_mse):
        alone = torch.stack([loss(logits[i : i + 1], labels[i : i + 1]) for i in range(5)])
        torch.testing.assert_close(loss(logits, labels, image_weights), (alone * image_weights).sum() / 5)
        assert loss(logits, labels, torch.ones(5)).item() == pytest.approx(loss(logits, labels).item())
