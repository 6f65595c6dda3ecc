import numpy as np
import pytest

from frostline.data.reading.label_sets import listed, names_of


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("", ()),
        ("  ", ()),
        ("[]", ()),
        ("cat", ("cat",)),
        ("dog;cat", ("cat", "dog")),
        (" dog | cat|dog", ("cat", "dog")),
        ("cat;", ("cat",)),
        ('["dog", "red cat"]', ("dog", "red cat")),
        ("[2, 10]", ("10", "2")),
        ("Tench, Tinca tinca;dog", ("Tench, Tinca tinca", "dog")),
        ("a|b;c", ("a|b", "c")),  # ; comes first
    ],
)
def test_a_cell_lists_labels(cell, labels):
    assert listed(cell) == labels


@pytest.mark.parametrize(
    ("cell", "reason"),
    [("[cat]", "Expecting value"), ('[{"a": 1}]', "must be names"), ('["a;b"]', "'a;b' contains ';'")],
)
def test_what_is_no_list_is_an_error(cell, reason):
    with pytest.raises(ValueError, match=reason):
        listed(cell)


def test_the_names_of_an_images_labels():
    classes = ["sea", "people; many"]
    several = [names_of(np.array(own), classes) for own in ([1, 1], [0, 1], [0, 0])]
    assert several == [classes, ["people; many"], []]
    assert names_of(np.array(1), classes) == ["people; many"]
