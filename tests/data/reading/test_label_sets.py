import numpy as np
import pytest

from frostline.data.reading.label_sets import like_list, listed, names_of, notes


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
        ('["dog", null]', ("dog",)),
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


COMBINATIONS = [["sea"], ["sea", "people"], ["people"], ["forest", "sea"], ["forest"]]


@pytest.mark.parametrize("mark", [", ", ",", "+", " + ", "/", "&", " ", ";", "|"])
def test_names_that_are_lists_of_others(mark):
    assert like_list(map(mark.join, COMBINATIONS)) == mark.join(["sea", "people"])


@pytest.mark.parametrize("text", [repr, lambda own: "{" + repr(own)[1:-1] + "}"])
def test_names_that_are_pythons_text_of_a_list_or_set(text):
    assert like_list(map(text, COMBINATIONS)) == text(["sea", "people"])


@pytest.mark.parametrize(
    "names",
    [
        ["golden retriever", "labrador retriever", "poodle"],
        [
            "red car",
            "red bus",
            "red bike",
            "blue car",
            "blue bus",
            "blue bike",
            "old car",
            "old bus",
            "old bike",
        ],
        ["Tench, Tinca tinca", "Goldfish, Carassius auratus", "Tench"],
        ["0,5", "1,5", "0,0", "1,0", "5,0"],
        ["salt & pepper", "salt", "sugar"],
    ],
)
def test_names_that_are_no_lists(names):
    assert like_list(names) is None


def test_notes_say_how_to_separate_labels():
    assert [*notes(["sea", "sea, people", "people"], [], several=True)] == [
        "labels such as 'sea, people' are one label each; if they are several, separate them by ; or |"
    ]
    task = "are one class each; if images may have several, set dataset.task=multi_label and loss=bce"
    assert [*notes(["sea", "sea+people", "people"], ["p1", "nan"], several=False)] == [
        "the group 'nan' is taken as a name; leave the cell empty if there is none",
        f"labels such as 'sea+people' {task}, and separate the labels by ; or |",
    ]
    assert [*notes(["sea", "sea|people"], [], several=False)] == [f"labels such as 'sea|people' {task}"]


def test_the_names_of_an_images_labels():
    classes = ["sea", "people; many"]
    several = [names_of(np.array(own), classes) for own in ([1, 1], [0, 1], [0, 0])]
    assert several == [classes, ["people; many"], []]
    assert names_of(np.array(1), classes) == ["people; many"]
