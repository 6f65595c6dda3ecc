import numpy as np
import pytest
import torch

from frostline import schema
from frostline.data.loading.mix import mix, mixes

NONE = {"flip": 0.0, "rotate": 0.0, "translate": 0.0, "scale": 0.0, "brightness": 0.0, "contrast": 0.0}
LABELS = torch.tensor([0, 1, 2, 2])


def config(mixup=0.0, cutmix=0.0):
    return schema.Augment(**NONE, mixup=mixup, cutmix=cutmix)


def images(n=4):
    """Each of one value, so that shares can be read off."""
    return torch.arange(1.0, n + 1).view(n, 1, 1, 1).expand(n, 1, 8, 8)


def test_mixup_mixes_each_image_and_its_label_with_the_one_from_the_other_end():
    batch = images()
    mixed, targets = mix(batch, LABELS, 3, config(mixup=1.0), seed=3)
    np.random.seed(3)
    np.random.rand()  # timm's probability of mixing at all
    share = np.random.beta(1.0, 1.0)
    assert mixed[0].unique().item() == pytest.approx(share * 1 + (1 - share) * 4, rel=1e-6)
    assert targets[0].tolist() == pytest.approx([share, 0, 1 - share])
    assert targets[1].tolist() == pytest.approx([0, share, 1 - share])
    assert torch.equal(batch, images())


def test_cutmix_pastes_a_box_and_shares_the_label_by_its_area():
    for seed in range(20):
        mixed, targets = mix(images(), LABELS, 3, config(cutmix=1.0), seed)
        values, areas = mixed[0].unique(return_counts=True)
        assert set(values.tolist()) <= {1.0, 4.0}
        share = areas[values == 1.0].sum().item() / 64
        assert targets[0].tolist() == pytest.approx([share, 0, 1 - share])


def test_with_both_alphas_a_batch_is_one_or_the_other():
    def pasted(seed):
        mixed, _ = mix(images(), LABELS, 3, config(mixup=1.0, cutmix=1.0), seed)
        return set(mixed.unique().tolist()) <= {1.0, 2.0, 3.0, 4.0}

    assert {pasted(seed) for seed in range(12)} == {True, False}


def test_the_seed_alone_decides_and_numpys_generator_is_left_alone():
    np.random.seed(7)
    expected = np.random.rand(3).tolist()
    np.random.seed(7)
    first = mix(images(), LABELS, 3, config(mixup=0.4), 5)
    assert np.random.rand(3).tolist() == expected
    again = mix(images(), LABELS, 3, config(mixup=0.4), 5)
    other = mix(images(), LABELS, 3, config(mixup=0.4), 6)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_last_image_of_an_odd_batch_stays_as_it_is(count):
    labels = torch.arange(count)
    mixed, targets = mix(images(count), labels, 5, config(mixup=1.0), 0)
    assert torch.equal(mixed[-1], images(count)[-1])
    assert targets[-1].tolist() == [float(k == count - 1) for k in range(5)]
    assert targets.sum(1).tolist() == pytest.approx([1.0] * count)


def test_nothing_is_mixed_without_an_alpha():
    assert not mixes(config())
    assert mixes(config(mixup=0.1))
    assert mixes(config(cutmix=0.1))
