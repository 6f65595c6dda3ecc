import errno
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.trees import encoded, image_folder, packaged, picture, plant

from frostline.base.locks import exclusive
from frostline.console.errors import FrostlineError
from frostline.data.loading import pixels
from frostline.data.loading.pixels import OnDisk, load_pixels, normalize, select, thumbnails
from frostline.data.loading.resize import to_pixels
from frostline.data.prepared.index import PreparedData
from frostline.data.reading.decode import decode
from frostline.models.input_spec import InputSpec
from frostline.preparation.stage import prepare

SPEC = InputSpec(
    size=16, channels=3, interpolation="bicubic", crop=0.875, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)
)
GREY = replace(SPEC, channels=1, mean=(0.5,), std=(0.5,))


@pytest.fixture
def tree(tmp_path):
    """A prepared tree of pictures of several sizes and modes: (root, config, index, folder)."""
    root = plant(tmp_path / "pictures")
    picture(900, (33, 70)).save(root / "cat" / "tall.jpg")
    picture(901, (90, 31), "RGBA").save(root / "cat" / "wide.png")
    picture(902, (20, 20), "L").save(root / "dog" / "grey.png")
    config = image_folder(root)
    return root, config.dataset, prepare(config, tmp_path / "out"), tmp_path / "out"


@contextmanager
def never(description: str, total: int):
    raise AssertionError(f"nothing should be done: {description}")
    yield


def test_normalize():
    batch = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    result = normalize(batch, SPEC)
    assert result.dtype == torch.float32
    expected = (torch.tensor([1.0, 1.0, 1.0]) - torch.tensor(SPEC.mean)) / torch.tensor(SPEC.std)
    assert torch.equal(result[1, :, 0, 0], expected)
    assert batch.max() == 255


def test_files_are_loaded_in_the_order_of_the_rows(tree, tmp_path):
    root, dataset, index, folder = tree
    rows = [len(index) - 1, 0, 3]
    loaded = load_pixels(PreparedData(dataset, index, folder), rows, SPEC, scratch=tmp_path)
    assert (loaded.shape, loaded.dtype) == ((3, 3, 16, 16), torch.uint8)
    for row, got in zip(rows, loaded, strict=True):
        key = index.keys[row]
        assert (got.numpy() == to_pixels(decode((root / key).read_bytes(), key).image, SPEC)).all()


def test_pixels_are_cached_for_all_splits_and_seeds(tree, tmp_path):
    root, dataset, index, folder = tree
    first = load_pixels(PreparedData(dataset, index, folder), index.rows("train"), SPEC, scratch=tmp_path)
    again = load_pixels(PreparedData(dataset, index, folder), index.rows("train"), SPEC, never, tmp_path)
    assert torch.equal(first, again)
    load_pixels(PreparedData(dataset, index, folder), index.rows("test"), SPEC, never, tmp_path)
    other = prepare(image_folder(root, seed=1), tmp_path / "other")
    load_pixels(PreparedData(dataset, other, tmp_path / "other"), other.rows("val"), SPEC, never, tmp_path)
    load_pixels(PreparedData(dataset, index, folder), [0], replace(SPEC, mean=(0.0,) * 3), never, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"size": 20},
        {"size": (16, 20)},
        {"fit": "pad"},
        {"fit": "squash"},
        {"crop": 1.0},
        {"interpolation": "nearest"},
        {"channels": 1, "mean": (0,), "std": (1,)},
    ],
)
def test_another_geometry_is_another_file(tree, tmp_path, change):
    _, dataset, index, folder = tree
    load_pixels(PreparedData(dataset, index, folder), [0], SPEC, scratch=tmp_path)
    load_pixels(PreparedData(dataset, index, folder), [0], replace(SPEC, **change), scratch=tmp_path)
    assert len(list((tmp_path / "pixels").glob("*.npy"))) == 2


def test_progress_is_told(tree, tmp_path):
    _, dataset, index, folder = tree
    told: list[object] = []

    @contextmanager
    def progress(description: str, total: int):
        told.append((description, total))
        yield lambda n=1, note="": told.append(n)

    load_pixels(PreparedData(dataset, index, folder), [0], SPEC, progress, tmp_path)
    assert told == [("resizing pictures to 16 px", len(index)), *[1] * len(index)]


def test_a_changed_or_missing_file_stops(tree, tmp_path):
    root, dataset, index, folder = tree
    path = root / "cat" / "0.png"
    path.write_bytes(encoded(picture(999), "PNG"))
    with pytest.raises(FrostlineError) as raised:
        load_pixels(PreparedData(dataset, index, folder), [0], SPEC, scratch=tmp_path)
    assert (
        str(raised.value)
        == f"dataset.root: {root}: cat/0.png has changed since prepare read it: run prepare again"
    )
    path.unlink()
    with pytest.raises(FrostlineError, match=r"cat/0\.png is missing: restore it; or run prepare again"):
        load_pixels(PreparedData(dataset, index, folder), [0], SPEC, scratch=tmp_path)
    assert list((tmp_path / "pixels").glob("*.npy")) == []
    assert [p.name for p in (tmp_path / "pixels").iterdir() if p.suffix not in (".lock", ".used")] == []


def test_a_damaged_file_of_pixels_is_made_again(tree, tmp_path, capsys):
    _, dataset, index, folder = tree
    expected = load_pixels(PreparedData(dataset, index, folder), [0, 1], SPEC, scratch=tmp_path)
    (kept,) = (tmp_path / "pixels").glob("*.npy")
    whole = kept.read_bytes()
    flipped = bytearray(whole)
    flipped[-2] ^= 1  # In the checksums.
    for content in (b"", b"garbage", whole[:-1], whole + b"x", bytes(len(whole)), bytes(flipped)):
        kept.write_bytes(content)
        capsys.readouterr()
        assert torch.equal(
            load_pixels(PreparedData(dataset, index, folder), [0, 1], SPEC, scratch=tmp_path), expected
        )
        assert kept.read_bytes() == whole
        assert kept.with_name(f"{kept.name}.damaged").read_bytes() == content
        (warning,) = capsys.readouterr().err.splitlines()
        assert warning.startswith(f"frostline: warning: {kept} is damaged (")
        assert warning.endswith(f"it was set aside as {kept.name}.damaged and is made again")


def damage(kept, row, how):
    """Change the pixels of one image in a file, and nothing else."""
    mapped = np.lib.format.open_memmap(kept, mode="r+")
    mapped[row] = (
        0 if how == "zeroed" else mapped[row] ^ (np.arange(mapped[row].size).reshape(mapped[row].shape) == 5)
    )
    mapped.flush()


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("how", ["zeroed", "one bit"])
def test_damaged_pixels_are_never_used(tree, tmp_path, monkeypatch, capsys, how, on_disk):
    _, dataset, index, folder = tree
    expected = load_pixels(PreparedData(dataset, index, folder), range(len(index)), SPEC, scratch=tmp_path)
    (kept,) = (tmp_path / "pixels").glob("*.npy")
    whole = kept.read_bytes()
    for row in (0, 3):
        damage(kept, row, how)
    assert kept.read_bytes() != whole
    monkeypatch.setattr(pixels, "IN_MEMORY", 1000 if on_disk else 10**9)
    capsys.readouterr()
    stack = load_pixels(PreparedData(dataset, index, folder), range(len(index)), SPEC, never, tmp_path)
    for _ in range(2):
        assert torch.equal(stack[torch.tensor([3, 1, 0, 3])], expected[[3, 1, 0, 3]])
        assert torch.equal(stack[:], expected)
    (warning,) = capsys.readouterr().err.splitlines()
    assert "is damaged (an image does not match its checksum); it was set aside" in warning
    assert not kept.exists()
    again = load_pixels(PreparedData(dataset, index, folder), range(len(index)), SPEC, scratch=tmp_path)
    assert torch.equal(again[:], expected)
    assert kept.read_bytes() == whole


def test_a_file_that_was_made_again_meanwhile_is_not_set_aside(tree, tmp_path, monkeypatch, capsys):
    _, dataset, index, folder = tree
    expected = load_pixels(PreparedData(dataset, index, folder), range(len(index)), SPEC, scratch=tmp_path)
    (kept,) = (tmp_path / "pixels").glob("*.npy")
    whole = kept.read_bytes()
    damage(kept, 2, "zeroed")
    monkeypatch.setattr(pixels, "IN_MEMORY", 1000)
    stack = load_pixels(PreparedData(dataset, index, folder), range(len(index)), SPEC, never, tmp_path)
    kept.unlink()
    kept.write_bytes(whole)
    assert torch.equal(stack[:], expected)
    assert kept.read_bytes() == whole
    assert capsys.readouterr().err == ""


def test_damaged_pixels_whose_image_is_gone_stop(tree, tmp_path):
    root, dataset, index, folder = tree
    load_pixels(PreparedData(dataset, index, folder), [0], SPEC, scratch=tmp_path)
    (kept,) = (tmp_path / "pixels").glob("*.npy")
    damage(kept, 0, "zeroed")
    (root / index.keys[0]).unlink()
    with pytest.raises(FrostlineError, match=r"is missing: restore it; or run prepare again"):
        load_pixels(PreparedData(dataset, index, folder), [0], SPEC, scratch=tmp_path)


def test_what_killed_processes_were_writing_is_removed(tree, tmp_path):
    _, dataset, index, folder = tree
    scratch = tmp_path / "pixels"
    load_pixels(PreparedData(dataset, index, folder), [0], SPEC, scratch=tmp_path)
    (kept,) = scratch.glob("*.npy")
    own, other, busy = (scratch / f".{key}.npy.abcdefgh" for key in (kept.stem, "0" * 64, "1" * 64))
    for path in (own, other, busy):
        path.write_bytes(b"a part")
    (scratch / f"{'0' * 64}.lock").touch()
    with exclusive(scratch / f"{'1' * 64}.lock"):
        load_pixels(PreparedData(dataset, index, folder), [0], SPEC, scratch=tmp_path)
    assert (own.exists(), other.exists(), busy.exists()) == (False, False, True)


@pytest.mark.parametrize("there", ["nothing", "the pixels", "damaged pixels"])
def test_pixels_need_no_right_to_write(tree, tmp_path, read_only, capsys, there):
    _, dataset, index, folder = tree
    expected = load_pixels(PreparedData(dataset, index, folder), [0, 4], SPEC, scratch=tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    if there != "nothing":
        load_pixels(PreparedData(dataset, index, folder), [0], SPEC, scratch=scratch)
    if there == "damaged pixels":
        (kept,) = (scratch / "pixels").glob("*.npy")
        kept.write_bytes(b"garbage")
    capsys.readouterr()
    read_only(scratch)
    assert torch.equal(
        load_pixels(PreparedData(dataset, index, folder), [0, 4], SPEC, scratch=scratch), expected
    )
    said = capsys.readouterr().err
    assert ("can't be written, so images are resized for this command only" in said) == (
        there != "the pixels"
    )
    assert ("can't be set aside" in said) == (there == "damaged pixels")


@pytest.mark.parametrize("order", ["all", "some"])
def test_large_sets_stay_on_disk(tree, tmp_path, monkeypatch, order):
    _, dataset, index, folder = tree
    rows = np.arange(len(index)) if order == "all" else index.rows("train")
    expected = load_pixels(PreparedData(dataset, index, folder), rows, SPEC, scratch=tmp_path)
    monkeypatch.setattr(pixels, "IN_MEMORY", 1000)
    stored = load_pixels(PreparedData(dataset, index, folder), rows, SPEC, never, tmp_path)
    assert isinstance(stored, OnDisk)
    assert (len(stored), stored.shape, stored.numel()) == (len(rows), expected.shape, expected.numel())
    assert torch.equal(stored[:], expected)
    assert torch.equal(stored[2:5], expected[2:5])
    some = torch.tensor([5, 0, 3, 3])
    assert torch.equal(stored[some], expected[some])
    for stack in (stored, expected):
        assert torch.equal(select(stack, some)[1:], expected[some][1:])
    stored[:][0] = 0  # What was read is a copy.
    assert torch.equal(stored[:], expected)
    assert len(list((tmp_path / "pixels").glob("*.npy"))) == 1


@pytest.mark.parametrize("order", ["all", "some"])
def test_pixels_that_are_removed_while_they_are_loaded(tree, tmp_path, monkeypatch, order):
    _, dataset, index, folder = tree
    rows = np.arange(len(index)) if order == "all" else index.rows("train")
    expected = load_pixels(PreparedData(dataset, index, folder), rows, SPEC, scratch=tmp_path)
    opened = pixels.open_or_make

    def removed(path, *arguments):
        found = opened(path, *arguments)
        for shard in path.parent.glob("*.npy"):
            shard.unlink()
        return found

    monkeypatch.setattr(pixels, "IN_MEMORY", 1000)
    monkeypatch.setattr(pixels, "open_or_make", removed)
    assert torch.equal(
        load_pixels(PreparedData(dataset, index, folder), rows, SPEC, scratch=tmp_path)[:], expected
    )


def test_a_full_disk_is_one_sentence(tree, tmp_path, monkeypatch):
    _, dataset, index, folder = tree

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FrostlineError, match=r"pixels: the disk is full; the images need 11\.2 KiB there"):
        load_pixels(PreparedData(dataset, index, folder), [0], SPEC, scratch=tmp_path)
    assert [p.name for p in (tmp_path / "pixels").iterdir() if p.suffix not in (".lock", ".used")] == []


@pytest.fixture
def digits(tmp_path):
    config = packaged("digits")
    return config.dataset, prepare(config, tmp_path / "digits"), tmp_path / "digits"


def test_arrays_of_the_right_size_are_not_cached(digits, tmp_path):
    dataset, index, folder = digits
    spec = replace(GREY, size=8, crop=1.0)
    rows = index.rows("test")
    loaded = load_pixels(PreparedData(dataset, index, folder), rows, spec, never, tmp_path)
    assert (loaded[:, 0].numpy() == index.images(folder)[rows]).all()
    colour = load_pixels(
        PreparedData(dataset, index, folder), rows, replace(SPEC, size=8, crop=1.0), never, tmp_path
    )
    assert torch.equal(colour, loaded.expand(-1, 3, -1, -1))
    assert not (tmp_path / "pixels").exists()


def test_arrays_of_another_size_are_resized_like_image_files(digits, tmp_path):
    dataset, index, folder = digits
    loaded = load_pixels(PreparedData(dataset, index, folder), [5], SPEC, scratch=tmp_path)
    assert (loaded[0].numpy() == to_pixels(Image.fromarray(index.images(folder)[5]), SPEC)).all()


@pytest.mark.parametrize("size", [8, 16])
def test_arrays_that_have_changed_stop(digits, tmp_path, size):
    dataset, index, folder = digits
    images = np.load(folder / "images.npy")
    images[3] += 1
    np.save(folder / "images.npy", images)
    with pytest.raises(
        FrostlineError, match=r"images\.npy has changed since prepare wrote it: run prepare again"
    ):
        load_pixels(
            PreparedData(dataset, index, folder), [3], replace(GREY, size=size, crop=1.0), scratch=tmp_path
        )


def test_colour_arrays(install_dataset, tmp_path):
    name = install_dataset(
        """
        import numpy as np
        from frostline.data.reading.sources import ArraySource
        def load(options):
            images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
            return ArraySource(images, np.arange(12) % 2, ("a", "b"))
        """
    )
    config = packaged("plugin", name=name, options={})
    index = prepare(config, tmp_path / "out")
    images = index.images(tmp_path / "out")
    assert index.modes[0] == "RGB"
    loaded = load_pixels(
        PreparedData(config.dataset, index, tmp_path / "out"), [3], replace(SPEC, crop=1.0), never, tmp_path
    )
    assert (loaded[0].permute(1, 2, 0).numpy() == images[3]).all()
    grey = load_pixels(
        PreparedData(config.dataset, index, tmp_path / "out"), [3], replace(GREY, crop=1.0), scratch=tmp_path
    )
    assert (grey[0, 0].numpy() == np.asarray(Image.fromarray(images[3]).convert("L"))).all()


def test_files_of_a_plugin(install_dataset, tmp_path):
    root = plant(tmp_path / "pictures")
    name = install_dataset(
        """
        from pathlib import Path
        from frostline.data.reading.sources import FileEntry, FileSource
        def load(options):
            root = Path(options["root"])
            keys = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
            return FileSource(root, ("cat", "dog"), [FileEntry(key, int(key > "d"), "") for key in keys])
        """
    )
    config = packaged("plugin", name=name, options={"root": str(root)})
    index = prepare(config, tmp_path / "out")
    assert (index.storage, index.kind) == ("files", "plugin")
    loaded = load_pixels(PreparedData(config.dataset, index, tmp_path / "out"), [0], SPEC, scratch=tmp_path)
    assert (loaded[0].numpy() == to_pixels(Image.open(root / "cat" / "0.png"), SPEC)).all()


def test_thumbnails_of_files_are_whole_and_no_larger(tree):
    root, dataset, index, folder = tree
    rows = np.array([index.keys.index(key) for key in ("cat/wide.png", "dog/grey.png", "cat/tall.jpg")])
    wide, grey, tall = thumbnails(PreparedData(dataset, index, folder), rows, 45)
    assert (wide.shape, grey.shape, tall.shape) == ((16, 45, 3), (20, 20), (45, 21, 3))
    assert (grey == np.asarray(picture(902, (20, 20), "L"))).all()
    (root / "cat" / "wide.png").unlink()
    with pytest.raises(FrostlineError, match=r"cat/wide\.png is missing"):
        thumbnails(PreparedData(dataset, index, folder), rows, 45)


def test_thumbnails_of_arrays(digits):
    dataset, index, folder = digits
    images = index.images(folder)
    for found, row in zip(
        thumbnails(PreparedData(dataset, index, folder), np.array([7, 3]), 160), (7, 3), strict=True
    ):
        assert (found == images[row]).all()
    assert [t.shape for t in thumbnails(PreparedData(dataset, index, folder), np.array([7]), 4)] == [(4, 4)]


@pytest.mark.slow
def test_memory_stays_constant_while_pixels_are_written(tmp_path):
    """600 pictures of 224 px are 86 MiB of pixels, made and mapped within 40 MiB more than 8 px take."""
    root = plant(tmp_path / "pictures", images=300)
    prepare(image_folder(root), tmp_path / "out")
    script = (
        "import resource, sys; from pathlib import Path; from dataclasses import replace; import torch\n"
        "from frostline.data.loading import pixels; from frostline.data.prepared.index import Index\n"
        "from frostline.data.prepared.index import PreparedData\n"
        "from tests.data.loading.test_pixels import SPEC; from tests.data.trees import image_folder\n"
        "root, out, scratch = map(Path, sys.argv[1:]); index = Index.read(out); pixels.IN_MEMORY = 1\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "data = PreparedData(image_folder(root).dataset, index, out)\n"
        "spec = lambda size: replace(SPEC, size=size)\n"
        "load = lambda size: pixels.load_pixels(data, range(600), spec(size), scratch=scratch)\n"
        "load(8); before = peak(); large = load(224)\n"
        "for begin in range(0, 600, 64): large[begin : begin + 64]\n"
        "for begin in range(50): large[torch.randperm(600)[:64]]\n"
        "print(large.numel() >> 20, (peak() - before) >> 10)"
    )
    source = Path(__file__).parents[3]
    result = subprocess.run(
        [sys.executable, "-c", script, str(root), str(tmp_path / "out"), str(tmp_path)],
        env={"PYTHONPATH": f"{source / 'src'}:{source}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    size, more = map(int, re.findall(r"\d+", result.stdout))
    assert size == 86
    assert more < 40
