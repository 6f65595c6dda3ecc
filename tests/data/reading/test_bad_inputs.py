"""Each numbered bad input gets what the table in docs/bad-images.md says, word for word."""

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.trees import encoded, image_folder, packaged, picture, plant, plant_splits

from frostline.console.errors import FrostlineError
from frostline.data.prepared.index import Index
from frostline.data.reading.decode import read_bytes
from frostline.preparation.stage import prepare, prepare_cached

DOCS = Path(__file__).parents[3] / "docs" / "bad-images.md"
ROW = re.compile(r"^\| (\d+) \| .* \| (stops|warns|fine) \| (?:`(.*)` )?\|$", re.MULTILINE)
TABLE = {int(number): (result, words) for number, result, words in ROW.findall(DOCS.read_text())}

Damage = Callable[[Path], str | None]
CASES: dict[int, list[Damage]] = {}
"""Number → functions that damage a healthy tree and return what the sentence must name."""


def case(number: int) -> Callable[[Damage], Damage]:
    def register(damage: Damage) -> Damage:
        CASES.setdefault(number, []).append(damage)
        return damage

    return register


def put(root: Path, name: str, content: bytes) -> str:
    (root / "cat" / name).write_bytes(content)
    return f"cat/{name}"


# ── images ──────────────────────────────────────────────────────────────────────────────────────────────────


@case(1)
def jpeg_cut_in_half(root):
    content = encoded(picture(901), "JPEG")
    return put(root, "x.jpg", content[: len(content) // 2])


@case(1)
def jpeg_without_its_last_bytes(root):
    return put(root, "x.jpg", encoded(picture(901), "JPEG")[:-2])


@case(1)
def progressive_jpeg_cut(root):
    return put(root, "x.jpg", encoded(picture(901), "JPEG", progressive=True)[:-40])


@case(2)
def png_cut_in_half(root):
    content = encoded(picture(901), "PNG")
    return put(root, "x.png", content[: len(content) // 2])


@case(2)
def png_without_its_last_bytes(root):
    return put(root, "x.png", encoded(picture(901), "PNG")[:-5])


@case(3)
def empty_file(root):
    return put(root, "x.jpg", b"")


@case(4)
def html(root):
    return put(root, "x.jpg", b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>")


@case(5)
def png_named_jpg(root):
    put(root, "x.jpg", encoded(picture(901), "PNG"))
    return "cat/x.jpg (PNG)"


@case(6)
def palette(root):
    put(root, "x.png", encoded(picture(901, mode="P"), "PNG"))


@case(6)
def palette_with_transparency(root):
    put(root, "x.png", encoded(picture(901, mode="P"), "PNG", transparency=bytes(range(256))))


@case(7)
def rgba(root):
    put(root, "x.png", encoded(picture(901, mode="RGBA"), "PNG"))


@case(8)
def grey(root):
    put(root, "x.png", encoded(picture(901, mode="L"), "PNG"))
    put(root, "y.png", encoded(picture(902, mode="LA"), "PNG"))
    put(root, "z.png", encoded(picture(903, mode="1"), "PNG"))


@case(9)
def sixteen_bit_png(root):
    values = np.arange(40 * 40, dtype=np.uint16).reshape(40, 40) * 40
    return put(root, "x.png", encoded(Image.fromarray(values), "PNG"))


@case(9)
def sixteen_bit_tiff(root):
    values = np.arange(40 * 40, dtype=np.uint16).reshape(40, 40) * 40
    return put(root, "x.tif", encoded(Image.fromarray(values), "TIFF"))


@case(10)
def cmyk(root):
    return put(root, "x.jpg", encoded(picture(901, mode="CMYK"), "JPEG"))


@case(11)
def exif(root):
    put(root, "x.jpg", encoded(picture(901), "JPEG", exif=oriented(6)))


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@case(12)
def animated_gif(root):
    frames = [picture(900 + i) for i in range(3)]
    return put(root, "x.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))


@case(13)
def one_pixel(root):
    return put(root, "x.gif", encoded(Image.new("RGB", (1, 1)), "GIF"))


@case(14)
def bomb(root):
    return put(root, "x.png", encoded(Image.new("1", (10_000, 10_000)), "PNG"))


@case(14)
def larger_bomb(root):
    return put(root, "x.png", encoded(Image.new("1", (14_000, 14_000)), "PNG"))


@case(15)
def heic(root):
    return put(root, "x.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))


@case(15)
def heic_named_jpg(root):
    return put(root, "x.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))


# ── tree ────────────────────────────────────────────────────────────────────────────────────────────────────


@case(16)
def link_to_itself(root):
    (root / "cat" / "x.jpg").symlink_to("x.jpg")
    return "cat/x.jpg"


@case(16)
def link_to_the_root(root):
    (root / "cat" / "all").symlink_to(root)
    return "cat/all"


@case(16)
def link_to_its_own_folder(root):
    (root / "cat" / "again").symlink_to(".")
    return "cat/again"


@case(16)
def class_that_links_to_the_root(root):
    (root / "everything").symlink_to(root)
    return "everything"


@case(17)
def dangling_link(root):
    (root / "cat" / "x.jpg").symlink_to("gone.jpg")
    return "cat/x.jpg is a link to gone.jpg"


@case(18)
def unreadable_file(root):
    (root / "cat" / "0.png").chmod(0)
    return "cat/0.png"


@case(18)
def unreadable_folder(root):
    (root / "cat" / "more").mkdir(mode=0)
    return "cat/more"


@case(19)
def folder_named_like_an_image(root):
    (root / "cat" / "x.jpg").mkdir()
    return "cat/x.jpg"


@case(20)
def fifo(root):
    os.mkfifo(root / "cat" / "x.jpg")
    return "cat/x.jpg"


@case(20)
def fifo_with_another_name(root):
    os.mkfifo(root / "cat" / "pipe")
    return "cat/pipe"


@case(21)
def hidden_folder(root):
    shutil.copytree(root / "cat", root / "cat" / ".ipynb_checkpoints")
    return "cat/.ipynb_checkpoints"


@case(21)
def hidden_class(root):
    shutil.copytree(root / "cat", root / ".ipynb_checkpoints")
    return ".ipynb_checkpoints"


@case(22)
def resource_fork(root):
    return put(root, "._0.png", b"\0\5\x16\7Mac OS X")


@case(23)
def non_ascii(root):
    put(root, "猫 é.png", encoded(picture(901), "PNG"))
    (root / "cat").rename(root / "кошка")


@case(24)
def newline_in_a_name(root):
    put(root, "a\nb.png", encoded(picture(901), "PNG"))
    return r"cat/a\nb.png"


@case(24)
def newline_in_a_class(root):
    (root / "cat").rename(root / "ca\nt")
    return r"ca\nt"


@case(25)
def empty_class(root):
    for path in (root / "cat").iterdir():
        path.unlink()


@case(26)
def class_too_small_to_split(root):
    for path in sorted((root / "cat").iterdir())[2:]:
        path.unlink()
    return "class 'cat' has 2 images"


@case(27)
def single_class(root):
    shutil.rmtree(root / "cat")


@case(28)
def flat(root):
    for name in ("cat", "dog"):
        for path in (root / name).iterdir():
            path.rename(root / f"{name}{path.name}")
        (root / name).rmdir()
    return "cat0.png, cat1.png, cat2.png and 9 more"


@case(29)
def classes_that_differ_by_case(root):
    plant(root, ("Cat",), seed=77)


@case(30)
def missing_root(root):
    shutil.rmtree(root)


# ── labels and splits ───────────────────────────────────────────────────────────────────────────────────────


def as_splits(root: Path) -> None:
    shutil.rmtree(root)
    plant_splits(root)


@case(31)
def one_image_in_train_and_test(root):
    as_splits(root)
    shutil.copy(root / "train" / "cat" / "0.png", root / "test" / "cat" / "copy.png")
    return "train/cat/0.png (train) is the same image as test/cat/copy.png (test)"


@case(31)
def one_image_in_train_and_test_in_other_bytes(root):
    as_splits(root)
    Image.open(root / "train" / "cat" / "0.png").save(root / "test" / "cat" / "copy.bmp")
    return "train/cat/0.png (train) is the same image as test/cat/copy.bmp (test)"


@case(32)
def one_image_encoded_again(root):
    as_splits(root)
    picture(7, (160, 144)).save(root / "train" / "cat" / "0.png")
    Image.open(root / "train" / "cat" / "0.png").save(root / "test" / "cat" / "copy.jpg")
    return "train/cat/0.png (train) ≈ test/cat/copy.jpg (test)"


@case(32)
def one_image_at_another_size(root):
    as_splits(root)
    picture(7, (160, 144)).save(root / "train" / "cat" / "0.png")
    Image.open(root / "train" / "cat" / "0.png").resize((80, 72)).save(root / "test" / "cat" / "copy.png")
    return "train/cat/0.png (train) ≈ test/cat/copy.png (test)"


@case(33)
def one_image_under_two_labels(root):
    shutil.copy(root / "cat" / "0.png", root / "dog" / "copy.png")
    return "cat/0.png (class 'cat') is the same image as dog/copy.png (class 'dog')"


@case(35)
def class_in_train_alone(root):
    as_splits(root)
    plant(root / "train", ("fox",), seed=55)


# ── the tests ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A healthy tree, where the user `nobody` can get at it: pytest's folders are its owner's alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield plant(Path(folder) / "pictures")
        for path in Path(folder).rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o777)


@pytest.fixture
def mortal() -> Iterator[None]:
    """Root may read everything: act as `nobody`."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_the_table_covers_all_numbers_of_images_trees_labels_and_splits():
    assert list(TABLE) == list(range(1, 36))
    # A folder's labels are in range by construction; number 34 has a test of its own.
    assert set(CASES) == set(TABLE) - {34}


def numbered(result: str) -> list[object]:
    return [
        pytest.param(number, damage, id=f"{number}-{damage.__name__}")
        for number, damages in sorted(CASES.items())
        for damage in damages
        if TABLE[number][0] == result
    ]


@pytest.mark.parametrize(("number", "damage"), numbered("stops"))
def test_stops(number, damage, tree, request):
    named = damage(tree)
    out = tree.parent / "out"
    if number == 18:
        request.getfixturevalue("mortal")
    with pytest.raises(FrostlineError) as raised:
        prepare(image_folder(tree), out)
    sentence = str(raised.value)
    assert TABLE[number][1] in sentence
    assert (named or "") in sentence
    assert "\n" not in sentence
    assert number == 26 or sentence.startswith(f"dataset.root: {tree}")
    assert not out.exists()


@pytest.mark.parametrize(("number", "damage"), numbered("warns"))
def test_warns(number, damage, tree):
    named = damage(tree)
    index = prepare(image_folder(tree), tree.parent / "out")
    (warning,) = (w for w in index.warnings if "is not used" not in w and "of its own" not in w)
    assert warning.startswith("1 ")
    assert TABLE[number][1] in warning
    assert named in warning


@pytest.mark.parametrize(("number", "damage"), numbered("fine"))
def test_fine(number, damage, tree):
    damage(tree)
    index = prepare(image_folder(tree), tree.parent / "out")
    assert index.warnings == ()
    assert len(index) == sum(path.is_file() for path in tree.rglob("*"))


def test_34_label_out_of_range(tmp_path, install_dataset):
    name = install_dataset(
        """
        import numpy as np
        from types import SimpleNamespace
        def load(options):
            images = np.random.default_rng(0).integers(0, 256, (9, 8, 8), dtype=np.uint8)
            return SimpleNamespace(images=images, labels=[0, 1, 0, 1, 7, 0, 1, 0, 1], classes=["a", "b"])
        """
    )
    with pytest.raises(FrostlineError, match=re.escape(TABLE[34][1])) as raised:
        prepare(packaged("plugin", name=name, options={}), tmp_path / "out")
    assert str(raised.value).startswith(f"dataset.name: {name}: row 4 ")


SKIPPABLE = {1, 2, 3, 4, 12, 13, 14, 15, 16, 17, 19, 20, 24, 31, 33}
WHOLE_CLASSES = {class_that_links_to_the_root, newline_in_a_class}


@pytest.mark.parametrize(
    ("number", "damage"),
    [p for p in numbered("stops") if p.values[0] in SKIPPABLE and p.values[1] not in WHOLE_CLASSES],
)
def test_skip_leaves_a_bad_image_out_and_says_so(number, damage, tree):
    named = damage(tree)
    index = prepare(image_folder(tree, on_bad_image="skip"), tree.parent / "out")
    assert index.skipped[0].key == named.split(" ")[0]
    assert TABLE[number][1] in index.skipped[0].reason
    assert any("skipped (dataset.json lists all)" in warning for warning in index.warnings)
    assert not {problem.key for problem in index.skipped} & set(index.keys)
    assert Index.read(tree.parent / "out").fingerprint == index.fingerprint


def test_skip_changes_the_fingerprint(tree):
    healthy = prepare(image_folder(tree, on_bad_image="skip"), tree.parent / "out")
    empty_file(tree)
    skipping = prepare(image_folder(tree, on_bad_image="skip"), tree.parent / "out")
    assert healthy.keys == skipping.keys
    assert healthy.fingerprint != skipping.fingerprint


def test_skip_still_stops_where_a_class_loses_all_its_images(tree):
    for path in (tree / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(FrostlineError, match="has no images of 'cat': add some or remove the class"):
        prepare(image_folder(tree, on_bad_image="skip"), tree.parent / "out")


def test_all_bad_files_are_reported_at_once_and_listed(tree):
    for i in range(7):
        put(tree, f"bad{i}.jpg", b"")
    dangling_link(tree)
    out = tree.parent / "out"
    with pytest.raises(FrostlineError) as raised:
        prepare(image_folder(tree), out)
    listing = tree.parent / "out.bad-images.csv"
    assert "has 8 files that can't be used: cat/bad0.jpg is empty" in str(raised.value)
    assert f"and 3 more (.jpg ×8 in all), all listed in {listing}" in str(raised.value)
    assert listing.read_text().splitlines()[0] == "key,reason"
    assert len(listing.read_text().splitlines()) == 9
    prepare(image_folder(tree, on_bad_image="skip"), out)
    assert not listing.exists()


def test_a_file_that_breaks_while_it_is_read():
    if not Path("/proc/self/mem").exists():
        pytest.skip("needs Linux's /proc, whose mem has no first byte")
    with pytest.raises(FrostlineError, match=r"cat/x\.jpg can't be read \(Input/output error\): copy"):
        read_bytes(Path("/proc/self/mem"), "cat/x.jpg")


def test_a_root_in_a_folder_that_may_not_be_entered(tree, mortal):
    locked = tree.parent / "locked"
    with as_root():
        locked.mkdir(mode=0o700)
        locked.chmod(0o000 if os.getuid() != 0 else 0o700)
    for root in (locked, locked / "photos"):
        with pytest.raises(FrostlineError, match=r"can't be read \(permission denied\): give yourself"):
            prepare(image_folder(root), tree.parent / "out")
        with pytest.raises(FrostlineError, match=r"can't be read \(permission denied\): give yourself"):
            prepare_cached(image_folder(root), tree.parent / "scratch")


@contextmanager
def as_root() -> Iterator[None]:
    """For root, which acts as `nobody` otherwise."""
    user = os.geteuid()
    if os.getuid() == 0:
        os.seteuid(0)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_socket(tree):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "cat" / "s.jpg"))
        with pytest.raises(FrostlineError, match=r"cat/s\.jpg is a socket, not a file: remove it"):
            prepare(image_folder(tree), tree.parent / "out")


def test_a_name_that_is_not_utf8(tree):
    Path(os.fsdecode(os.fsencode(tree / "cat") + b"/\xff.png")).write_bytes(encoded(picture(901), "PNG"))
    with pytest.raises(FrostlineError, match=r"cat/\\udcff\.png has a name that is not UTF-8: rename it"):
        prepare(image_folder(tree), tree.parent / "out")
