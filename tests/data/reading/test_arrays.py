"""Arrays of .npz files: the layouts that are read, and a sentence for all others."""

import zipfile

import numpy as np
import pytest
from tests.data.tables import COLUMNS
from tests.data.trees import packaged

from frostline.console.errors import FrostlineError
from frostline.data.reading.sources import name_of, open_source
from frostline.preparation.stage import prepare

USUAL = {**COLUMNS, "image": "images", "label": "labels"}
IMAGES = np.random.default_rng(0).integers(0, 256, (30, 8, 6), dtype=np.uint8)
LABELS = np.arange(30) % 3


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


def config(path, classes=None, columns=USUAL, **fields):
    return packaged("npz", file=str(path), group=None, classes=classes, columns=columns, **fields)


def opened(path, **fields):
    return open_source(config(path, **fields).dataset)


def test_one_pair_of_arrays(tmp_path):
    path = saved(tmp_path / "my data.npz", images=IMAGES, labels=LABELS, other=np.zeros(3))
    source = opened(path)
    assert (source.images == IMAGES).all()
    assert source.rows.labels.tolist() == LABELS.tolist()
    assert source.classes == ("0", "1", "2")
    assert opened(path, classes=["no", "maybe", "yes"]).classes == ("no", "maybe", "yes")
    assert name_of(config(path).dataset) == "my data"
    index = prepare(config(path), tmp_path / "out")
    assert (index.kind, index.storage, len(index)) == ("npz", "arrays", 30)


def test_labels_may_be_names_and_other_columns_arrays(tmp_path):
    names = np.array(["c", "a", "b"])[LABELS]
    splits = np.repeat(["train", "test"], 15)
    path = saved(
        tmp_path / "x.npz", images=IMAGES, labels=names, split=splits, weight=np.ones(30), group=names
    )
    source = opened(path, test=None, columns={**USUAL, "group": None})
    assert source.classes == ("a", "b", "c")
    assert [source.classes[label] for label in source.rows.labels] == names.tolist()
    assert source.rows.splits.tolist() == splits.tolist()
    assert source.rows.weights.tolist() == [1.0] * 30
    assert source.rows.groups is None
    assert opened(path, test=None, classes=["c", "b", "a"], columns={**USUAL, "group": None}).classes == (
        "c",
        "b",
        "a",
    )


def test_numbers_are_sorted_as_numbers(tmp_path):
    path = saved(tmp_path / "x.npz", images=IMAGES, labels=np.repeat([10, 2, 7], 10))
    assert opened(path).classes == ("2", "7", "10")


@pytest.mark.parametrize("names", ["{}_images {}_labels", "x_{} y_{}"])
def test_a_pair_of_arrays_per_split(tmp_path, names):
    """As MedMNIST and as Keras name them; MedMNIST's labels are columns."""
    arrays = {}
    for split, rows in (("train", slice(0, 18)), ("val", slice(18, 24)), ("test", slice(24, 30))):
        image, label = names.format(split, split).split()
        arrays |= {image: IMAGES[rows, ..., None], label: LABELS[rows, None]}
    source = opened(saved(tmp_path / "x.npz", **arrays), val=None, test=None)
    assert source.images.shape == (30, 8, 6)
    assert source.rows.splits.tolist() == ["train"] * 18 + ["val"] * 6 + ["test"] * 6
    assert source.rows.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("names", [("X_{}", "y_{}"), ("{}_images", "{}_labels")])
def test_pairs_with_other_names_of_splits(tmp_path, names):
    """As scikit-learn's users name them; the splits as folders may be named."""
    arrays = {}
    for split, rows in (("train", slice(0, 18)), ("valid", slice(18, 24)), ("testing", slice(24, 30))):
        image, label = (name.format(split) for name in names)
        arrays |= {image: IMAGES[rows], label: LABELS[rows]}
    source = opened(saved(tmp_path / "x.npz", **arrays), val=None, test=None)
    assert source.rows.splits.tolist() == ["train"] * 18 + ["val"] * 6 + ["test"] * 6
    assert (source.images == IMAGES).all()


def several(path, **fields):
    return opened(path, task="multi_label", **fields)


def test_a_column_per_class_is_several_labels(tmp_path):
    marks = (np.arange(90).reshape(30, 3) % 4 == 0).astype(np.uint8)
    path = saved(tmp_path / "x.npz", images=IMAGES, labels=marks)
    assert several(path).rows.labels.tolist() == marks.tolist()
    assert several(path).classes == ("0", "1", "2")
    assert several(path, classes=["sea", "sun", "tree"]).classes == ("sea", "sun", "tree")
    named = saved(tmp_path / "y.npz", images=IMAGES, sea=marks[:, 0], sun=marks[:, 1] == 1)
    source = several(named, columns={**USUAL, "labels": ["sun", "sea"]})
    assert source.classes == ("sun", "sea")
    assert source.rows.labels.tolist() == marks[:, [1, 0]].tolist()
    parts = saved(tmp_path / "z.npz", train_images=IMAGES, train_labels=marks, test_images=IMAGES,
                  test_labels=marks)  # fmt: skip
    assert several(parts).rows.labels.shape == (60, 3)


@pytest.mark.parametrize(
    ("labels", "classes", "sentence"),
    [
        (LABELS, None, r"has labels of shape \(30,\) and type int64; for several labels per image give an"),
        (np.full((30, 2), 2), None, "give an array of 0 and 1 with a row per image and a column per class"),
        (
            np.ones((29, 2), int),
            None,
            r"has 30 images with labels of shape \(29, 2\): give one label per image",
        ),
        (
            np.ones((30, 2), int),
            [*"abc"],
            "has 2 columns of labels, and dataset.classes 3 names: give one for",
        ),
    ],
)
def test_arrays_that_are_not_several_labels(tmp_path, labels, classes, sentence):
    with pytest.raises(FrostlineError, match=sentence):
        several(saved(tmp_path / "x.npz", images=IMAGES, labels=labels), classes=classes)


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (IMAGES, LABELS[1:], "has 30 images with labels of shape (29,): give one label per image"),
        (IMAGES / 255, LABELS, "has float64 images; scale them to 0…255"),
        (IMAGES, LABELS / 2, "has labels of shape (30,) and type float64; give one whole number or"),
        (IMAGES, np.eye(30), "has labels of shape (30, 30) and type float64; give one whole number or"),
        (IMAGES, LABELS.astype(object), "is not an .npz file, or holds Python objects: save arrays of"),
    ],
)
def test_arrays_that_are_no_data_set(tmp_path, images, labels, sentence):
    with pytest.raises(FrostlineError) as raised:
        opened(saved(tmp_path / "x.npz", images=images, labels=labels))
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"images": np.uint8(3)}, "has images of shape (); allowed: N×height×width or N×height×width×3"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "has no images (their shape is 0×8×6)"),
        ({"weight": np.array(["a"] * 30)}, "has weights of type <U1; give numbers"),
        ({"group": np.where(LABELS == 1, np.nan, LABELS)}, "10 images have no group (01, 04, 07 and 7 more)"),
        ({"fold": LABELS + 0.5}, "has folds of type float64; give whole numbers"),
        ({"X_train": IMAGES}, "has the array 'X_train' without 'y_train': add it, or remove 'X_train'"),
        (
            {
                f"{axis}_{split}": array
                for axis, array in (("x", IMAGES), ("y", LABELS))
                for split in ("val", "valid")
            },
            "has x_val and x_valid, which mean the same split: merge them",
        ),
        ({"x_train": IMAGES}, "has the array 'x_train' without 'y_train': add it, or remove 'x_train'"),
    ],
)
def test_arrays_of_another_kind_or_shape(tmp_path, arrays, sentence):
    path = saved(tmp_path / "x.npz", **{"images": IMAGES, "labels": LABELS, **arrays})
    with pytest.raises(FrostlineError) as raised:
        opened(path, folds=3)
    assert sentence in str(raised.value)


def test_the_pairs_of_two_splits_fit_one_by_one(tmp_path):
    """As many images as labels in all, but not in each split: the labels of the second would be shifted."""
    arrays = {"x_train": IMAGES[:20], "y_train": LABELS[:18], "x_test": IMAGES[20:], "y_test": LABELS[18:]}
    with pytest.raises(FrostlineError, match=r"has 20 images with labels of shape \(18,\): give one label"):
        opened(saved(tmp_path / "x.npz", **arrays))


def test_splits_are_named_as_in_tables(tmp_path):
    splits = np.array(["Training", "VAL", "test"])[np.arange(30) // 3 % 3]
    path = saved(tmp_path / "x.npz", images=IMAGES, labels=LABELS, split=splits)
    assert opened(path, val=None, test=None).rows.splits[[0, 3, 6]].tolist() == ["train", "val", "test"]


def test_a_missing_array(tmp_path):
    with pytest.raises(FrostlineError, match=r"has no column 'images' \(dataset.columns.image\); did"):
        opened(saved(tmp_path / "x.npz", image=IMAGES, labels=LABELS))


def test_files_that_are_no_npz(tmp_path):
    saved(tmp_path / "data.npz", images=IMAGES, labels=LABELS)
    np.save(tmp_path / "one.npy", IMAGES)
    with zipfile.ZipFile(tmp_path / "junk.npz", "w") as archive:
        archive.writestr("images.npy", b"junk")
    (tmp_path / "text.npz").write_text("images")
    whole = (tmp_path / "data.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-30])
    for name, header in (("key.npz", b"'descX'"), ("syntax.npz", b"'descr\\"), ("bytes.npz", b"'desc\xff'")):
        (tmp_path / name).write_bytes(whole.replace(b"'descr'", header, 1))
    for name, sentence in (
        ("date.npz", "doesn't exist: give an .npz file; did you mean 'data.npz' or"),
        ("one.npy", "is a single array: save images and labels with numpy.savez"),
        ("text.npz", "is not an .npz file, or holds Python objects"),
        ("junk.npz", "has no column 'images'"),
        ("", "is a folder: give an .npz file"),
        *((f"{name}.npz", "can't be read (") for name in ("key", "syntax", "bytes")),
        ("cut.npz", "can't be read (File is not a zip file): copy or write"),
    ):
        with pytest.raises(FrostlineError) as raised:
            opened(tmp_path / name)
        assert sentence in str(raised.value)


def test_words_for_missing_values_are_named(tmp_path):
    path = saved(tmp_path / "x.npz", images=IMAGES, labels=np.array(["nan", "b", "c"])[LABELS])
    (warning,) = opened(path).warnings
    assert warning.startswith("the label 'nan' is taken as a name (name it in dataset.classes if it is one)")
    assert not opened(path, classes=["nan", "b", "c"]).warnings
