"""The label budget of a run: which images train, which choose the epoch."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.prepared.test_index import an_index
from tests.data.trees import packaged

from frostline.console.errors import FrostlineError
from frostline.data.loading.label_budget import label_budget
from frostline.data.reading.splits import selection_rows, take_fraction, take_shots

LABELS = st.lists(st.integers(0, 3), min_size=1, max_size=60).map(np.array)
SHARES = st.floats(0.01, 0.99)
N = 120


@pytest.fixture
def index():
    """240 images of two classes: of each 60 to train on, 20 to validate on, 40 for the test."""
    return an_index(
        keys=[str(i) for i in range(2 * N)],
        labels=np.arange(2 * N) % 2,
        splits=np.array((["train"] * 6 + ["val"] * 2 + ["test"] * 4) * (N // 6)),
        sha256=[f"{i:064}" for i in range(2 * N)],
        widths=[4] * 2 * N,
        heights=[4] * 2 * N,
        modes=["L"] * 2 * N,
    )


def within(**budget):
    return packaged("digits", selection="within", **budget).dataset


@given(LABELS, st.floats(0.05, 1.0), SHARES, st.integers(0, 99))
def test_each_class_with_two_images_has_some_to_train_on_and_some_to_choose_on(labels, fraction, share, seed):
    drawn = take_fraction(labels, fraction, seed)
    aside = selection_rows(labels, drawn, share, seed)
    assert np.array_equal(aside, selection_rows(labels, drawn, share, seed))
    for label in np.unique(labels):
        n, chosen = (int((labels[rows] == label).sum()) for rows in (drawn, drawn[aside]))
        assert chosen == (min(n - 1, max(1, int(n * share + 0.5))) if n > 1 else 0)


@given(LABELS, st.lists(st.floats(0.05, 1.0), min_size=2, max_size=2).map(sorted), SHARES, st.integers(0, 99))
def test_no_image_changes_sides_when_the_budget_grows(labels, fractions, share, seed):
    parts = []
    for fraction in fractions:
        drawn = take_fraction(labels, fraction, seed)
        aside = selection_rows(labels, drawn, share, seed)
        parts.append((set(drawn[~aside]), set(drawn[aside])))
    (train, selection), (more_train, more_selection) = parts
    assert train <= more_train
    assert selection <= more_selection
    assert not more_train & more_selection


def test_shots_and_fractions_share_the_order():
    labels = np.arange(40) % 2
    shots, half = take_shots(labels, 5, 3), take_fraction(labels, 0.5, 3)
    few, many = (set(drawn[selection_rows(labels, drawn, 0.2, 3)]) for drawn in (shots, half))
    assert few < many


def test_within_divides_the_label_budget(index):
    budget = label_budget(index, within(shots=10), 0)
    whole = label_budget(index, packaged("digits", shots=10).dataset, 0)
    assert budget.selection_split == "selection"
    assert np.bincount(index.labels[budget.train]).tolist() == [8, 8]
    assert np.bincount(index.labels[budget.selection]).tolist() == [2, 2]
    assert sorted([*budget.train, *budget.selection]) == whole.train.tolist()
    assert set(index.splits[budget.selection]) == {"train"}
    assert set(label_budget(index, within(shots=10), 1).selection) != set(budget.selection)


def test_the_share_is_that_of_the_validation_split_or_a_fifth(index):
    half = packaged("digits", val=0.5, selection="within", shots=10).dataset
    given_splits = packaged("digits", val=None, selection="within", shots=10).dataset
    assert [len(label_budget(index, dataset, 0).selection) for dataset in (half, given_splits)] == [10, 4]


@pytest.mark.parametrize(
    ("fields", "chooses", "record"),
    [
        ({"selection": "within"}, "val", ("within", 40, None, (20, 60))),
        ({"selection": "within", "shots": 10}, "selection", ("within", 4, 20, (2, 10))),
        ({"selection": "held_out", "shots": 10}, "val", ("held_out", 40, 20, (20, 10))),
        ({"shots": 10}, "val", ("held_out", 40, 20, (20, 10))),
        ({"selection": "last", "fraction": 0.5}, "last", ("last", 0, 60, (0, 30))),
    ],
    ids=["all labels", "within", "held out", "not given", "last"],
)
def test_the_record_says_what_chose(fields, chooses, record, index):
    dataset = packaged("digits", **fields).dataset
    budget = label_budget(index, dataset, 0)
    assert budget.selection_split == chooses
    written = budget.record(index, dataset)
    rule, images, labelled, (each, of) = record
    assert written == {
        "rule": rule,
        "chooses": chooses,
        "images": images,
        "labelled": labelled,
        "per_class": {"images": each, "labelled": of},
    }


def test_classes_of_other_sizes_have_no_number_per_class(index):
    labels = index.labels.copy()
    labels[:60] = 0
    uneven = an_index(**{**vars(index), "labels": labels})
    dataset = within(fraction=0.5)
    assert label_budget(uneven, dataset, 0).record(uneven, dataset)["per_class"] is None


def test_a_fraction_of_one_image_a_class_is_refused(index):
    with pytest.raises(
        FrostlineError,
        match=re.escape(
            "dataset.fraction=0.01: leaves one labelled image of each class, none to choose the epoch on;"
            " raise dataset.fraction, or set dataset.selection=last or held_out"
        ),
    ):
        label_budget(index, within(fraction=0.01), 0)


# ── groups ──────────────────────────────────────────────────────────────────────────────────────────────────


@given(LABELS, st.integers(1, 9), st.integers(1, 5), SHARES, st.integers(0, 99))
def test_no_group_is_divided(labels, count, k, share, seed):
    groups = np.random.default_rng(seed).integers(0, count, len(labels))
    drawn = take_shots(labels, min(k, np.unique(labels, return_counts=True)[1].min()), seed)
    aside = selection_rows(labels, drawn, share, seed, groups=groups)
    assert not set(groups[drawn[aside]]) & set(groups[drawn[~aside]])
    assert not aside.all()


@given(LABELS, st.integers(1, 9), SHARES, st.integers(0, 99), st.booleans())
def test_no_image_of_a_group_changes_sides_when_the_budget_grows(labels, count, share, seed, several):
    groups = np.random.default_rng(seed).integers(0, count, len(labels)) * 4 + (0 if several else labels)
    smallest = np.unique(labels, return_counts=True)[1].min()
    draws = [take_shots(labels, k, seed) for k in range(1, smallest + 1)]
    draws += [] if several else [take_fraction(labels, 0.5, seed), take_fraction(labels, 1.0, seed)]
    sides = [selection_rows(labels, drawn, share, seed, groups=groups) for drawn in draws]
    for (few, few_aside), (many, many_aside) in pairwise(zip(draws, sides, strict=True)):
        later = dict(zip(many.tolist(), many_aside, strict=True))
        before = dict(zip(few.tolist(), few_aside, strict=True))
        assert all(later[row] == side for row, side in before.items() if row in later)


def test_a_row_each_is_a_group_each():
    labels = np.arange(60) % 3
    drawn = take_shots(labels, 10, 1)
    alone = selection_rows(labels, drawn, 0.2, 1)
    assert np.array_equal(alone, selection_rows(labels, drawn, 0.2, 1, groups=np.arange(60)))


def test_patients_train_or_choose(index):
    patients = np.array([f"p{i // 6}" for i in range(2 * N)])
    grouped = replace(index, groups=patients)
    budget = label_budget(grouped, within(shots=20), 0)
    assert budget.selection_split == "selection"
    assert not set(patients[budget.train]) & set(patients[budget.selection])
    assert len(budget.train) + len(budget.selection) == 40
    assert 1 <= len(budget.selection) <= 20


@pytest.mark.parametrize("grouped", [False, True])
def test_copies_train_or_choose(grouped, index):
    hashes = np.array([f"{i // 4 * 2 + i % 2:064}" for i in range(2 * N)])  # each image twice
    copied = replace(index, sha256=hashes.tolist())
    if grouped:
        copied = replace(copied, groups=np.array([f"p{i}" for i in range(2 * N)]))
    for seed in range(5):
        budget = label_budget(copied, within(shots=20), seed)
        assert not set(hashes[budget.train]) & set(hashes[budget.selection])
        assert len(budget.train) + len(budget.selection) == 40
        assert np.unique(index.labels[budget.selection]).tolist() == [0, 1]


def test_too_few_groups_are_refused(index):
    by_class = replace(index, groups=np.array([f"p{label}" for label in index.labels]))
    with pytest.raises(FrostlineError) as raised:
        label_budget(by_class, within(shots=5), 0)
    assert str(raised.value) == (
        "dataset.group: the 10 labelled images of a run are of one group per class, so that none is left to "
        "choose the epoch on; raise dataset.shots or dataset.fraction, or set dataset.selection=last or "
        "held_out"
    )


# ── several labels per image ────────────────────────────────────────────────────────────────────────────────


def label_sets(seed, images=60):
    """(N, 4) labels of four classes: the first is common, the last is rare."""
    return (np.random.default_rng(seed).random((images, 4)) < [0.7, 0.5, 0.3, 0.2]).astype(np.uint8)


@given(st.integers(0, 99), SHARES, st.booleans())
def test_with_several_labels_shots_are_drawn_for_each_label(seed, share, grouped):
    labels = label_sets(seed)
    groups = np.random.default_rng(seed).integers(0, 30, len(labels)) if grouped else None
    sides = {}
    for k in range(1, labels.sum(axis=0).min() + 1):
        drawn = take_shots(labels, k, seed)
        assert (labels[drawn].sum(axis=0) >= k).all()
        unlabelled = int((~labels.any(axis=1)).sum())
        assert (~labels[drawn].any(axis=1)).sum() == min(k, unlabelled)
        aside = selection_rows(labels, drawn, share, seed, groups=groups)
        now = dict(zip(drawn.tolist(), aside.tolist(), strict=True))
        assert sides.items() <= now.items()  # nested, and no image changes sides
        sides = now
        if groups is None:
            assert labels[drawn[~aside]].any(axis=0).all()
        else:
            assert not set(groups[drawn[aside]]) & set(groups[drawn[~aside]])


def test_one_label_has_the_shots_of_one_class():
    """Images of one label each are drawn and set aside as those of one class each."""
    classes = np.arange(90) % 3
    drawn, several = (take_shots(labels, 10, 4) for labels in (classes, np.eye(3, dtype=np.uint8)[classes]))
    assert np.array_equal(drawn, several)
    sides = (
        selection_rows(labels, drawn, 0.2, 4) for labels in (classes, np.eye(3, dtype=np.uint8)[classes])
    )
    assert np.array_equal(*sides)


def test_shots_of_several_labels_train_and_choose(index):
    several = replace(index, labels=label_sets(1, 2 * N), classes=("a", "b", "c", "d"))
    budget = label_budget(several, within(shots=10), 0)
    assert budget.selection_split == "selection"
    assert (several.labels[np.concatenate([budget.train, budget.selection])].sum(axis=0) >= 10).all()
    assert several.labels[budget.train].any(axis=0).all()
    record = budget.record(several, within(shots=10))
    assert record["images"] == len(budget.selection)
    assert record["labelled"] == len(budget.train) + len(budget.selection)
    assert record["per_class"] is None


def test_a_budget_that_leaves_no_image_to_choose_the_epoch_on_is_refused(index):
    same = np.tile(np.array([[1, 1]], dtype=np.uint8), (2 * N, 1))
    same[4:, 1] = 0
    several = replace(index, labels=same, classes=("a", "b"))
    with pytest.raises(
        FrostlineError, match=r"^dataset.fraction=0.001: leaves too few labelled images, none"
    ):
        label_budget(several, within(fraction=0.001), 0)


def test_a_budget_whose_selection_images_have_no_label_is_refused(index):
    rare = np.zeros((2 * N, 2), dtype=np.uint8)
    rare[index.rows("val")] = 1
    several = replace(index, labels=rare, classes=("a", "b"))
    with pytest.raises(FrostlineError, match=r"^dataset.fraction=0.5: leaves too few labelled images, none"):
        label_budget(several, within(fraction=0.5), 0)
