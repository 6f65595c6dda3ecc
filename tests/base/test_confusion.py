"""Counts of labels and predictions: as the dense matrix has them, and no larger than the images."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from frostline.base.confusion import Confusion, LabelCounts, label_counts


def test_labels_are_in_rows() -> None:
    assert Confusion.of([0, 0, 1, 2], [0, 1, 1, 0], 3).matrix.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


@given(arrays(np.int64, (2, 30), elements=st.integers(0, 4)))
def test_no_image_is_lost(pairs: np.ndarray) -> None:
    counts = Confusion.of(pairs[0], pairs[1], 5)
    matrix = counts.matrix
    assert matrix.sum() == 30
    assert matrix.sum(axis=1).tolist() == np.bincount(pairs[0], minlength=5).tolist()
    assert counts.labelled.tolist() == matrix.sum(axis=1).tolist()
    assert counts.predicted.tolist() == matrix.sum(axis=0).tolist()
    assert counts.hits.tolist() == np.diag(matrix).tolist()
    assert counts.hits.sum() == (pairs[0] == pairs[1]).sum()
    for label, prediction, count in counts.mistakes:
        assert matrix[label, prediction] == count
    assert sum(count for _, _, count in counts.mistakes) == (pairs[0] != pairs[1]).sum()
    assert counts.reduced(2).sum() == 30


def test_mistakes_come_by_count_then_class() -> None:
    counts = Confusion.of([2, 2, 0, 1, 1], [1, 1, 1, 2, 0], 3)
    assert counts.mistakes == [(2, 1, 2), (0, 1, 1), (1, 0, 1), (1, 2, 1)]


def test_a_million_classes_take_no_matrix() -> None:
    counts = Confusion.of([0, 999_999], [999_999, 999_999], 1_000_000)
    assert counts.hits.sum() == 1
    assert counts.reduced(2).tolist() == [[0, 1], [0, 1]]


def test_labels_are_counted_each_on_its_own() -> None:
    found = label_counts([({"a", "b"}, {"a"}), ({"a"}, {"c"}), (set(), set())])
    assert found == {"a": LabelCounts(1, 2, 1), "b": LabelCounts(0, 1, 0), "c": LabelCounts(0, 0, 1)}
    assert [found[name].f1 for name in "abc"] == [2 / 3, 0, 0]
