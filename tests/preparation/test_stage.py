import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.trees import encoded, image_folder, packaged, picture, plant, plant_splits
from tests.forks import FORKS

from frostline.base.files import write_checksums
from frostline.console.errors import FrostlineError, OutOfResources
from frostline.console.progress import no_progress
from frostline.data.prepared.index import Index
from frostline.preparation.stage import prepare, prepare_cached, set_aside_if_damaged
from frostline.schema import Prepare

DOCS = Path(__file__).parents[2] / "docs" / "extend.md"


def counts(index: Index) -> tuple[int, ...]:
    return tuple(len(index.rows(split)) for split in ("train", "val", "test"))


# ── data sets ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "sizes", "side"), [("mnist5k", (3000, 1000, 1000), 28), ("digits", (1078, 362, 357), 8)]
)
def test_a_packaged_data_set(kind, sizes, side, tmp_path):
    index = prepare(packaged(kind), tmp_path / "out")
    assert counts(index) == sizes
    assert index.warnings == ()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dataset.json",
        "images.npy",
        "index.csv",
    ]
    images = np.load(tmp_path / "out" / "images.npy")
    assert images.shape == (sum(sizes), side, side)
    assert index.keys[7] == "0007"
    assert index.sha256[7] == hashlib.sha256(images[7].tobytes()).hexdigest()
    assert (index.widths[7], index.heights[7], index.modes[7]) == (side, side, "L")
    # Every class has the same share of every split, but for rounding.
    for split in index.counts().values():
        assert max(split.values()) - min(split.values()) <= (0 if kind == "mnist5k" else 6)


def test_a_tree(tmp_path):
    root = plant(tmp_path / "pictures", images=10)
    seen: list[int] = []

    @contextmanager
    def progress(description: str, total: int):
        assert (description, total) == ("reading pictures", 20)
        yield lambda n=1, note="": seen.append(n)

    index = prepare(image_folder(root), tmp_path / "out", progress)
    assert sum(seen) == 20
    assert counts(index) == (12, 4, 4)
    assert (index.name, index.classes, index.keys[0]) == ("pictures", ("cat", "dog"), "cat/0.png")
    assert index.sha256[0] == hashlib.sha256((root / "cat" / "0.png").read_bytes()).hexdigest()
    assert (index.widths[0], index.heights[0], index.modes[0]) == (40, 36, "RGB")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dataset.json",
        "hashes.npy",
        "index.csv",
    ]


def test_sizes_are_upright(tmp_path):
    root = plant(tmp_path / "pictures")
    exif = Image.Exif()
    exif[0x0112] = 6
    (root / "cat" / "a.jpg").write_bytes(encoded(picture(999), "JPEG", exif=exif))
    index = prepare(image_folder(root), tmp_path / "out")
    row = index.keys.index("cat/a.jpg")
    assert (index.widths[row], index.heights[row]) == (36, 40)


def test_bytes_repeat_and_name_no_place(tmp_path):
    for name in ("one", "two"):
        root = plant(tmp_path / name / "pictures")
        (root / "cat" / "x.jpg").write_bytes(b"")
        prepare(image_folder(root, on_bad_image="skip"), tmp_path / name / "out")
    for file in ("index.csv", "dataset.json"):
        content = (tmp_path / "one" / "out" / file).read_bytes()
        assert content == (tmp_path / "two" / "out" / file).read_bytes()
        assert str(tmp_path).encode() not in content


def test_the_result_does_not_depend_on_the_number_of_threads(tmp_path, monkeypatch):
    root = plant(tmp_path / "pictures", images=40)
    (root / "cat" / "x.jpg").write_bytes(b"")
    config = image_folder(root, on_bad_image="skip")
    for name, processors in (("one", 1), ("many", 8)):
        monkeypatch.setattr("frostline.base.parallel.processors", lambda n=processors: n)
        prepare(config, tmp_path / name)
    for file in ("index.csv", "dataset.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "many" / file).read_bytes()


def test_an_earlier_result_survives_a_failure(tmp_path):
    root = plant(tmp_path / "pictures")
    out = tmp_path / "out"
    before = prepare(image_folder(root), out)
    (root / "cat" / "x.jpg").write_bytes(b"")
    with pytest.raises(FrostlineError):
        prepare(image_folder(root), out)
    assert Index.read(out).fingerprint == before.fingerprint
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


# ── splits ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_own_splits_are_kept(tmp_path):
    root = plant_splits(tmp_path / "pictures", ("train", "valid", "test"))
    index = prepare(image_folder(root, val=None, test=None), tmp_path / "out")
    assert counts(index) == (12, 12, 12)
    assert index.warnings == ()
    folder_of = {"train": "train", "val": "valid", "test": "test"}
    assert all(key.startswith(folder_of[split]) for key, split in zip(index.keys, index.splits, strict=True))


def test_a_share_for_an_own_split_is_not_used_and_says_so(tmp_path):
    root = plant_splits(tmp_path / "pictures", ("train", "val", "test"))
    index = prepare(image_folder(root, val=0.3, test=0.2), tmp_path / "out")
    assert counts(index) == (12, 12, 12)
    assert index.warnings == (  # none of the test split: 0.2 is the default
        "dataset.split.val=0.3 is not used: the data set has a val split of its own, which is used "
        "(set dataset.split.val=null to avoid this warning)",
    )


def test_a_missing_split_is_drawn_from_train(tmp_path):
    root = plant_splits(tmp_path / "pictures", ("train", "test"))
    index = prepare(image_folder(root, val=0.2, test=None), tmp_path / "out")
    assert counts(index) == (10, 2, 12)
    assert {index.keys[row].split("/")[0] for row in index.rows("val")} == {"train"}
    assert index.warnings == (
        "the data set has no val split of its own: 2 of its 12 training images become its val split, "
        "by dataset.split.val=0.2",
    )


def test_a_test_split_that_is_drawn_from_train_is_announced(tmp_path):
    root = plant_splits(tmp_path / "pictures", ("train", "val"))
    index = prepare(image_folder(root, val=None, test=0.5), tmp_path / "out")
    assert counts(index) == (6, 12, 6)
    assert index.warnings == (
        "the data set has no test split of its own: 6 of its 12 training images become its test split, "
        "by dataset.split.test=0.5 (dataset.split.test=null does without one)",
    )


def test_both_may_be_drawn_from_a_lone_train_folder(tmp_path):
    root = plant_splits(tmp_path / "pictures", ("train",))
    index = prepare(image_folder(root), tmp_path / "out")
    assert [warning[:27] for warning in index.warnings] == [
        "the data set has no val spl",
        "the data set has no test sp",
    ]


def test_a_data_set_may_have_no_test_split(tmp_path):
    for name, root, val in (
        ("own", plant_splits(tmp_path / "own", ("train", "val")), None),
        ("drawn", plant(tmp_path / "drawn"), 0.25),
    ):
        index = prepare(image_folder(root, val=val, test=None), tmp_path / f"out-{name}")
        assert len(index.rows("test")) == 0
        assert index.held_out == "val"
        assert index.warnings == ()
        assert Index.read(tmp_path / f"out-{name}").held_out == "val"


def test_no_data_set_is_without_a_val_split(tmp_path):
    root = plant(tmp_path / "pictures")
    with pytest.raises(
        FrostlineError,
        match=re.escape(
            "dataset.split.val is null, which stands for the data set's own val split, and pictures has "
            "none: set a share, such as dataset.split.val=0.2, since every run is measured on the "
            "val split after each epoch"
        ),
    ):
        prepare(image_folder(root, val=None), tmp_path / "out")


def test_the_seed_draws_the_split(tmp_path):
    root = plant(tmp_path / "pictures", images=20)
    splits = [prepare(image_folder(root, seed=seed), tmp_path / f"{seed}").splits for seed in (0, 0, 1)]
    assert (splits[0] == splits[1]).all()
    assert (splits[0] != splits[2]).any()


@pytest.mark.parametrize("seed", range(5))
def test_copies_stay_in_one_split(tmp_path, seed):
    root = plant(tmp_path / "pictures", images=6)
    for i in range(6):
        Image.open(root / "cat" / f"{i}.png").save(root / "cat" / f"copy{i}.bmp")
    index = prepare(image_folder(root, seed=seed), tmp_path / "out")
    split_of = dict(zip(index.keys, index.splits, strict=True))
    assert all(split_of[f"cat/{i}.png"] == split_of[f"cat/copy{i}.bmp"] for i in range(6))
    assert index.warnings == (
        "6 images are exact copies of another; copies stay in one split: "
        "cat/0.png = cat/copy0.bmp, cat/1.png = cat/copy1.bmp, cat/2.png = cat/copy2.bmp and 3 more",
    )


# ── the cache ───────────────────────────────────────────────────────────────────────────────────────────────


def never(description: str, total: int):
    raise AssertionError("nothing should be read")


def test_a_second_run_reads_nothing(tmp_path):
    root = plant(tmp_path / "pictures")
    index, folder = prepare_cached(image_folder(root), tmp_path / "scratch")
    again, same = prepare_cached(image_folder(root), tmp_path / "scratch", never)
    assert same == folder
    assert again.fingerprint == index.fingerprint == Index.read(folder).fingerprint
    assert folder.parent == tmp_path / "scratch" / "data"


def test_the_cache_does_not_care_how_many_labels_a_run_may_use(tmp_path):
    prepare_cached(packaged("digits", shots=3), tmp_path)
    prepare_cached(packaged("digits", fraction=0.5), tmp_path, never)


def test_the_cache_notices_a_change(tmp_path):
    root = plant(tmp_path / "pictures")
    before, folder = prepare_cached(image_folder(root), tmp_path / "scratch")
    picture(999).save(root / "cat" / "new.png")
    after, other = prepare_cached(image_folder(root), tmp_path / "scratch")
    assert other != folder
    assert len(after) == len(before) + 1
    assert prepare_cached(image_folder(root, seed=1), tmp_path / "scratch")[1] != other


@pytest.mark.parametrize("name", ["images.npy", "index.csv", "dataset.json", "checksums.json"])
@pytest.mark.parametrize("how", ["empty", "cut", "zeroed", "garbage", "one byte", "missing"])
def test_a_damaged_cache_is_set_aside_and_made_again(tmp_path, capsys, name, how):
    index, folder = prepare_cached(packaged("digits"), tmp_path)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    damaged = {
        "empty": b"",
        "cut": whole[name][:-7],
        "zeroed": bytes(len(whole[name])),
        "garbage": b"\xff\xfegarbage\0",
        "one byte": whole[name][:-20] + bytes([whole[name][-20] ^ 1]) + whole[name][-19:],
    }
    if how == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(damaged[how])
    capsys.readouterr()
    again, same = prepare_cached(packaged("digits"), tmp_path)
    assert again.fingerprint == index.fingerprint
    assert {path.name: path.read_bytes() for path in same.iterdir()} == whole
    named = r"\w+\.\w+" if name == "checksums.json" else re.escape(name)
    (warning,) = (line for line in capsys.readouterr().err.splitlines() if "warning" in line)
    assert re.fullmatch(
        rf"frostline: warning: {folder} is damaged \(.*{named}.*\); it was set aside as "
        rf"{folder.name}\.damaged and is made again",
        warning,
    )
    assert folder.with_name(f"{folder.name}.damaged").is_dir()


def test_the_command_prepare_sets_a_damaged_cache_aside(tmp_path, capsys):
    config = packaged("digits")
    set_aside_if_damaged(config, tmp_path)
    index, folder = prepare_cached(config, tmp_path)
    set_aside_if_damaged(config, tmp_path)
    assert capsys.readouterr().err == ""
    (folder / "images.npy").write_bytes(bytes((folder / "images.npy").stat().st_size))
    set_aside_if_damaged(config, tmp_path)
    assert "is damaged (the checksum differs: images.npy)" in capsys.readouterr().err
    assert not folder.exists()
    assert prepare_cached(config, tmp_path)[0].fingerprint == index.fingerprint


@pytest.mark.parametrize("there", ["nothing", "the data", "damaged data"])
def test_the_cache_needs_no_right_to_write(tmp_path, read_only, capsys, there):
    config, scratch = image_folder(plant(tmp_path / "pictures")), tmp_path / "scratch"
    expected = prepare(config, tmp_path / "out").fingerprint
    scratch.mkdir()
    if there != "nothing":
        _, folder = prepare_cached(config, scratch)
    if there == "damaged data":
        (folder / "index.csv").write_bytes(b"")
    read_only(scratch)
    index, found = prepare_cached(config, scratch, never if there == "the data" else no_progress)
    assert index.fingerprint == Index.read(found).fingerprint == expected
    assert (found.parent == scratch / "data") == (there == "the data")
    assert ("can't be set aside" in capsys.readouterr().err) == (there == "damaged data")


def test_a_data_folder_needs_no_right_to_write(tmp_path, read_only):
    config = image_folder(plant(tmp_path / "pictures"))
    out = tmp_path / "elsewhere"
    out.mkdir(mode=0o777)
    out.chmod(0o777)
    read_only(tmp_path / "pictures")
    assert len(prepare(config, out / "prepared")) == 12


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    _, folder = prepare_cached(packaged("digits"), tmp_path)
    left = folder.with_name(f".{folder.name}.abcdefgh")
    left.mkdir()
    (left / "images.npy").write_bytes(b"a part")
    prepare_cached(packaged("digits"), tmp_path)
    assert not left.exists()


def test_a_full_disk_and_no_memory_are_one_sentence(tmp_path, monkeypatch):
    root = plant(tmp_path / "pictures")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutOfResources, match="the disk is full"):
            prepare(image_folder(root), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]

    def no_memory(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr("frostline.preparation.stage.examine", no_memory)
    with pytest.raises(OutOfResources, match="there is no memory to examine 12 images; close other programs"):
        prepare(image_folder(root), tmp_path / "out")


def test_processes_side_by_side_prepare_once(tmp_path):
    root = plant(tmp_path / "pictures", images=30)
    with FORKS.Pool(3) as pool:
        results = pool.starmap(_prepare_in_a_process, [(str(root), str(tmp_path / "scratch"))] * 3)
    assert len({fingerprint for fingerprint, _ in results}) == 1
    assert sum(read for _, read in results) == 1


def _prepare_in_a_process(root: str, scratch: str) -> tuple[str, bool]:
    read = False

    @contextmanager
    def progress(description: str, total: int):
        nonlocal read
        read = True
        yield lambda n=1, note="": None

    index, _ = prepare_cached(image_folder(Path(root)), Path(scratch), progress)
    return index.fingerprint, read


# ── the guide ───────────────────────────────────────────────────────────────────────────────────────────────


def block(language: str) -> str:
    """Return the guide's block of code that is about the data set `stripes`."""
    found = re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (about_data,) = (text for text in found if "stripes" in text)
    return about_data


def test_the_guides_plugin_works_as_installed(tmp_path):
    """The guide's two files become an installed package, and its command's overrides what `prepare` gets."""
    code, project = block("python"), block("toml")
    module = re.search(r"^# (\w+)\.py$", code, re.MULTILINE)[1]
    site = tmp_path / "site"
    info = site / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{module}.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    groups = tomllib.loads(project)["project"]["entry-points"]
    points = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in groups.items()
    )
    (info / "entry_points.txt").write_text(points)
    (command,) = (
        line for line in DOCS.read_text().splitlines() if line.startswith("frostline prepare dataset=plugin")
    )
    script = (
        "import sys; from pathlib import Path\n"
        "from frostline.config import compose, stage_configs\n"
        "from frostline.preparation.stage import prepare\n"
        "config, _ = compose.experiment(sys.argv[2:])\n"
        "index = prepare(stage_configs.prepare_config(config, 'target'), Path(sys.argv[1]))\n"
        "print(index.name, len(index), index.widths[0], *index.classes)"
    )
    source = Path(__file__).parents[2] / "src"
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "out"), *command.split()[2:]],
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{source}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stdout, result.returncode) == ("stripes 60 16 across along\n", 0), result.stderr
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["kind"] == "plugin"


@pytest.mark.parametrize("name", ["digits", "mnist5k", "fashion_mnist"])
def test_the_configs_say_what_to_expect(name, tmp_path):
    from frostline.config import compose, stage_configs
    from frostline.data.reading import idx

    if name == "fashion_mnist" and not idx.DEBIAN.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    text = (Path(__file__).parents[2] / "conf" / "dataset" / f"{name}.yaml").read_text()
    expected = tuple(int(n) for n in re.search(r"expect: (\d+) train, (\d+) val, (\d+) test", text).groups())
    config, _ = compose.experiment([f"dataset={name}"])
    assert counts(prepare(stage_configs.prepare_config(config, "target"), tmp_path / "out")) == expected


def test_root_and_name_must_be_given():
    from frostline.config import compose

    for dataset, key in (("image_folder", "dataset.root"), ("plugin", "dataset.name")):
        with pytest.raises(FrostlineError, match=f"{key}: needs a value; add {key}=…"):
            compose.experiment([f"dataset={dataset}"])


def test_augmentations_compose():
    from frostline.config import compose

    for name in ("none", "light", "photo"):
        config, _ = compose.experiment([f"augment={name}"])
        assert (config.augment.flip > 0 or config.augment.rotate > 0) == (name != "none")


def test_trees_are_left_alone(tmp_path):
    root = plant(tmp_path / "pictures")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    prepare(image_folder(root), tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    shutil.rmtree(root)
    assert Index.read(tmp_path / "out").classes == ("cat", "dog")


def test_a_cached_data_set_without_hashes_is_prepared_again(tmp_path):
    setup = image_folder(plant(tmp_path / "photos"))
    index, folder = prepare_cached(setup, tmp_path / "scratch")
    (folder / "hashes.npy").unlink()
    (folder / "checksums.json").unlink()
    write_checksums(folder)  # as an earlier version wrote it
    assert prepare_cached(setup, tmp_path / "scratch")[0].fingerprint == index.fingerprint
    assert (folder / "hashes.npy").is_file()


def test_near_duplicates_of_all_folds_are_named(tmp_path):
    root = tmp_path / "photos"
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for i in range(9):
            image = picture(1000 * (label == "dog") + i, (120, 100))
            image.save(root / label / f"{i}.png")
            image.resize((90, 75)).save(root / label / f"{i} copy.jpg")
    dataset = image_folder(root).dataset.model_copy(update={"folds": 3})
    index = prepare(Prepare(dataset=dataset), tmp_path / "out")
    folds = index.fold_splits
    place = {key: row for row, key in enumerate(index.keys)}
    apart = [
        key
        for key, row in place.items()
        if key.endswith(".png") and (folds[row] != folds[place[key.replace(".png", " copy.jpg")]]).any()
    ]
    # Some are in one split of fold 0, and in two of another fold.
    assert any(folds[place[key], 0] == folds[place[key.replace(".png", " copy.jpg")], 0] for key in apart)
    (warning,) = [text for text in index.warnings if "near-duplicates.png" in text]
    assert warning.startswith(f"{len(apart)} images look like one in another split")
    assert re.search(r"\(fold (\d): (train|val|test)\) ≈ .* \(fold \1: (train|val|test)\)", warning)
    assert (tmp_path / "out/near-duplicates.png").is_file()
