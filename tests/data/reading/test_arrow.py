"""Hugging Face data sets on disk, written here as `save_to_disk` of datasets 4 writes them."""

import json

import numpy as np
import pyarrow
import pytest
from tests.data.tables import COLUMNS
from tests.data.trees import encoded, packaged, picture

from frostline.console.errors import FrostlineError
from frostline.data.loading.pixels import load_pixels
from frostline.data.prepared.index import PreparedData
from frostline.data.reading.sources import name_of, open_source
from frostline.models.input_spec import InputSpec
from frostline.preparation.stage import prepare

NAMES = ["dog", "cat"]
FEATURES = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}


def save(folder, count=12, seed=0, shards=2, features=FEATURES, **columns):
    """Write a saved `Dataset`; return its encoded images."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [encoded(picture(seed + i), "PNG") for i in range(count)]
    table = pyarrow.table(
        {
            "image": pyarrow.array([{"bytes": content, "path": None} for content in images]),
            "label": [i % 2 for i in range(count)],
            **columns,
        }
    )
    files = []
    for shard in range(shards):
        part = table.slice(shard * count // shards, count // shards)
        files.append(f"data-{shard:05}-of-{shards:05}.arrow")
        with pyarrow.ipc.new_stream(str(folder / files[-1]), part.schema) as stream:
            stream.write_table(part)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in files]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return images


def save_splits(folder, **splits):
    folder.mkdir()
    for number, (split, count) in enumerate(splits.items()):
        save(folder / split, count, seed=1000 * number)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


def config(path, classes=None, columns=COLUMNS, **fields):
    return packaged("huggingface", path=str(path), group=None, classes=classes, columns=columns, **fields)


def opened(path, **fields):
    return open_source(config(path, **fields).dataset)


def test_a_dataset(tmp_path):
    images = save(tmp_path / "my pets")
    source = opened(tmp_path / "my pets")
    assert source.classes == ("dog", "cat")
    assert source.rows.labels.tolist() == [0, 1] * 6
    assert [source.store.read(key) for key in source.rows.keys] == images
    assert name_of(config(tmp_path / "my pets").dataset) == "my pets"
    assert opened(tmp_path / "my pets", classes=["cat", "dog"]).rows.labels.tolist() == [1, 0] * 6


def test_a_dataset_dict_has_splits_of_its_own(tmp_path):
    save_splits(tmp_path / "x", test=4, train=12, validation=6)
    source = opened(tmp_path / "x", val=None, test=None)
    assert source.rows.splits.tolist() == ["train"] * 12 + ["val"] * 6 + ["test"] * 4
    assert source.rows.keys[:2] == ["train/00", "train/01"]


def test_prepare_and_pixels(tmp_path):
    save_splits(tmp_path / "x", train=20, test=6)
    setup = config(tmp_path / "x", val=0.2, test=None)
    index = prepare(setup, tmp_path / "out")
    assert (index.kind, index.storage, len(index.rows("val"))) == ("huggingface", "files", 4)
    spec = InputSpec(16, 3, "bilinear", 1.0, (0.5,) * 3, (0.5,) * 3)
    data = PreparedData(setup.dataset, index, tmp_path / "out")
    pixels = load_pixels(data, np.arange(len(index)), spec, scratch=tmp_path)
    expected = np.asarray(picture(1003).convert("RGB").crop((2, 0, 38, 36)).resize((16, 16)))
    assert pixels.shape == (26, 3, 16, 16)
    assert abs(pixels[23].numpy().mean() - expected.mean()) < 3


def test_labels_may_be_text_and_groups_and_weights_columns(tmp_path):
    features = {"image": {"_type": "Image"}, "label": {"dtype": "string", "_type": "Value"}}
    labels, patients = ["b", "a", "c"] * 4, [7, 8, 9] * 4
    save(tmp_path / "x", features=features, label=labels, patient=patients, weight=[0.5] * 12)
    source = opened(tmp_path / "x", columns={**COLUMNS, "group": "patient"})
    assert source.classes == ("a", "b", "c")
    assert source.rows.groups.tolist() == list(map(str, patients))
    assert source.rows.weights.tolist() == [0.5] * 12


def test_the_identity_changes_with_the_files(tmp_path):
    save(tmp_path / "x")
    before = opened(tmp_path / "x").identity()
    assert opened(tmp_path / "x").identity() == before
    save(tmp_path / "x", seed=1)
    assert opened(tmp_path / "x").identity() != before


def remove(name):
    return lambda folder: (folder / name).unlink()


def overwrite(name, content):
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (
            remove("state.json"),
            "has no state.json: give a folder that save_to_disk of Hugging Face's datasets",
        ),
        (remove("data-00001-of-00002.arrow"), "data-00001-of-00002.arrow is missing in"),
        (overwrite("state.json", b"{"), "state.json is damaged: copy or save it again"),
        (overwrite("data-00000-of-00002.arrow", b"x"), "is damaged ("),
        (lambda folder: save(folder, label=[None] * 12), "row 0 of x has no label: give it one, or remove"),
        (
            overwrite("dataset_dict.json", b'{"splits": ["extra"]}'),
            "has the split 'extra'; did you mean 'train'? (allowed: test, train, val): rename it",
        ),
    ],
)
def test_folders_that_are_damaged(tmp_path, damage, sentence):
    save(tmp_path / "x")
    damage(tmp_path / "x")
    with pytest.raises(FrostlineError) as raised:
        opened(tmp_path / "x")
    assert sentence in str(raised.value)


def test_columns_and_images_that_are_missing(tmp_path):
    save(tmp_path / "x", image=["1.png"] * 12)
    with pytest.raises(FrostlineError, match="12 files that can't be used: 00 is not an encoded image: save"):
        prepare(config(tmp_path / "x"), tmp_path / "out")
    with pytest.raises(FrostlineError, match=r"has no column 'img' \(dataset.columns.image\); did you mean"):
        opened(tmp_path / "x", columns={**COLUMNS, "image": "img"})
    with pytest.raises(FrostlineError, match="does not exist: give a folder that save_to_disk"):
        opened(tmp_path / "y")


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (
            {"label": ["cat"] * 12},
            "row 0 of hf has the label 'cat'; allowed: 0 to 1, one for each name of its",
        ),
        ({"label": [0] * 11 + [7]}, "has the label '7'; allowed: 0 to 1"),
        ({"label": [[0]] * 12}, "column 'label' holds list<item: int64>; allowed: text, numbers, booleans"),
        ({"label": [0] * 11 + [-1]}, "row 11 of hf has no label: give it one, or remove it"),
        ({"weight": [1.0] * 11 + [None]}, "has the weight ''; write a number such as 0.5"),
        ({"weight": ["heavy"] * 12}, "has the weight 'heavy'; write a number such as 0.5"),
        ({"group": [1.0] * 11 + [float("nan")]}, "1 images have no group"),
    ],
)
def test_columns_that_hold_something_else(tmp_path, columns, sentence):
    save(tmp_path / "hf", shards=1, **columns)
    with pytest.raises(FrostlineError) as raised:
        opened(tmp_path / "hf")
    assert sentence in str(raised.value).replace("element:", "item:")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("state.json", {"_data_files": 3}),
        ("state.json", {"_data_files": [{"name": "x.arrow"}]}),
        ("state.json", []),
        ("dataset_dict.json", {"splits": 3}),
    ],
)
def test_damaged_records_of_a_data_set(tmp_path, file, content):
    save(tmp_path / "hf")
    (tmp_path / "hf" / file).write_text(json.dumps(content))
    with pytest.raises(FrostlineError, match=f"{file} is damaged: copy or save it again"):
        opened(tmp_path / "hf")


@pytest.mark.parametrize(
    "feature", [{"_type": "Sequence"}, {"_type": "List"}, []], ids=["datasets 3", "datasets 4", "datasets 1"]
)
def test_lists_of_class_labels_are_several_labels(tmp_path, feature):
    kind = {"names": NAMES, "_type": "ClassLabel"}
    listed = {**feature, "feature": kind} if feature else [kind]
    sets = [[[], [1], [1, 0]][i % 3] for i in range(12)]
    save(tmp_path, features={**FEATURES, "objects": listed}, objects=pyarrow.array(sets))
    columns = {**COLUMNS, "label": "objects"}
    source = opened(tmp_path, columns=columns, task="multi_label")
    assert source.classes == tuple(NAMES)
    assert source.rows.labels[:3].tolist() == [[0, 0], [0, 1], [1, 1]]
    index = prepare(config(tmp_path, columns=columns, task="multi_label"), tmp_path / "data")
    assert index.counts()["train"] == pytest.approx({"dog": 2, "cat": 5}, abs=1)


def test_several_labels_as_names_cells_and_columns(tmp_path):
    sets = [[[], ["cat"], ["dog", "cat"]][i % 3] for i in range(12)]
    marks = {name: pyarrow.array([name in own for own in sets]) for name in NAMES}
    cells = pyarrow.array(["|".join(own) for own in sets])
    missing = pyarrow.array([[*own, None] for own in sets])
    save(tmp_path, features={}, names=pyarrow.array(sets), missing=missing, cells=cells, **marks)
    expected = [[int(name in own) for name in sorted(NAMES)] for own in sets]
    for column in ("names", "missing", "cells"):
        source = opened(tmp_path, columns={**COLUMNS, "label": column}, task="multi_label")
        assert (source.classes, source.rows.labels.tolist()) == (("cat", "dog"), expected)
    source = opened(
        tmp_path, columns={**COLUMNS, "labels": NAMES}, classes=["cat", "dog"], task="multi_label"
    )
    assert (source.classes, source.rows.labels.tolist()) == (("cat", "dog"), expected)


def test_lists_that_hold_no_classes_are_errors(tmp_path):
    listed = {"_type": "List", "feature": {"names": NAMES, "_type": "ClassLabel"}}
    numbers = pyarrow.array([[7]] * 12)
    save(tmp_path / "photos", features={**FEATURES, "objects": listed}, objects=numbers)
    with pytest.raises(
        FrostlineError, match=r"row 0 of photos has the labels '\[7\]' \(7 is not the number of one of its 2"
    ):
        opened(tmp_path / "photos", columns={**COLUMNS, "label": "objects"}, task="multi_label")


@pytest.mark.parametrize("kind", [int, float])
def test_vectors_of_0_and_1_are_no_lists_of_names(tmp_path, kind):
    vectors = pyarrow.array([[kind(i % 3 == k) for k in range(3)] for i in range(12)])
    save(tmp_path, features={}, objects=vectors)
    with pytest.raises(
        FrostlineError, match=r"has labels such as \[1(\.0)?, .*: give lists of names, or a column"
    ):
        opened(tmp_path, columns={**COLUMNS, "label": "objects"}, task="multi_label")


def test_words_for_missing_values_are_named(tmp_path):
    save(tmp_path, features={}, label=pyarrow.array(["nan", "cat"] * 6))
    assert opened(tmp_path).warnings == [
        "the label 'nan' is taken as a name (name it in dataset.classes if it is one); leave the cell empty "
        "if there is none"
    ]
    assert not opened(tmp_path, classes=["nan", "cat"]).warnings
