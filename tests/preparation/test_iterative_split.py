import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frostline.console.errors import FrostlineError
from frostline.preparation.iterative_split import iterative_folds, iterative_split

SHARES = {"val": 0.2, "test": 0.3}
SHARE = {"train": 0.5, **SHARES}


def drawn(seed, images=200):
    return (np.random.default_rng(seed).random((images, 4)) < [0.5, 0.3, 0.1, 0.05]).astype(np.uint8)


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_each_label_has_its_share_of_each_split(seed):
    labels = drawn(seed)
    splits = iterative_split(labels, SHARES, seed, groups=np.arange(200))
    for split, share in SHARE.items():
        taken = splits == split
        assert abs(taken.sum() - 200 * share) <= 4
        assert (np.abs(labels[taken].sum(axis=0) - share * labels.sum(axis=0)) <= 2.5).all()


def test_groups_stay_together_whatever_their_numbers():
    labels, groups = drawn(0), np.arange(200) // 4
    splits = iterative_split(labels, SHARES, 0, groups=groups)
    assert all(len(set(splits[groups == group])) == 1 for group in range(50))
    assert (splits == iterative_split(labels, SHARES, 0, groups=99 - groups)).all()
    assert (splits != iterative_split(labels, SHARES, 1, groups=groups)).any()


def test_no_split_is_empty_and_too_few_images_are_an_error():
    labels = np.array([[1], [0], [0]], dtype=np.uint8)
    splits = iterative_split(labels, {"val": 0.1, "test": 0.1}, 0, groups=np.arange(3))
    assert sorted(splits) == ["test", "train", "val"]
    with pytest.raises(FrostlineError, match="2 different images or groups are too few for a split into"):
        iterative_split(labels, SHARES, 0, groups=np.array([0, 1, 1]))
    with pytest.raises(FrostlineError, match="leaves no images to train on"):
        iterative_split(labels, {"val": 0.5, "test": 0.5}, 0, groups=np.arange(3))


def test_folds_have_the_same_size_and_labels():
    labels = drawn(3)
    folds = iterative_folds(labels, np.arange(200), 5, 0)
    assert np.bincount(folds).tolist() == pytest.approx([40] * 5, abs=3)
    counts = [labels[folds == fold].sum(axis=0) for fold in range(5)]
    assert np.ptp(counts, axis=0).max() <= 3
