"""Whether a head is kept, matched by class name, or starts anew."""

import pytest
import torch

from frostline.console.errors import FrostlineError
from frostline.models.head_init import HeadNotUsable, choose_head_init, reorder_classes


def start(head, known, classes, trains=True):
    return choose_head_init(head, known, classes, source="w", trains=trains)


@pytest.mark.parametrize(
    ("head", "known", "classes", "trains", "kind", "rows"),
    [
        ("auto", "ab", "ab", True, "kept", None),
        ("keep", "ab", "ab", True, "kept", None),
        ("auto", "abc", "cab", True, "kept", (2, 0, 1)),
        ("keep", "abc", "cab", False, "kept", (2, 0, 1)),
        ("auto", "abc", "ab", True, "reset", None),
        ("auto", "ab", "abc", True, "reset", None),
        ("auto", "ab", "cd", True, "reset", None),
        ("reset", "ab", "ab", True, "reset", None),
        ("auto", None, "ab", True, "reset", None),
        ("keep", None, "ab", True, "kept", None),
        ("auto", "abc", "ca", False, "matched", (2, 0)),
        ("auto", "ab", "xbc", False, "matched", (None, 1, None)),
    ],
)
def test_how_a_head_starts(head, known, classes, trains, kind, rows):
    found = start(head, known and tuple(known), tuple(classes), trains)
    assert (found.start, found.rows) == (kind, rows)
    as_expected = kind == "kept" and rows is None and known is not None
    assert bool(found.notice) == (not as_expected and head != "reset")


def test_a_notice_says_which_classes_differ():
    assert start("auto", ("owl", "fox"), ("fox", "elk")).notice == (
        "weights.head: reset, since the classes differ: only the data set has 'elk' and only the weights have"
        " 'owl'"
    )
    assert start("auto", ("owl", "fox"), ("fox", "elk")).short_notice == (
        "weights.head: reset, since the classes differ (training.json names them)"
    )
    assert start("auto", None, "ab").short_notice == start("auto", None, "ab").notice
    assert (
        "only the data set has '2', '3', '4', '5', … (8 in all)" in start("auto", "01", "0123456789").notice
    )


@pytest.mark.parametrize(("known", "classes"), [("ab", "bc"), ("abc", "ab"), ("ab", "abc"), ("ab", "cd")])
@pytest.mark.parametrize("trains", [True, False])
def test_keep_is_refused_where_the_classes_differ(known, classes, trains):
    with pytest.raises(
        FrostlineError, match=r"^weights\.head: found keep for w, .*: set weights\.head=reset$"
    ):
        start("keep", known, classes, trains)


@pytest.mark.parametrize(("head", "known"), [("auto", "xy"), ("auto", None), ("reset", "ab")])
def test_a_head_that_would_start_anew_and_never_train_is_refused(head, known):
    with pytest.raises(HeadNotUsable, match=r"^freeze: nothing trains, .*such as freeze=linear_probe$"):
        start(head, known, "ab", trains=False)


def test_rows_are_put_along_any_dimension():
    tensor = torch.tensor([[1.0, 2.0, 6.0]])
    assert reorder_classes(tensor, (2, None, 0), 1).tolist() == [[6.0, 3.0, 1.0]]
    assert reorder_classes(tensor.T, (1,), 0).tolist() == [[2.0]]
