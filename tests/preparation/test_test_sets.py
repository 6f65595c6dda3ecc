"""Further test sets: prepared with their data set, and kept apart from what runs train on."""

import re
import shutil

import numpy as np
import pyarrow
import pytest
from tests.data.reading.test_arrow import save
from tests.data.tables import COLUMNS, plant_flat, table, write_table
from tests.data.trees import image_folder, packaged, picture, plant, plant_splits

from frostline.console.errors import FrostlineError
from frostline.data.prepared.index import Index, PreparedData
from frostline.preparation.stage import prepare, prepare_cached
from frostline.schema import Prepare


def with_tests(setup, **test_sets):
    return Prepare.model_validate({"dataset": {**setup.dataset.model_dump(), "test_sets": test_sets}})


@pytest.fixture
def root(tmp_path):
    return plant(tmp_path / "photos", ("cat", "dog", "fox"))


def test_a_further_test_set_has_the_data_sets_class_numbers(root, tmp_path):
    other = plant(tmp_path / "other scanner", ("cat", "fox"), seed=50_000)
    plain = prepare(image_folder(root), tmp_path / "plain")
    setup = with_tests(image_folder(root), shifted={"root": str(other)})
    index = prepare(setup, tmp_path / "out")
    assert (tmp_path / "out" / "index.csv").read_bytes() == (tmp_path / "plain" / "index.csv").read_bytes()
    assert index.fingerprint == plain.fingerprint
    data = PreparedData.read(setup.dataset, tmp_path / "out").test_sets()["shifted"]
    assert data.index.classes == ("cat", "dog", "fox")
    assert sorted(set(data.index.labels)) == [0, 2]
    assert set(data.index.splits) == {"test"}
    assert (len(data.index), data.index.name) == (12, "shifted")
    assert data.dataset.root == str(other)


def test_a_test_set_may_have_one_class(root, tmp_path):
    other = plant(tmp_path / "dogs only", ("dog",), seed=50_000)
    setup = with_tests(image_folder(root), dogs={"root": str(other)})
    prepare(setup, tmp_path / "out")
    index = Index.read(tmp_path / "out" / "test_sets" / "dogs")
    assert (index.classes, set(index.labels)) == (("cat", "dog", "fox"), {1})
    shutil.rmtree(other / "dog")
    with pytest.raises(FrostlineError, match=r"^dataset\.test_sets\.dogs\.root: "):
        prepare(setup, tmp_path / "again")


def test_of_a_test_set_with_splits_the_test_split_is_used(root, tmp_path):
    other = plant_splits(tmp_path / "other", ("train", "test"))
    setup = with_tests(image_folder(root), other={"root": str(other)})
    prepare(setup, tmp_path / "out")
    index = Index.read(tmp_path / "out" / "test_sets" / "other")
    assert len(index) == 12
    assert all(key.startswith("test/") for key in index.keys)


def test_a_test_set_needs_no_train_split(root, tmp_path):
    other = plant_splits(tmp_path / "other", ("test",))
    setup = with_tests(image_folder(root), other={"root": str(other)})
    prepare(setup, tmp_path / "out")
    index = Index.read(tmp_path / "out" / "test_sets" / "other")
    assert len(index) == 12
    assert all(key.startswith("test/") for key in index.keys)
    with pytest.raises(FrostlineError, match="has test but no train folder: add one"):
        prepare(Prepare(dataset=image_folder(other).dataset), tmp_path / "alone")


def test_the_test_split_of_a_test_set_may_lack_classes(root, tmp_path):
    other = plant_splits(tmp_path / "other", ("train", "val", "test"))
    shutil.rmtree(other / "test" / "dog")
    (other / "val" / "broken.png").write_bytes(b"")
    setup = with_tests(image_folder(root), other={"root": str(other)})
    prepare(setup, tmp_path / "out")
    index = Index.read(tmp_path / "out" / "test_sets" / "other")
    assert {index.classes[label] for label in index.labels} == {"cat"}
    assert all(key.startswith("test/cat/") for key in index.keys)


@pytest.mark.parametrize("task", [None, "multi_label"])
def test_the_test_set_of_a_table_may_be_a_test_split_alone(task, tmp_path):
    file = write_table(tmp_path / "x.csv", plant_flat(tmp_path))
    others = [row for i, row in enumerate(plant_flat(tmp_path / "other", images=24)) if i % 24 >= 12]
    for name, splits, used in (
        ("alone", ["test"], 24),
        ("both", ["train", "test"], 12),
        ("neither", ["train", "val"], 24),
        ("none", [""], 24),
    ):
        rows = [[*row, splits[i % len(splits)]] for i, row in enumerate(others)]
        other = write_table(tmp_path / "other" / f"{name}.csv", rows, ["image", "label", "split"])
        setup = with_tests(table(file, task=task), other={"file": str(other)})
        prepare(setup, tmp_path / name)
        index = Index.read(tmp_path / name / "test_sets" / "other")
        assert (len(index), set(index.splits)) == (used, {"test"})
    rows = [[*row, "test" if i else ""] for i, row in enumerate(others)]
    write_table(other, rows, ["image", "label", "split"])
    with pytest.raises(
        FrostlineError, match=r"splits '', 'test'; allowed: train, val and test, or no splits at all$"
    ):
        prepare(setup, tmp_path / "mixed")


def test_tables_share_the_columns(tmp_path):
    root = plant(tmp_path / "photos")
    other = plant(tmp_path / "other", seed=70_000)
    for folder in (root, other):
        paths = sorted(path.relative_to(folder) for path in folder.rglob("*.png"))
        write_table(folder / "x.csv", [[p.as_posix(), p.parts[0]] for p in paths], ["path", "kind"])
    columns = {"image": "path", "label": "kind"}
    setup = with_tests(table(root / "x.csv", columns), site_b={"file": str(other / "x.csv")})
    prepare(setup, tmp_path / "out")
    assert len(Index.read(tmp_path / "out" / "test_sets" / "site_b")) == 12


def test_several_labels_get_the_data_sets_numbers(tmp_path):
    sets = [["cat", "fox"], ["dog"], [], ["cat"], ["fox", "dog"]] * 4
    files = {}
    for name, change, seed in (("photos", lambda own: own, 0), ("other", lambda own: own[:1], 500)):
        (tmp_path / name).mkdir()
        for i in range(len(sets)):
            picture(seed + i).save(tmp_path / name / f"{i}.png")
        rows = [[f"{i}.png", ";".join(change(own))] for i, own in enumerate(sets)]
        files[name] = write_table(tmp_path / name / "x.csv", rows)
    setup = table(files["photos"], classes=["fox", "dog", "cat"], task="multi_label")
    prepare(with_tests(setup, other={"file": str(files["other"])}), tmp_path / "out")
    index = Index.read(tmp_path / "out" / "test_sets" / "other")
    assert index.classes == ("fox", "dog", "cat")
    for key, labels in zip(index.keys, index.labels, strict=True):
        wanted = sets[int(key.removesuffix(".png"))][:1]
        assert [index.classes[k] for k in labels.nonzero()[0]] == wanted
    write_table(tmp_path / "other" / "x.csv", [["0.png", "cat;owl"], ["1.png", "dog"]])
    with pytest.raises(
        FrostlineError, match=r"^dataset\.test_sets\.other: has the class 'owl', which the training images"
    ):
        prepare(with_tests(setup, other={"file": str(files["other"])}), tmp_path / "again")


def test_a_test_set_whose_test_split_has_no_label(tmp_path):
    file = write_table(tmp_path / "x.csv", plant_flat(tmp_path))
    others = plant_flat(tmp_path / "other", images=24)
    rows = [
        [path, *((label, "train") if i % 24 < 18 else ("", "test"))]
        for i, (path, label) in enumerate(others)
        if i % 24 >= 12
    ]
    other = write_table(tmp_path / "other" / "x.csv", rows, ["image", "label", "split"])
    setup = with_tests(table(file, task="multi_label"), other={"file": str(other)})
    with pytest.raises(FrostlineError, match=r"^dataset\.test_sets\.other has no image with a label"):
        prepare(setup, tmp_path / "out")


def test_numbers_in_arrays_are_positions_in_the_data_sets_classes(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (48, 8, 8), dtype=np.uint8)
    several = np.tile(np.array([[1, 0], [0, 1], [1, 1]], dtype=np.uint8), (8, 1))
    for task, labels in ((None, np.arange(24) % 2), ("multi_label", several)):
        np.savez(tmp_path / "a.npz", images=images[:24], labels=labels)
        np.savez(tmp_path / "b.npz", images=images[24:], labels=labels)
        columns = {name: name for name in ("split", "group", "fold", "weight")}
        dataset = {
            "kind": "npz", "file": str(tmp_path / "a.npz"), "classes": ["dog", "cat"], "group": None,
            "columns": {"image": "images", "label": "labels", **columns}, "shots": None, "fraction": None,
            "split": {"val": 0.2, "test": 0.2, "seed": 0}, "on_bad_image": "error", "task": task,
            "test_sets": {"b": {"file": str(tmp_path / "b.npz")}},
        }  # fmt: skip
        out = tmp_path / str(task)
        prepare(Prepare.model_validate({"dataset": dataset}), out)
        index = Index.read(out / "test_sets" / "b")
        assert index.classes == ("dog", "cat")
        assert np.array_equal(index.labels, labels)


def test_a_test_set_needs_no_groups_folds_or_weights(tmp_path):
    root = plant(tmp_path / "photos")
    other = plant(tmp_path / "other", seed=50_000)
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    rows = [[path, path[:3], f"p{i}", i % 3, 1 + i] for i, path in enumerate(paths)]
    file = write_table(root / "x.csv", rows, ["image", "label", "patient", "fold", "weight"])
    tests = {"outside": {"file": str(write_table(other / "y.csv", [row[:2] for row in rows]))}}
    setup = table(file, {"weight": "weight"}, group="patient", folds=3, fold=0, test=None)
    prepare(with_tests(setup, **tests), tmp_path / "out")
    assert len(Index.read(tmp_path / "out" / "test_sets" / "outside")) == len(rows)


def test_the_cache_notices_a_changed_test_set(root, tmp_path):
    other = plant(tmp_path / "other", seed=90_000)
    setup = with_tests(image_folder(root), shifted={"root": str(other)})
    _, folder = prepare_cached(setup, tmp_path / "scratch")
    assert prepare_cached(setup, tmp_path / "scratch")[1] == folder
    (other / "cat" / "0.png").unlink()
    assert prepare_cached(setup, tmp_path / "scratch")[1] != folder


def test_images_that_a_run_trains_on_are_refused(root, tmp_path):
    index = prepare(image_folder(root), tmp_path / "plain")
    other = plant(tmp_path / "other", ("cat", "dog", "fox"), seed=30_000)
    trained = index.keys[index.rows("train")[0]]
    shutil.copy(root / trained, other / trained.replace("0.png", "x.png"))
    copied = trained.replace("0.png", "x.png")
    setup = with_tests(image_folder(root), shifted={"root": str(other)})
    with pytest.raises(FrostlineError) as raised:
        prepare(setup, tmp_path / "out")
    assert str(raised.value) == (
        "dataset.test_sets.shifted: has 1 image that is also in the data set's train or val split, "
        f"{copied} = {trained} (train); remove them from one of the two"
    )
    (other / copied).unlink()
    tested = index.keys[index.rows("test")[0]]
    shutil.copy(root / tested, other / f"{tested}.png")
    assert len(prepare(setup, tmp_path / "out")) == len(index)


@pytest.mark.parametrize(
    ("test_sets", "sentence"),
    [
        ({"a": {}}, "dataset.test_sets.a: found nothing; a test set of the kind image_folder needs root"),
        ({"a": {"file": "x.csv"}}, "dataset.test_sets.a: found file; a test set of the kind image_folder"),
        ({"a": {"root": "/nowhere"}}, "dataset.test_sets.a.root: /nowhere doesn't exist: give the folder"),
    ],
)  # fmt: skip
def test_places_that_do_not_fit(root, tmp_path, test_sets, sentence):
    with pytest.raises(FrostlineError, match=re.escape(sentence)):
        prepare(with_tests(image_folder(root), **test_sets), tmp_path / "out")


def test_other_classes_and_kinds_are_refused(root, tmp_path):
    other = plant(tmp_path / "other", ("cat", "fix"), seed=40_000)
    with pytest.raises(FrostlineError, match=r"test_sets\.a: has the class 'fix', which the training images"):
        prepare(with_tests(image_folder(root), a={"root": str(other)}), tmp_path / "out")
    with pytest.raises(FrostlineError, match="data sets of the kind digits have no further test sets; allow"):
        prepare(with_tests(packaged("digits"), a={"root": str(other)}), tmp_path / "out")


@pytest.mark.parametrize("names", [None, ["z", "y", "x"]], ids=["numbers", "names"])
def test_arrays_with_fewer_classes_than_the_data_set(tmp_path, names):
    images = np.random.default_rng(0).integers(0, 255, (48, 8, 8), dtype=np.uint8)
    for name, labels, part in (
        ("a", np.arange(24) % 3, images[:24]),
        ("b", np.arange(24) % 2 + 1, images[24:]),
    ):
        np.savez(
            tmp_path / f"{name}.npz", images=part, labels=labels if names is None else np.array(names)[labels]
        )
    columns = {**COLUMNS, "image": "images", "label": "labels"}
    fields = {"columns": columns, "group": None, "classes": ["z", "y", "x"]}
    setup = packaged("npz", file=str(tmp_path / "a.npz"), **fields)
    prepare(with_tests(setup, b={"file": str(tmp_path / "b.npz")}), tmp_path / "out")
    index = Index.read(tmp_path / "out" / "test_sets" / "b")
    assert index.classes == ("z", "y", "x")
    assert index.labels.tolist() == [1, 2] * 12
    np.savez(tmp_path / "b.npz", images=images[24:], labels=np.arange(24) % 4)
    if names is None:
        with pytest.raises(FrostlineError, match=r"b\.file: .* row 3 has label 3; allowed: 0 to 2"):
            prepare(with_tests(setup, b={"file": str(tmp_path / "b.npz")}), tmp_path / "again")


def test_a_saved_data_set_with_fewer_classes(tmp_path):
    feature = {"image": {"_type": "Image"}, "label": {"names": ["c", "a", "b"], "_type": "ClassLabel"}}
    save(tmp_path / "a", features=feature, label=pyarrow.array([i % 3 for i in range(12)]))
    save(tmp_path / "b", seed=500, features=feature, label=pyarrow.array([i % 2 * 2 for i in range(12)]))
    fields = {"columns": COLUMNS, "group": None, "classes": None}
    setup = packaged("huggingface", path=str(tmp_path / "a"), **fields)
    prepare(with_tests(setup, b={"path": str(tmp_path / "b")}), tmp_path / "out")
    index = Index.read(tmp_path / "out" / "test_sets" / "b")
    assert index.classes == ("c", "a", "b")
    assert index.labels.tolist() == [0, 2] * 6
