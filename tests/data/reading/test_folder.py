import re
import shlex
import shutil
from pathlib import Path

import pytest
from tests.data.trees import encoded, image_folder, picture, plant, plant_splits

from frostline.console.errors import FrostlineError
from frostline.data.reading.folder import scan
from frostline.data.reading.sources import open_source
from frostline.preparation.stage import prepare


def test_classes_are_numbered_by_name_and_files_are_in_order(tmp_path):
    plant(tmp_path, ("dog", "10", "9", "Éa"), images=2)
    tree = scan(tmp_path)
    assert tree.classes == ("10", "9", "dog", "Éa")
    assert [(f.key, f.label, f.split) for f in tree.files[:3]] == [
        ("10/0.png", 0, ""),
        ("10/1.png", 0, ""),
        ("9/0.png", 1, ""),
    ]


def test_folders_inside_a_class_belong_to_it(tmp_path):
    plant(tmp_path)
    (tmp_path / "cat" / "old" / "older").mkdir(parents=True)
    picture(9).save(tmp_path / "cat" / "old" / "older" / "x.png")
    assert "cat/old/older/x.png" in {f.key for f in scan(tmp_path).files if f.label == 0}


def test_a_link_inside_the_data_set_is_followed(tmp_path):
    plant(tmp_path / "root", ("fox", "dog"), seed=50)
    (tmp_path / "root" / "cat").symlink_to("fox")
    (tmp_path / "linked").symlink_to(tmp_path / "root")
    for root in (tmp_path / "root", tmp_path / "linked"):
        assert scan(root).classes == ("cat", "dog", "fox")
        assert scan(root).problems == ()


@pytest.mark.parametrize("place", ["dog", "cat/more", "cat/x.png"])
@pytest.mark.parametrize("kind", ["absolute", "relative", "chained"])
def test_a_link_that_leaves_the_data_set_is_refused(tmp_path, place, kind):
    root = plant(tmp_path / "root", ("cat", "fox"), seed=50)
    plant(tmp_path / "elsewhere", ("dog",))
    target = tmp_path / "elsewhere" / "dog" / ("0.png" if place.endswith(".png") else "")
    if kind == "relative":
        target = Path("../" * (place.count("/") + 1)) / target.relative_to(tmp_path)
    if kind == "chained":
        (tmp_path / "link").symlink_to(target)
        target = tmp_path / "link"
    (root / place).symlink_to(target)
    (problem,) = scan(root).problems
    assert problem == (
        place,
        f"is a link to {target}, outside the data set: copy what it points to in its place",
    )
    with pytest.raises(FrostlineError, match=r"a file that can't be used: .* outside the data set"):
        prepare(image_folder(root), tmp_path / "out")


@pytest.mark.parametrize("store", ["cache/files/md5/01/" + "a" * 30, "repo/.git/annex/objects/Xy/1.png"])
def test_links_into_dvcs_and_git_annexes_stores_are_followed(tmp_path, store):
    root = plant(tmp_path / "root")
    (tmp_path / store).parent.mkdir(parents=True)
    (root / "cat" / "0.png").rename(tmp_path / store)
    (root / "cat" / "0.png").symlink_to(tmp_path / store)
    assert scan(root).problems == ()


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "val", "test"), {"train", "val", "test"}),
        (("train", "valid", "test"), {"train", "val", "test"}),
        (("Training", "validation", "testing"), {"train", "val", "test"}),
        (("train", "test"), {"train", "test"}),
        (("train",), {"train"}),
    ],
)
def test_split_folders(tmp_path, folders, splits):
    plant_splits(tmp_path, folders)
    tree = scan(tmp_path)
    assert {f.split for f in tree.files} == splits
    assert tree.classes == ("cat", "dog")
    assert all(f.key.split("/")[0] in folders for f in tree.files)


@pytest.mark.parametrize(
    "folders",
    [
        ("training_set", "test_set"),
        ("seg_train", "seg_test", "seg_pred"),
        ("train2017", "val2017"),
        ("Train Images", "Validation Images"),
        ("flowers-train", "flowers-valid"),
        ("trainset", "testset"),
        ("training_set", "test_set", "docs"),
    ],
)
def test_class_folders_that_are_named_like_splits_are_refused(tmp_path, folders):
    plant_splits(tmp_path, folders)
    shutil.rmtree(tmp_path / folders[1] / "dog")
    named = ", ".join(sorted({*folders} - {"docs"}))
    with pytest.raises(FrostlineError) as caught:
        scan(tmp_path)
    assert str(caught.value) == (
        f"dataset.root: {tmp_path} has the class folders {named}, whose names are those of splits: if they "
        f"are classes, rename them; if not, name them train, val and test, or use one of them alone: "
        f"{shlex.quote(f'dataset.root={tmp_path / folders[0]}')}"
    )
    assert scan(tmp_path / folders[0]).classes == ("cat", "dog")
    for old, new in zip(folders, ("train", "test", "val"), strict=False):
        (tmp_path / old).rename(tmp_path / new)
    with pytest.raises(FrostlineError, match="splits with different classes: 'dog' in train"):
        scan(tmp_path)


def test_a_train_folder_beside_flat_test_images_is_refused(tmp_path):
    plant(tmp_path / "train")
    plant(tmp_path, ("test_images",), seed=50)
    with pytest.raises(FrostlineError, match="has the class folders test_images, train, whose names are"):
        scan(tmp_path)


def test_a_nested_split_is_named_where_its_classes_are(tmp_path):
    plant(tmp_path / "seg_train" / "seg_train")
    plant(tmp_path / "seg_test" / "seg_test")
    with pytest.raises(FrostlineError, match=r"dataset\.root=\S+/seg_train/seg_train$"):
        scan(tmp_path)


@pytest.mark.parametrize(
    "classes",
    [
        ("dev", "prod", "test"),
        ("steam_train", "toy_train"),
        ("blood_test", "steam_train"),
        ("train", "train_tracks", "bus"),
    ],
)
def test_classes_whose_names_contain_a_split(tmp_path, classes):
    plant(tmp_path, classes)
    assert scan(tmp_path).classes == tuple(sorted(classes))


def test_a_class_may_be_called_train(tmp_path):
    plant(tmp_path, ("bus", "train", "tram"))
    assert scan(tmp_path).classes == ("bus", "train", "tram")
    assert {f.split for f in scan(tmp_path).files} == {""}


def test_split_folders_beside_others_are_ambiguous(tmp_path):
    plant_splits(tmp_path)
    plant(tmp_path, ("fox",))
    with pytest.raises(
        FrostlineError, match=r"has both split folders \(test, train\) and others \(fox\): move"
    ):
        scan(tmp_path)


def test_splits_without_train(tmp_path):
    plant_splits(tmp_path, ("val", "test"))
    with pytest.raises(FrostlineError, match="has test and val but no train folder: add one"):
        scan(tmp_path)


def test_two_folders_of_one_split(tmp_path):
    plant_splits(tmp_path, ("train", "val", "validation"))
    with pytest.raises(FrostlineError, match="has val and validation, which mean the same split: merge them"):
        scan(tmp_path)


def test_a_flat_split(tmp_path):
    plant_splits(tmp_path)
    for path in (tmp_path / "test").iterdir():
        shutil.rmtree(path)
    picture(9).save(tmp_path / "test" / "x.png")
    with pytest.raises(FrostlineError, match=re.escape("is flat: test/x.png lies in no class folder; put")):
        scan(tmp_path)


def test_a_split_without_classes(tmp_path):
    plant_splits(tmp_path)
    (tmp_path / "val").mkdir()
    with pytest.raises(FrostlineError, match="has no classes in val: add a folder for each, or remove val"):
        scan(tmp_path)


def test_an_empty_class_in_a_split(tmp_path):
    plant_splits(tmp_path)
    (tmp_path / "test" / "dog" / "0.png").rename(tmp_path / "train" / "dog" / "x.png")
    for path in (tmp_path / "test" / "dog").iterdir():
        path.unlink()
    with pytest.raises(FrostlineError, match="has no images in class folder 'test/dog'"):
        scan(tmp_path)


def test_case_differs_between_splits(tmp_path):
    plant_splits(tmp_path)
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "Dog")
    with pytest.raises(FrostlineError, match="differ only by case, 'Dog' and 'dog'"):
        scan(tmp_path)


def test_accents_in_two_encodings_are_one_name(tmp_path):
    plant(tmp_path, ("caf\u00e9", "cafe\u0301"))
    with pytest.raises(FrostlineError, match="differ only by their Unicode form"):
        scan(tmp_path)


def test_an_image_beside_the_class_folders_is_a_problem(tmp_path):
    plant(tmp_path)
    picture(9).save(tmp_path / "x.png")
    assert scan(tmp_path).problems == (("x.png", "lies beside the class folders: move it into one"),)


def test_other_files_and_hidden_ones_are_counted(tmp_path):
    plant(tmp_path)
    for name in ("labels.csv", "cat/Thumbs.db", "cat/.DS_Store"):
        (tmp_path / name).write_bytes(b"x")
    assert scan(tmp_path).warnings == (
        "1 hidden file was left out: cat/.DS_Store",
        "2 files whose names are not images' were left out: cat/Thumbs.db, labels.csv",
    )


def test_what_archives_leave_is_hidden(tmp_path):
    plant(tmp_path)
    (tmp_path / "__MACOSX" / "cat").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "cat" / "._0.png").write_bytes(b"x")
    assert scan(tmp_path).classes == ("cat", "dog")
    assert scan(tmp_path).warnings == ("1 hidden folder was left out: __MACOSX",)


def test_a_root_that_is_a_file_or_a_dangling_link_or_a_loop(tmp_path):
    (tmp_path / "photos.zip").write_bytes(encoded(picture(1), "PNG"))
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for name, sentence in (
        ("photos.zip", "is a file: give a folder (unpack it, if it is an archive)"),
        ("gone", "(a link to nowhere) doesn't exist: give the folder of the images"),
        ("loop", "is a link that leads back to itself (a symlink loop): remove it"),
    ):
        with pytest.raises(FrostlineError, match=re.escape(sentence)):
            scan(tmp_path / name)


def test_an_empty_root(tmp_path):
    with pytest.raises(FrostlineError, match="is empty: put the images into folders named after"):
        scan(tmp_path)


def test_a_broken_class_folder_is_named_with_what_follows_from_it(tmp_path):
    plant(tmp_path, ("cat",))
    (tmp_path / "dog").symlink_to("gone")
    with pytest.raises(
        FrostlineError, match=r"only one class, 'cat': .*; also, dog is a link to gone, which"
    ):
        open_source(image_folder(tmp_path).dataset)


def test_a_deep_tree_is_walked_once(tmp_path: Path):
    """Two links that lead into each other's folder end, and each path is reported once."""
    plant(tmp_path)
    (tmp_path / "cat" / "dogs").symlink_to("../dog")
    (tmp_path / "dog" / "cats").symlink_to("../cat")
    loops = [p.key for p in scan(tmp_path).problems]
    assert loops == ["cat/dogs/cats", "dog/cats/dogs"]


# ── nothing found: what is there instead ────────────────────────────────────────────────────────────────────


def files(root, **counts):
    """Make files: folder__suffix=count, where the suffix has no dot."""
    for name, count in counts.items():
        folder, _, ending = name.rpartition("__")
        (root / folder.replace("__", "/")).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / folder.replace("__", "/") / (f"{i}.{ending}" if ending else f"{i}")).write_bytes(b"x")


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({}, r"is empty: put the images into folders named after their classes"),
        ({"__dat": 3, "__csv": 1}, r"has no class folders and no images, but \.dat ×3, \.csv ×1: put"),
        ({"__zip": 1}, r"has no class folders and no images, but \.zip ×1: put"),
        ({".cache__png": 2}, r"has nothing but hidden folders \(\.cache\): put"),
        (
            {"__heic": 4},
            r"is flat: 0\.heic, 1\.heic, 2\.heic and 1 more lie in no class folder \(\.heic ×4\); put",
        ),
        (
            {"cat__dat": 12, "cat__dcm": 2, "cat__": 1, "dog__png": 2},
            r"has no images in class folder 'cat' but \.dat ×12, \.dcm ×2, no suffix ×1, which can't"
            r" be read as images: convert them to JPEG or PNG, add some or remove the folder",
        ),
        (
            {"cat__dat": 2, "dog__tgz": 1},
            r"has no images in 2 class folders, 'cat', 'dog' but \.dat ×2, \.tgz ×1, which can't be"
            r" read as images",
        ),
        (
            {"images__cat__png": 2, "images__dog__png": 2},
            r"has only one class, 'images', which holds the folders cat, dog: if these are the classes or "
            r"the splits, set dataset\.root=.*/images$",
        ),
        (
            {"data__train__cat__png": 1, "data__val__cat__png": 1},
            r"has only one class, 'data', which holds the folders train, val: if",
        ),
        (
            {f"{split}__{name}__png": 2 for split in ("train", "eval") for name in ("cat", "dog")},
            r"has train and eval, which both hold cat, dog: if they are splits, rename eval to val or test; "
            r"if they are classes, rename train to something else",
        ),
    ],
)
def test_nothing_found_says_what_is_there(tmp_path, tree, sentence):
    files(tmp_path, **tree)
    with pytest.raises(FrostlineError, match=sentence):
        scan(tmp_path)


def test_the_advice_on_a_folder_too_high_works(tmp_path):
    plant(tmp_path / "all" / "images")
    with pytest.raises(FrostlineError) as raised:
        scan(tmp_path / "all")
    advised = Path(str(raised.value).rpartition("dataset.root=")[2])
    assert scan(advised).classes == ("cat", "dog")


def test_a_train_among_the_vehicles_is_a_class(tmp_path):
    files(tmp_path, train__png=2, bus__png=2)
    assert scan(tmp_path).classes == ("bus", "train")


def test_classes_that_hold_the_same_folders_are_warned_of(tmp_path):
    for place in ("london", "paris"):
        plant(tmp_path / place)
    (warning,) = scan(tmp_path).warnings
    assert warning.startswith(
        "the classes are london, paris; each holds the folders cat, dog, which are passed"
    )


def test_many_files_left_out_are_counted_by_kind(tmp_path):
    plant(tmp_path)
    files(tmp_path, cat__dat=5, dog__txt=1)
    (warning,) = scan(tmp_path).warnings
    assert warning == (
        "6 files whose names are not images' were left out (.dat ×5, .txt ×1): cat/0.dat, cat/1.dat, "
        "cat/2.dat and 3 more"
    )


def test_images_without_a_suffix_are_to_be_renamed_not_converted(tmp_path):
    plant(tmp_path, ("cat", "dog"), images=2)
    for path in list((tmp_path / "dog").iterdir()):
        path.rename(path.with_suffix(""))
    with pytest.raises(
        FrostlineError, match=r"'dog' but no suffix ×2, with the content of images: give the"
    ) as c:
        scan(tmp_path)
    assert "suffix, such as .jpg or .png" in str(c.value)
    for path in (tmp_path / "dog").iterdir():
        path.write_text("no image")
    with pytest.raises(FrostlineError, match=r"no suffix ×2, which can't be read as images: convert them"):
        scan(tmp_path)


def test_the_root_of_the_file_system_is_no_data_set():
    with pytest.raises(FrostlineError, match=r"/ is the root of the file system: give the folder of the ima"):
        scan(Path("/"))


def test_a_link_that_vanishes_is_a_problem(tmp_path, monkeypatch):
    root = plant(tmp_path / "photos", ("cat", "dog"), images=2)
    (root / "dog" / "gone").symlink_to(root / "nowhere")
    (root / "dog" / "gone.png").symlink_to(root / "nowhere")
    monkeypatch.setattr(Path, "readlink", lambda path: path.stat())  # as in /proc, which has no target
    reasons = {problem.key: problem.reason for problem in scan(root).problems}
    assert reasons["dog/gone.png"] == "is missing: restore it"
