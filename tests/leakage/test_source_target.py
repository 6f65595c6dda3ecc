"""Images that the target is measured on, in the source; and the contact sheets of those that look alike."""

import io
import json
import shutil
from itertools import product

import numpy as np
import pytest
from PIL import Image
from tests.data.trees import encoded, image_folder, packaged, picture, plant

from frostline.console.errors import FrostlineError
from frostline.data.prepared.index import PreparedData
from frostline.duplicates.contact_sheet import SIDE
from frostline.leakage.source_target import check_source
from frostline.leakage.stage import check_study
from frostline.preparation.stage import prepare
from frostline.schema import Leakage, Prepare


def prepared(setup, folder):
    prepare(setup, folder)
    return PreparedData.read(setup.dataset, folder)


def of_split(data, split):
    """The first key of a split."""
    return data.index.keys[data.index.rows(split)[0]]


@pytest.fixture
def folders(tmp_path):
    """Two data sets without common images, of large images."""
    roots = tmp_path / "source", tmp_path / "target"
    for number, root in enumerate(roots):
        for label, name in enumerate(("cat", "dog")):
            (root / name).mkdir(parents=True)
            for i in range(10):
                picture(10_000 * number + 1000 * label + i, (120, 100)).save(root / name / f"{i}.png")
    return roots


@pytest.mark.parametrize(
    ("split", "leaks"), [("train", False), ("val", True), ("test", True)], ids=["train", "val", "test"]
)
def test_an_identical_image_is_an_error_where_the_target_is_measured(folders, tmp_path, split, leaks):
    source_root, target_root = folders
    target = prepared(image_folder(target_root), tmp_path / "target-data")
    key = of_split(target, split)
    source = prepared(image_folder(source_root), tmp_path / "source-data")
    place = of_split(source, "train")
    # In another format: pixels are compared, not bytes.
    (source_root / place).unlink()
    Image.open(target_root / key).save((source_root / place).with_suffix(".bmp"))
    source = prepared(image_folder(source_root), tmp_path / "source-data")
    copied = place.replace(".png", ".bmp")
    if source.index.splits[source.index.keys.index(copied)] != "train":
        pytest.skip("the draw moved the image")
    if not leaks:
        assert check_source(source, target) == []
        return
    with pytest.raises(FrostlineError) as raised:
        check_source(source, target)
    assert str(raised.value) == (
        f"source: source has 1 image that is also in target, on which the target is measured: {copied} "
        f"(train) = {key} ({split}); remove them from the source, or choose another source"
    )


@pytest.mark.parametrize(
    ("ending", "options"),
    [
        (".png", {"convert": "RGB"}),
        (".png", {"convert": "RGBA"}),
        (".png", {"convert": "P"}),
        (".gif", {}),
        (".webp", {"lossless": True}),
    ],
    ids=["RGB", "RGBA", "palette", "GIF", "WebP"],
)
def test_a_small_grey_image_is_the_same_when_stored_as_colour(ending, options, tmp_path):
    generator = np.random.default_rng(0)
    for name in ("source", "target"):
        for split, label in product(("train", "val", "test"), ("cat", "dog")):
            folder = tmp_path / name / split / label
            folder.mkdir(parents=True)
            Image.fromarray(generator.integers(0, 256, (28, 28), dtype=np.uint8)).save(folder / "0.png")
    grey = Image.open(tmp_path / "source" / "train" / "cat" / "0.png")
    copy = grey.convert(options["convert"]) if "convert" in options else grey
    copy.save(tmp_path / "target" / "test" / "cat" / f"1{ending}", **{**options, "convert": None})
    source, target = (
        prepared(image_folder(tmp_path / name), tmp_path / f"{name}-data") for name in ("source", "target")
    )
    with pytest.raises(FrostlineError, match=rf"train/cat/0.png \(train\) = test/cat/1{ending} \(test\)"):
        check_source(source, target)


def test_near_duplicates_are_a_warning(folders, tmp_path):
    source_root, target_root = folders
    target = prepared(image_folder(target_root), tmp_path / "target-data")
    key = of_split(target, "test")
    for name in ("cat", "dog"):
        Image.open(target_root / key).save(source_root / name / f"copy of {name}.jpg", quality=60)
    shutil.rmtree(source_root / "dog")
    shutil.copytree(target_root / "dog", source_root / "dog")  # of other classes' images, some are the same
    for path in (source_root / "dog").iterdir():
        path.unlink()
    for i in range(10):
        picture(90_000 + i, (120, 100)).save(source_root / "dog" / f"{i}.png")
    source = prepared(image_folder(source_root, val=0.1, test=None), tmp_path / "source-data")
    (near,) = check_source(source, target)
    assert "1 image of target looks like one that the pretraining on source sees" in near.warning
    assert f"≈ {key} (test)" in near.warning
    assert [target.index.keys[row] for _, row in near.pairs] == [key]


def test_a_harmful_near_duplicate_is_found_behind_a_harmless_one(folders, tmp_path):
    """Source and target may share images of val; the same ones in the source's train are a leak."""
    source_root, target_root = folders
    target = prepared(image_folder(target_root), tmp_path / "target-data")
    key = of_split(target, "val")
    setup = image_folder(source_root, test=None)
    source = prepared(setup, tmp_path / "source-data")
    in_val, in_train = (
        source.index.keys[source.index.rows(split)[at]] for split, at in (("val", 0), ("train", -1))
    )
    assert in_val < in_train
    for place in (in_val, in_train):
        with (source_root / place).open("wb") as file:
            Image.open(target_root / key).save(file, "JPEG", quality=60 if place == in_val else 80)
    source = prepared(setup, tmp_path / "source-data")
    (near,) = check_source(source, target)
    assert near.warning.endswith(f": {in_train} (train) ≈ {key} (val)")


def test_arrays_and_files_of_small_images_are_compared_by_exact_pixels(tmp_path):
    digits = prepared(packaged("digits"), tmp_path / "digits")
    images, root = digits.index.images(tmp_path / "digits"), tmp_path / "written"
    for row in digits.index.rows("test")[:40].tolist():
        folder = root / f"class {digits.index.labels[row] % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row}.png").write_bytes(encoded(Image.fromarray(images[row]), "PNG"))
    written = prepared(image_folder(root, test=None), tmp_path / "written-data")
    worst_first = (
        r"source: written has 40 images that are also in digits, on which the target is measured "
        r"\(\d+ of its train split in test, \d+ of its val split in test\): \S+ \S+ \(train\)"
    )
    with pytest.raises(FrostlineError, match=worst_first):
        check_source(written, digits)
    assert check_source(digits, digits) == []  # the same data set with the same splits
    changed = np.clip(images[row].astype(int) + 1, 0, 255).astype(np.uint8)
    shutil.rmtree(root)
    plant(root)
    Image.fromarray(changed).save(root / "cat" / "x.png")
    assert check_source(prepared(image_folder(root), tmp_path / "other-data"), digits) == []


def test_over_folds_every_image_of_the_target_is_measured(folders, tmp_path):
    source_root, target_root = folders
    folds = image_folder(target_root).dataset.model_copy(update={"folds": 2})
    target = prepared(Prepare(dataset=folds), tmp_path / "target-data")
    key = of_split(target, "train")
    source = prepared(image_folder(source_root, test=None), tmp_path / "source-data")
    Image.open(target_root / key).save(source_root / of_split(source, "train"))
    source = prepared(image_folder(source_root, test=None), tmp_path / "source-data")
    with pytest.raises(FrostlineError, match=f"= {key} \\(test\\)"):
        check_source(source, target)
    first = folds.model_copy(update={"fold": 0})
    assert check_source(source, PreparedData.read(first, tmp_path / "target-data")) == []


def test_the_stage_writes_warnings_and_a_sheet(folders, tmp_path):
    source_root, target_root = folders
    setups = image_folder(source_root, test=None), image_folder(target_root)
    config = Leakage(source=setups[0], target=setups[1])
    target = prepared(setups[1], tmp_path / "target-data")
    prepare(setups[0], tmp_path / "source-data")
    places = tmp_path / "source-data", tmp_path / "target-data", tmp_path / "out"
    assert check_study(config, *places) == []
    assert sorted(path.name for path in places[2].iterdir()) == ["leakage.json"]
    for split in ("val", "test"):
        tested = Image.open(target_root / of_split(target, split))
        tested.save(source_root / f"cat/of {split}.jpg", quality=60)
    prepare(setups[0], places[0])
    (warning,) = check_study(config, *places)
    assert json.loads((places[2] / "leakage.json").read_text()) == {"warnings": [warning]}
    assert warning.index("(test)") < warning.index("(val)") if "(val)" in warning else "(test)" in warning
    before = (places[2] / "near-duplicates.png").read_bytes()
    assert Image.open(io.BytesIO(before)).height > SIDE
    assert check_study(config, *places) == [warning]
    assert (places[2] / "near-duplicates.png").read_bytes() == before


def test_the_contact_sheet_shows_the_pairs_across_splits(folders, tmp_path):
    root = folders[0]
    first = prepared(image_folder(root), tmp_path / "before")
    tested = of_split(first, "test")
    Image.open(root / tested).resize((90, 75)).save(root / tested.replace(".png", " copy.jpg"))
    index = prepare(image_folder(root, seed=3), tmp_path / "out")
    splits = dict(zip(index.keys, index.splits, strict=True))
    apart = splits[tested] != splits[tested.replace(".png", " copy.jpg")]
    assert (tmp_path / "out" / "near-duplicates.png").is_file() == apart
    assert any("near-duplicates.png shows them" in warning for warning in index.warnings) == apart
