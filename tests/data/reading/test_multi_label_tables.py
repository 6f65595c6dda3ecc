"""Tables with several labels per image: lists in a cell, or a column per label."""

import numpy as np
import pytest
from tests.data.tables import table, write_table
from tests.data.trees import picture

from frostline.console.errors import FrostlineError
from frostline.data.prepared.index import Index, labelled_rows
from frostline.data.reading.sources import open_source
from frostline.preparation.stage import prepare

SETS = [(), ("cat",), ("cat", "red dog"), ("red dog",), ("owl", "cat"), ("owl",)] * 5
CLASSES = ["cat", "owl", "red dog"]


@pytest.fixture
def root(tmp_path):
    (tmp_path / "my photos").mkdir()
    for number in range(len(SETS)):
        picture(number).save(tmp_path / "my photos" / f"{number}.png")
    return tmp_path / "my photos"


def lists(root, mark=";", name="lists.csv"):
    return write_table(root / name, [[f"{i}.png", mark.join(own)] for i, own in enumerate(SETS)])


def columns(root, order=("red dog", "cat", "owl"), name="columns.csv"):
    rows = [[f"{i}.png", *(int(label in own) for label in order)] for i, own in enumerate(SETS)]
    return write_table(root / name, rows, ["image", *order])


def several(file, columns={}, **fields):  # noqa: B006  # it is not changed
    return table(file, columns, task="multi_label", **fields)


@pytest.mark.parametrize(("empty", "rows"), [(1, "a row has none"), (5, "5 rows have none")])
def test_lists_of_labels_beside_empty_cells_need_the_task(root, empty, rows):
    cells = ["cat;red dog"] * 5 + ["cat", "red dog"] * 5 + [""] * empty
    file = write_table(root / "lists.csv", [[f"{i}.png", cell] for i, cell in enumerate(cells)])
    with pytest.raises(
        FrostlineError, match=rf"labels such as 'cat;red dog', and {rows}: .* set dataset.task=multi_label"
    ):
        open_source(table(file).dataset)
    assert len(open_source(table(file, on_bad_image="skip").dataset).problems) == empty


@pytest.mark.parametrize("mark", [", ", " ", "+"])
def test_other_separators_are_warned_about(root, mark):
    assert [
        text for text in open_source(several(lists(root, "&")).dataset).warnings if "owl&cat" in text
    ] == []
    cells = [mark.join(own) for own in [("cat",), ("cat", "dog"), ("dog",), ("owl", "cat"), ("owl",)] * 6]
    file = write_table(root / "lists.csv", [[f"{i}.png", cell] for i, cell in enumerate(cells)])
    assert open_source(several(file).dataset).warnings == [
        f"labels such as {f'cat{mark}dog'!r} are one label each; if they are several, separate them by ; or |"
    ]
    (warning,) = open_source(table(file).dataset).warnings
    assert warning.endswith("set dataset.task=multi_label and loss=bce, and separate the labels by ; or |")
    assert not open_source(table(file, classes=sorted(set(cells))).dataset).warnings


@pytest.mark.parametrize(
    ("vectors", "fine"),
    [
        ([[0, 1, 0], [1, 0, 1]], False),
        ([[0, 1], [1, 0]], False),
        ([[0.0, 1.0], [1.0, 1.0]], False),
        ([[True, False, True], [False, False, True]], False),
        ([[0, 1], [1]], True),
        ([[0, 1], []], True),
    ],
)
def test_vectors_of_0_and_1_are_no_lists_of_names(root, vectors, fine):
    import pyarrow
    import pyarrow.parquet

    own = [vectors[i % 2] for i in range(len(SETS))]
    names = [f"{i}.png" for i in range(len(SETS))]
    pyarrow.parquet.write_table(pyarrow.table({"image": names, "label": own}), root / "lists.parquet")
    cells = [[name, str(vector).lower()] for name, vector in zip(names, own, strict=True)]
    for file in (root / "lists.parquet", write_table(root / "lists.csv", cells)):
        if fine:
            assert open_source(several(file).dataset).classes == ("0", "1")
            continue
        with pytest.raises(
            FrostlineError,
            match=r"has labels such as \[\S+, .*\], and all are vectors of 0 and 1 .*: give lists",
        ):
            open_source(several(file).dataset)


@pytest.mark.parametrize("cells", [["0,1,1", "1, 0, 1"], ["0 1 0", "1 1 0"]])
def test_vectors_with_other_separators_are_no_names(root, cells):
    file = write_table(root / "vectors.csv", [[f"{i}.png", cells[i % 2]] for i in range(len(SETS))])
    with pytest.raises(FrostlineError, match=r"and all are vectors of 0 and 1 of length 3: give lists"):
        open_source(several(file).dataset)


def test_lists_and_columns_are_the_same_index_byte_for_byte(root, tmp_path):
    by_column = several(columns(root), {"labels": ["red dog", "cat", "owl"]})
    made = [several(lists(root)), several(lists(root, "|", "bars.csv")), by_column]
    indexes = [prepare(config, tmp_path / str(place)) for place, config in enumerate(made)]
    assert len({index.fingerprint for index in indexes}) == 1
    texts = {(tmp_path / str(place) / "index.csv").read_bytes() for place in range(3)}
    assert len(texts) == 1
    index = Index.read(tmp_path / "0")
    assert index.several_labels
    assert index.classes == tuple(CLASSES)
    for key, labels in zip(index.keys, index.labels, strict=True):
        assert [CLASSES[k] for k in np.flatnonzero(labels)] == sorted(SETS[int(key.removesuffix(".png"))])
    assert index.counts()["train"]["cat"] == 9  # 60 % of 15


def test_parquet_has_lists_too(root, tmp_path):
    import pyarrow
    import pyarrow.parquet

    file = root / "lists.parquet"
    names = [f"{i}.png" for i in range(len(SETS))]
    pyarrow.parquet.write_table(pyarrow.table({"image": names, "label": [list(own) for own in SETS]}), file)
    index, other = (
        prepare(config, tmp_path / str(place))
        for place, config in enumerate([several(file), several(lists(root))])
    )
    assert index.fingerprint == other.fingerprint
    with pytest.raises(FrostlineError, match="column 'label' holds list"):
        prepare(table(file), tmp_path / "c")


def test_budgets_of_the_same_seed_are_nested(root, tmp_path):
    index = prepare(several(lists(root)), tmp_path / "data")
    half, most = (
        labelled_rows(index, several(lists(root), fraction=share).dataset, 0) for share in (0.5, 0.8)
    )
    assert set(half) < set(most) < set(index.rows("train"))
    few, more = (labelled_rows(index, several(lists(root), shots=k).dataset, 0) for k in (2, 3))
    assert set(few) < set(more) < set(index.rows("train"))
    assert (index.labels[few].sum(axis=0) >= 2).all()
    assert (~index.labels[few].any(axis=1)).sum() == 2
    most = index.counts()["train"]["owl"]
    with pytest.raises(FrostlineError, match=rf"shots=20: class 'owl' has only {most} training images"):
        labelled_rows(index, several(lists(root), shots=20).dataset, 0)


def test_classes_give_the_order(root, tmp_path):
    config = several(lists(root), classes=["red dog", "owl", "cat"])
    assert prepare(config, tmp_path / "data").classes == ("red dog", "owl", "cat")


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("[cat]", r"line 2 has the labels '\[cat\]' \(.*\); write names separated by"),
        ("crow", "label 'crow', which is not in dataset.classes; .*owl"),
    ],
)
def test_cells_that_can_not_be_read_are_errors(root, tmp_path, cells, message):
    rows = [[f"{i}.png", ";".join(own)] for i, own in enumerate(SETS)]
    file = write_table(root / "wrong.csv", [[rows[0][0], cells], *rows[1:]])
    with pytest.raises(FrostlineError, match=message):
        prepare(several(file, classes=CLASSES), tmp_path / "data")


def test_columns_that_can_not_be_used_are_errors(root, tmp_path):
    with pytest.raises(FrostlineError, match=r"no column 'dog' \(dataset.columns.labels\); .*red dog"):
        prepare(several(columns(root), {"labels": ["dog", "cat"]}), tmp_path / "data")
    text = columns(root).read_text().replace("1.png,0,1,0", "1.png,0,2,0")
    (root / "columns.csv").write_text(text)
    with pytest.raises(FrostlineError, match="line 3 has '2' in the column 'cat'; allowed: 0 and 1"):
        prepare(several(root / "columns.csv", {"labels": ["red dog", "cat", "owl"]}), tmp_path / "data")
    with pytest.raises(ValueError, match=r"columns\.labels is for several labels per image: set"):
        table(columns(root), {"labels": ["cat"]})


def test_one_image_with_two_lists_and_copies_with_other_labels_are_errors(root, tmp_path):
    rows = [[f"{i}.png", ";".join(own)] for i, own in enumerate(SETS)]
    file = write_table(root / "twice.csv", [*rows, ["1.png", "owl"]])
    with pytest.raises(FrostlineError, match=r"1.png \(line 32\) has the label 'owl', and in line 3 'cat'"):
        prepare(several(file), tmp_path / "data")
    picture(1).save(root / "copy.png")
    file = write_table(root / "copies.csv", [*rows, ["copy.png", "cat;owl"]])
    with pytest.raises(FrostlineError, match=r"\(labels 'cat;owl'\) is the same image as 1.png"):
        prepare(several(file), tmp_path / "data")


def test_a_label_that_a_split_lacks_is_a_warning_and_one_without_images_an_error(root, tmp_path):
    rows = [[f"{i}.png", ";".join(own)] for i, own in enumerate(SETS)]
    rows[7][1] = "cat;rare"
    index = prepare(several(write_table(root / "rare.csv", rows)), tmp_path / "data")
    assert "no val image has the label 'rare': it does not count in the mAP on val" in index.warnings
    with pytest.raises(FrostlineError, match="has no images of 'crow': add some or remove the class"):
        prepare(several(lists(root), classes=[*CLASSES, "crow"]), tmp_path / "data")


def test_folds_of_several_labels(root, tmp_path):
    index = prepare(several(lists(root), folds=3), tmp_path / "data")
    assert index.fold_splits is not None
    assert ((index.fold_splits == "test").sum(axis=1) == 1).all()


def test_a_missing_column_of_labels_names_the_other_form(root):
    rows = [["0.png", 1, 0], ["1.png", 0, 1]]
    file = write_table(root / "hot.csv", rows, ["image", "a", "b"])
    with pytest.raises(
        FrostlineError, match=r"or for a column of 0 and 1 per class 'dataset\.columns\.labels="
    ):
        open_source(table(file, task="multi_label").dataset)
    with pytest.raises(FrostlineError, match=r"set dataset\.columns\.label=COLUMN$"):
        open_source(table(file).dataset)
