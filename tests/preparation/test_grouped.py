"""Splits and folds that divide no group: laws, and a comparison with scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from frostline.console.errors import FrostlineError
from frostline.preparation.grouped import assign_folds, grouped_split, uneven

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
seeds = st.integers(0, 2**31 - 1)
# A label and a group per row.
rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), min_size=20, max_size=200).filter(
    lambda pairs: len({group for _, group in pairs}) >= 5
)


@given(rows, seeds)
def test_no_group_is_divided_no_part_is_empty_and_train_has_every_class(pairs, seed):
    labels, groups = np.array(pairs).T
    splits = grouped_split(labels, groups, SHARES, seed)
    assert set(splits) == set(SHARES)
    assert set(labels[splits == "train"]) == set(labels)
    for group in set(groups):
        assert len(set(splits[groups == group])) == 1
    folds = assign_folds(labels, groups, 5, seed)
    assert set(folds) == set(range(5))
    for group in set(groups):
        assert len(set(folds[groups == group])) == 1


@given(rows, seeds)
def test_the_numbers_of_groups_do_not_matter_and_a_seed_repeats(pairs, seed):
    labels, groups = np.array(pairs).T
    renamed = np.unique(groups, return_inverse=True)[1]
    assert (grouped_split(labels, groups, SHARES, seed) == grouped_split(labels, renamed, SHARES, seed)).all()


def test_many_small_groups_are_split_exactly_and_seeds_differ():
    labels, groups = np.arange(1000) % 4, np.arange(1000) // 2
    splits = [grouped_split(labels, groups, SHARES, seed) for seed in (0, 1)]
    for found in splits:
        for label in range(4):
            assert [(found[labels == label] == part).sum() for part in SHARES] == [150, 50, 50]
    assert (splits[0] != splits[1]).any()


@pytest.mark.parametrize("seed", range(5))
def test_as_stratified_as_scikit_learns_folds(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 60, 600)
    tendency = rng.dirichlet([0.5] * 3, 60)  # groups of mostly one class, as patients are
    labels = np.array([rng.choice(3, p=tendency[group]) for group in groups])

    def unevenness(folds):
        shares = [np.bincount(labels[folds == k], minlength=3) / np.bincount(labels) for k in range(5)]
        return np.abs(np.array(shares) - 0.2).max()

    theirs = np.empty(600, dtype=int)
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    for k, (_, test) in enumerate(splitter.split(labels, labels, groups)):
        theirs[test] = k
    assert unevenness(assign_folds(labels, groups, 5, seed)) <= unevenness(theirs) + 0.02


def test_what_cannot_be_stratified_is_named():
    labels = np.array([0] * 40 + [1] * 10)
    groups = np.array([i // 2 for i in range(40)] + [99] * 10)  # all of class 1 is one group
    splits = grouped_split(labels, groups, SHARES, 0)
    assert list(uneven(labels, splits, SHARES, ("common", "rare"))) == [
        "'rare' has 10 of 10 images in train",
        "'rare' has 0 of 10 images in val",
        "'rare' has 0 of 10 images in test",
    ]


def test_too_few_groups():
    with pytest.raises(FrostlineError, match=r"dataset.group: 2 groups can't be divided into train, val"):
        grouped_split([0, 1, 0], [0, 1, 1], SHARES, 0)
    with pytest.raises(FrostlineError, match=r"dataset.folds=5: there are only 2 groups of images"):
        assign_folds([0, 1, 0], [0, 1, 1], 5, 0)


def test_a_hundred_thousand_groups_take_seconds():
    labels = np.arange(100_000) % 10
    assert len(set(assign_folds(labels, np.arange(100_000), 5, 0))) == 5
