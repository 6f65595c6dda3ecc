"""Groups and folds of prepared data sets."""

import numpy as np
import pytest
from tests.data.tables import plant_flat, table, write_table
from tests.data.trees import image_folder, packaged, plant, plant_splits

from frostline.console.errors import FrostlineError
from frostline.data.prepared.index import Index, PreparedData
from frostline.preparation.stage import prepare, prepare_cached


@pytest.fixture
def patients(tmp_path):
    """24 images of 12 patients: two of each, of either class."""
    rows = plant_flat(tmp_path / "scans", images=12)
    listed = [[*row, f"p{i % 12}", i % 3] for i, row in enumerate(rows)]
    return write_table(tmp_path / "scans" / "labels.csv", listed, ["image", "label", "patient", "fold"])


def _rows(file):
    return [line.split(",") for line in file.read_text().splitlines()[1:]]


def splits_of_groups(index):
    """Group → its splits."""
    found = {}
    for group, split in zip(index.groups, index.splits, strict=True):
        found.setdefault(str(group), set()).add(str(split))
    return found


def test_no_patient_is_divided_and_classes_are_stratified(patients, tmp_path):
    index = prepare(table(patients, group="patient", val=0.25, test=0.25), tmp_path / "out")
    assert all(len(splits) == 1 for splits in splits_of_groups(index).values())
    assert [len(index.rows(split)) for split in ("train", "val", "test")] == [12, 6, 6]
    assert index.counts()["test"] == {"cat": 3, "dog": 3}
    assert index.warnings == ()
    again = Index.read(tmp_path / "out")
    assert (again.groups == index.groups).all()
    assert again.fingerprint == index.fingerprint
    assert index.fingerprint != prepare(table(patients), tmp_path / "plain").fingerprint
    renamed = prepare(table(patients, {"group": "patient"}, val=0.25, test=0.25), tmp_path / "columns")
    assert renamed.fingerprint == index.fingerprint


def test_a_missing_group_column(patients):
    with pytest.raises(FrostlineError, match=r"has no column 'patients' \(dataset.group\); did you"):
        prepare(table(patients, group="patients"), patients.parent / "out")


def test_copies_unite_groups(patients, tmp_path):
    (patients.parent / "cat 0.png").write_bytes((patients.parent / "cat 1.png").read_bytes())
    splits = splits_of_groups(prepare(table(patients, group="patient"), tmp_path / "out"))
    assert splits["p0"] == splits["p1"]


def test_a_class_that_cannot_be_stratified_is_named(tmp_path):
    rows = plant_flat(tmp_path, images=10)
    listed = [[*row, f"{row[1]} {i // 2}" if row[1] == "cat" else "one"] for i, row in enumerate(rows)]
    file = write_table(tmp_path / "x.csv", listed, ["image", "label", "group"])
    (warning,) = prepare(table(file), tmp_path / "out").warnings
    assert warning == (
        "groups keep the splits from being stratified: 'dog' has 10 of 10 images in train, 'dog' has 0 of 10 "
        "images in val, 'dog' has 0 of 10 images in test"
    )


def test_each_fold_is_the_test_split_once(patients, tmp_path):
    setup = table(patients, {"fold": None}, group="patient", folds=4)
    prepare(setup, tmp_path / "out")
    tested = []
    for fold in range(4):
        dataset = setup.dataset.model_copy(update={"fold": fold})
        index = PreparedData.read(dataset, tmp_path / "out").index
        tested += [index.keys[row] for row in index.rows("test")]
        assert len(index.rows("test")) == 6
        assert len(index.rows("val")) == 4
        assert all(len(splits) == 1 for splits in splits_of_groups(index).values())
    assert sorted(tested) == sorted(Index.read(tmp_path / "out").keys)


def test_folds_of_a_column(patients, tmp_path):
    index = prepare(table(patients, folds=3, fold=2), tmp_path / "out").at_fold(2)
    given = {path: fold for path, _, _, fold in _rows(patients)}
    assert {given[index.keys[row]] for row in index.rows("test")} == {"2"}
    with pytest.raises(FrostlineError, match=r"dataset.folds=5: the folds of .* are 0, 1, 2; number"):
        prepare(table(patients, folds=5), tmp_path / "out")
    assert prepare(table(patients), tmp_path / "out").fold_splits is None
    with pytest.raises(FrostlineError, match=r"has the fold 'p0'; write a whole number from 0"):
        prepare(table(patients, {"fold": "patient"}, folds=3), tmp_path / "out")


def test_a_class_in_one_fold_of_a_column(tmp_path):
    rows = plant_flat(tmp_path)
    listed = [[path, label, 0 if label == "cat" else i % 3] for i, (path, label) in enumerate(rows)]
    file = write_table(tmp_path / "x.csv", listed, ["image", "label", "fold"])
    with pytest.raises(
        FrostlineError,
        match=r"without fold 0 there is no training image of 'cat': add images of it from other folds",
    ):
        prepare(table(file, folds=3), tmp_path / "out")


def test_a_group_in_two_given_folds(patients, tmp_path):
    rows = _rows(patients)
    rows[0][3] = "1"
    write_table(patients, rows, ["image", "label", "patient", "fold"])
    with pytest.raises(FrostlineError, match=r"group 'p0' is divided between fold 1 \(cat 0.png\) and"):
        prepare(table(patients, group="patient", folds=3), tmp_path / "out")


@pytest.mark.parametrize("group", [None, "patient"])
def test_an_image_in_two_given_folds(group, patients, tmp_path):
    (patients.parent / "cat 1.png").write_bytes((patients.parent / "cat 0.png").read_bytes())
    setup = table(patients, group=group, folds=3)
    with pytest.raises(
        FrostlineError,
        match=r"cat 1.png \(fold 1\) is the same image as cat 0.png \(fold 0\): remove one of them",
    ):
        prepare(setup, tmp_path / "out")
    skipping = setup.model_copy(update={"dataset": setup.dataset.model_copy(update={"on_bad_image": "skip"})})
    assert set(prepare(skipping, tmp_path / "out").keys) == {row[0] for row in _rows(patients)} - {
        "cat 1.png"
    }
    # The column of folds is not used: the copies are in one split.
    index = prepare(table(patients, group=group), tmp_path / "plain")
    first, second = (index.keys.index(key) for key in ("cat 0.png", "cat 1.png"))
    assert index.splits[first] == index.splits[second]


def test_folds_of_any_data_set_without_groups(tmp_path):
    index = prepare(packaged("digits", folds=5), tmp_path / "out")
    sizes = [int((splits == "test").sum()) for splits in index.fold_splits.T]
    assert max(sizes) - min(sizes) <= 10
    counts = np.array([list(index.at_fold(fold).counts()["test"].values()) for fold in range(5)])
    assert (counts.max(axis=0) - counts.min(axis=0)).max() <= 1


def test_the_images_are_read_once_for_all_folds(tmp_path):
    root = plant(tmp_path / "photos")

    def never(description, total):
        raise AssertionError("nothing should be read")

    setup = image_folder(root)
    first = setup.model_copy(update={"dataset": setup.dataset.model_copy(update={"folds": 3, "fold": 0})})
    second = setup.model_copy(update={"dataset": setup.dataset.model_copy(update={"folds": 3, "fold": 1})})
    index, folder = prepare_cached(first, tmp_path / "scratch")
    other, same = prepare_cached(second, tmp_path / "scratch", never)
    assert same == folder
    assert other.fingerprint == index.fingerprint
    assert (np.flatnonzero(index.splits == "test") != np.flatnonzero(other.splits == "test")).any()


def test_folds_and_given_splits_exclude_each_other(tmp_path):
    root = plant_splits(tmp_path / "photos")
    setup = image_folder(root)
    setup = setup.model_copy(update={"dataset": setup.dataset.model_copy(update={"folds": 3})})
    with pytest.raises(FrostlineError, match=r"dataset.folds=3: .* has splits of its own, and folds"):
        prepare(setup, tmp_path / "out")


def test_a_class_whose_only_group_is_drawn_for_val(tmp_path):
    rows = [[path, label, label] for path, label in plant_flat(tmp_path, ("cat", "dog", "fox"))]
    file = write_table(tmp_path / "x.csv", rows, ["image", "label", "patient"])
    message = r"no training image of '\w+', '\w+' is left: add images of it from other groups, or remove"
    with pytest.raises(FrostlineError, match=message):
        prepare(table(file, group="patient"), tmp_path / "out")


@pytest.mark.parametrize("bare", ["val", "test"])
def test_a_split_without_any_label(tmp_path, bare):
    rows = plant_flat(tmp_path)
    splits = ["train", "val", "test"]
    listed = [
        [path, "" if splits[i % 3] == bare else label, splits[i % 3]] for i, (path, label) in enumerate(rows)
    ]
    file = write_table(tmp_path / "x.csv", listed, ["image", "label", "split"])
    setup = table(file, val=None, test=None, task="multi_label")
    with pytest.raises(FrostlineError, match=rf"the {bare} split has no image with a label, so that its mAP"):
        prepare(setup, tmp_path / "out")


def test_a_fold_without_any_label(tmp_path):
    rows = plant_flat(tmp_path)
    listed = [[path, "" if i % 3 == 2 else label, i % 3] for i, (path, label) in enumerate(rows)]
    file = write_table(tmp_path / "x.csv", listed, ["image", "label", "fold"])
    with pytest.raises(FrostlineError, match="the test split has no image with a label"):
        prepare(table(file, task="multi_label", folds=3, val=0.4), tmp_path / "out")
