import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.console.errors import FrostlineError
from frostline.data.reading.splits import SPLITS, stratified_split, take_fraction, take_shots, unite

seeds = st.integers(0, 2**31 - 1)
shares = st.floats(0.01, 0.45)
maybe_shares = st.one_of(st.none(), shares)
# Class numbers with gaps, three rows each or more: enough for three splits.
labelled = st.lists(st.tuples(st.integers(0, 9), st.integers(3, 40)), min_size=1, max_size=6).map(
    lambda classes: np.repeat(*np.array(classes).T)
)


@given(labelled, maybe_shares, maybe_shares, seeds)
def test_each_class_is_in_each_split_by_its_share(labels, val, test, seed):
    splits = stratified_split(labels, {"val": val, "test": test}, seed)
    for label in np.unique(labels):
        of_class = splits[labels == label]
        n = len(of_class)
        wanted = {"train": 1 - (val or 0) - (test or 0), "val": val, "test": test}
        for split, share in wanted.items():
            count = int((of_class == split).sum())
            if share is None:
                assert count == 0
            else:
                assert count >= 1
                # A largest remainder is less than one off; rows that no split may lack come from the largest.
                off = 1 if all(n * s >= 1 for s in wanted.values() if s) else 3
                assert abs(count - n * share) < off


@given(labelled, shares, shares, seeds, st.randoms(use_true_random=False))
def test_a_class_keeps_its_rows_whatever_other_classes_do(labels, val, test, seed, random):
    kept = random.choice(np.unique(labels).tolist())
    alone = labels[labels == kept]
    assert (
        stratified_split(labels, {"val": val, "test": test}, seed)[labels == kept]
        == stratified_split(alone, {"val": val, "test": test}, seed)
    ).all()


@given(labelled, shares, seeds)
def test_the_share_of_val_does_not_move_the_test_rows(labels, test, seed):
    with_val = stratified_split(labels, {"val": 0.2, "test": test}, seed)
    without = stratified_split(labels, {"val": None, "test": test}, seed)
    moved = (with_val == "test") ^ (without == "test")
    # But for a test row that val needs, or that rounding gives away: one a class at most.
    assert all(moved[labels == label].sum() <= 1 for label in np.unique(labels))


@given(st.integers(3, 12), st.integers(1, 8), shares, shares, seeds, st.data())
def test_groups_stay_together_and_no_split_is_empty(groups, most, val, test, seed, data):
    sizes = data.draw(st.lists(st.integers(1, most), min_size=groups, max_size=groups))
    members = np.random.default_rng(seed).permutation(np.repeat(np.arange(groups), sizes))
    splits = stratified_split(np.zeros(len(members), int), {"val": val, "test": test}, seed, groups=members)
    assert all(len(set(splits[members == group])) == 1 for group in range(groups))
    assert set(splits) == set(SPLITS)


@given(labelled, shares, shares, seeds)
def test_groups_of_one_change_nothing(labels, val, test, seed):
    alone = stratified_split(labels, {"val": val, "test": test}, seed, groups=np.arange(len(labels)) * 7)
    assert (alone == stratified_split(labels, {"val": val, "test": test}, seed)).all()


def test_exact_counts_of_a_round_case():
    splits = stratified_split(np.repeat([0, 1], 50), {"val": 0.2, "test": 0.2}, 0)
    assert [(splits[:50] == s).sum() for s in SPLITS] == [30, 10, 10]


def test_seeds_differ():
    labels = np.repeat([0, 1], 100)
    assert (
        stratified_split(labels, {"val": 0.2, "test": 0.2}, 0)
        != stratified_split(labels, {"val": 0.2, "test": 0.2}, 1)
    ).any()


def test_the_draw_is_pinned():
    """These rows are part of every study's result: they may not change with a version of numpy."""
    splits = stratified_split([0] * 10 + [1] * 6, {"val": 0.2, "test": 0.2}, 0)
    assert "".join(split[1] for split in splits) == PINNED_SPLIT
    assert take_shots([0, 1] * 8, 2, 0).tolist() == PINNED_SHOTS
    assert take_fraction([0, 1] * 8, 0.4, 3).tolist() == PINNED_FRACTION


PINNED_SPLIT = "raeerrrrarrrrrea"
PINNED_SHOTS = [3, 5, 8, 14]
PINNED_FRACTION = [0, 4, 5, 7, 12, 13]


def test_a_class_that_is_too_small_is_named():
    with pytest.raises(
        FrostlineError,
        match=re.escape(
            "class 'fox' has 2 images, too few for a split into train, val, test: add some, to have at least "
            "3, do without a test split (dataset.split.test=null; 2 are enough then), or remove the class"
        ),
    ):
        stratified_split([0, 0, 0, 1, 1], {"val": 0.2, "test": 0.2}, 0, names=["cat", "fox"])


def test_the_advice_on_a_small_class_works():
    labels = [0, 0, 0, 1, 1]
    for split in (
        stratified_split(labels, {"val": 0.2, "test": None}, 0),
        stratified_split([*labels, 1], {"val": 0.2, "test": 0.2}, 0),
    ):
        assert len(split)


def test_all_classes_that_are_too_small_are_named():
    labels = [0] * 9 + [1, 2, 2, 3]
    with pytest.raises(
        FrostlineError,
        match=re.escape(
            "3 classes have too few images, 'dog' (1), 'fox' (2), 'owl' (1), too few for a split into train, "
            "val, test: add some, to have at least 3 of each, or remove the classes"
        ),
    ):
        stratified_split(labels, {"val": 0.2, "test": 0.2}, 0, names=["cat", "dog", "fox", "owl"])
    with pytest.raises(FrostlineError, match=r"12 classes have too few .*'4' \(1\) and 7 more, too few"):
        stratified_split(list(range(12)), {"val": 0.2, "test": 0.2}, 0)


def test_copies_do_not_count():
    with pytest.raises(FrostlineError, match="class '0' has 1 different image, too few"):
        stratified_split([0, 0, 0], {"val": 0.2, "test": None}, 0, groups=[5, 5, 5])


def test_shares_must_leave_something_to_train_on():
    with pytest.raises(
        FrostlineError, match=r"dataset\.split\.val=0\.5 \+ dataset\.split\.test=0\.5: leaves no"
    ):
        stratified_split([0, 0, 0], {"val": 0.5, "test": 0.5}, 0)


@given(labelled, st.integers(1, 3), seeds)
def test_shots_are_k_of_each_class_and_nested(labels, k, seed):
    rows = take_shots(labels, k, seed)
    assert (np.diff(rows) > 0).all()
    values, counts = np.unique(labels[rows], return_counts=True)
    assert values.tolist() == np.unique(labels).tolist()
    assert (counts == k).all()
    assert k == 1 or set(take_shots(labels, k - 1, seed)) <= set(rows)


@given(labelled, st.floats(0.01, 1), st.floats(0.01, 1), seeds)
def test_fractions_are_nested_and_reach_every_class(labels, a, b, seed):
    small, large = (take_fraction(labels, share, seed) for share in sorted((a, b)))
    assert set(small) <= set(large)
    assert set(labels[small]) == set(labels)
    assert take_fraction(labels, 1.0, seed).tolist() == list(range(len(labels)))


@given(labelled, st.integers(1, 3), seeds)
def test_shots_and_fractions_draw_in_the_same_order(labels, k, seed):
    shots, share = set(take_shots(labels, k, seed)), set(take_fraction(labels, 0.5, seed))
    for label in np.unique(labels):
        rows = set(np.flatnonzero(labels == label))
        assert (shots & rows) <= (share & rows) or (share & rows) <= (shots & rows)


def test_too_few_shots_names_the_class():
    with pytest.raises(
        FrostlineError,
        match=r"dataset\.shots=3: class 'fox' has only 2 training images; ask for at most 2",
    ):
        take_shots([0, 0, 0, 1, 1], 3, 0, names=["cat", "fox"])
    # Following the advice works, whichever class comes first.
    with pytest.raises(FrostlineError, match=r"'1' has only 1 training image \(and 1 more have .* at most 1"):
        take_shots([0, 0, 1, 2, 2, 2], 3, 0)
    assert len(take_shots([0, 0, 1, 2, 2, 2], 1, 0)) == 3


def test_needs_only_numpy():
    code = (
        "import sys; sys.modules['torch'] = None; import frostline.data.reading.splits; "
        "assert not {'lightning', 'pandas', 'sklearn', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_groups_and_copies_are_united():
    groups, copies = np.array([0, 0, 1, 1, 2, 3]), np.array([0, 1, 1, 2, 3, 4])
    united = unite(groups, copies)
    assert len(set(united[:4])) == 1
    assert len(set(united)) == 3
