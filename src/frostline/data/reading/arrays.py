"""Data sets that are arrays in an .npz file: one pair of images and labels, or one per split."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frostline import schema
from frostline.base.names import nfc
from frostline.console.errors import FrostlineError, allowed
from frostline.console.progress import Progress, no_progress
from frostline.data.reading import label_sets
from frostline.data.reading.checks import check_images
from frostline.data.reading.decode import printable
from frostline.data.reading.folder import SPLIT_FOLDERS
from frostline.data.reading.source import ArraySource
from frostline.data.reading.splits import SPLITS
from frostline.data.reading.tables import OPTIONAL, class_numbers, used_columns


def read(dataset: schema.Npz, progress: Progress = no_progress) -> ArraySource:
    """Read arrays under the names of `dataset.columns`, or one pair per split.

    The names of a pair are those of MedMNIST (``train_images``, ``train_labels``) or of Keras (``x_train``,
    ``y_train``; also ``X_train``), with the names of splits that folders may have. Labels are class names, or
    numbers: positions in `dataset.classes`, else their own names.

    Raises:
        FrostlineError: the file or an array is missing, or the arrays do not belong together.
    """
    place = f"dataset.file: {dataset.file}"
    present = _loaded(Path(dataset.file).expanduser(), place)
    if dataset.columns.labels is None and (pairs := list(_pairs(dataset.columns, present, place))):
        images = [present[image] for _, image, _ in pairs]
        labels = [present[label] for _, _, label in pairs]
        splits = np.repeat([split for split, _, _ in pairs], [len(part) for part in labels])
        columns: dict[str, Any] = {"splits": splits}
    else:
        used = used_columns(dataset, list(present), place)
        images, labels = [present[used["image"]]], [_labels(dataset, present, used)]
        columns = {f"{role}s": present[used[role]] for role in OPTIONAL if role in used}
        if "split" in used:
            columns["splits"] = [
                SPLIT_FOLDERS.get(text.lower(), text) for text in map(str, columns["splits"].ravel().tolist())
            ]
    for part, own in zip(images, labels, strict=True):
        check_images(part[..., 0] if part.ndim == 4 and part.shape[3] == 1 else part, place)
        if own.shape[:1] != part.shape[:1]:
            raise FrostlineError(
                f"{place} has {len(part)} images with labels of shape {own.shape}: give one label per image"
            )
        if part.shape[1:3] != images[0].shape[1:3] or part.ndim != images[0].ndim:
            raise FrostlineError(f"{place} has splits with images of different shapes: resize them to one")
    numbers: NDArray[np.integer]
    if schema.is_multi_label(dataset):
        names = dataset.classes or dataset.columns.labels
        numbers, classes = _several(_joined(labels, place), names, place)
    else:
        numbers, classes = _classes(_joined([_flat(part) for part in labels], place), dataset.classes, place)
    stacked = np.concatenate(images)
    if stacked.ndim == 4 and stacked.shape[3] == 1:
        stacked = stacked[..., 0]
    confirmed = dataset.classes is not None or schema.is_multi_label(dataset)
    groups = np.unique(columns["groups"]).tolist() if "groups" in columns else []
    notes = label_sets.notes([] if confirmed else classes, map(str, groups), several=False)
    return ArraySource(stacked, numbers, classes, **columns, warnings=[*notes])


def _loaded(path: Path, place: str) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise FrostlineError(f"{place} is a single array: save images and labels with numpy.savez")
            arrays = {name: file[name] for name in file.files}
            return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
    except FileNotFoundError:
        near = [p.name for p in path.parent.glob("*.npz")] if path.parent.is_dir() else []
        hint = f"; {allowed(path.name, near)}" if near else ""
        raise FrostlineError(f"{place} doesn't exist: give an .npz file{hint}") from None
    except IsADirectoryError:
        raise FrostlineError(f"{place} is a folder: give an .npz file") from None
    except (FrostlineError, MemoryError):
        raise
    except Exception as error:  # NumPy's parser may raise anything on damaged files.
        if isinstance(error, ValueError) and "pickle" in str(error).lower():
            raise FrostlineError(
                f"{place} is not an .npz file, or holds Python objects: save arrays of numbers or text with "
                "numpy.savez"
            ) from None
        reason = printable(str(error)) or type(error).__name__
        raise FrostlineError(f"{place} can't be read ({reason}): copy or write it again") from None


def _pairs(columns: schema.Columns, present: dict[str, Any], place: str) -> Iterator[tuple[str, str, str]]:
    """Yield (split, images' name, labels' name) of the pairs that are there."""
    for split in SPLITS:
        pairs = {
            alias: pair
            for alias, meant in SPLIT_FOLDERS.items()
            if meant == split and (pair := _pair(columns, alias, present, place))
        }
        if len(pairs) > 1:
            named = " and ".join(image for image, _ in pairs.values())
            raise FrostlineError(f"{place} has {named}, which mean the same split: merge them")
        for image, label in pairs.values():
            yield split, image, label


def _pair(columns: schema.Columns, split: str, present: dict[str, Any], place: str) -> tuple[str, str] | None:
    """Return the names of a split's images and labels, such as x_train and y_train; None: there are none."""
    keras = f"X_{split}" if f"X_{split}" in present and f"x_{split}" not in present else f"x_{split}"
    for image, label in (
        (f"{split}_{columns.image}", f"{split}_{columns.label}"),
        (keras, f"y_{split}"),
    ):
        if image in present and label in present:
            return image, label
        if image in present or label in present:
            alone, other = (image, label) if image in present else (label, image)
            raise FrostlineError(
                f"{place} has the array {alone!r} without {other!r}: add it, or remove {alone!r}"
            )
    return None


def _labels(dataset: schema.Npz, present: dict[str, Any], used: dict[str, str]) -> NDArray[Any]:
    """Return the array of labels, or those of `dataset.columns.labels` as one."""
    if (columns := dataset.columns.labels) is None:
        labels: NDArray[Any] = present[used["label"]]
        return labels
    return _joined([present[name][:, None] for name in columns], f"dataset.file: {dataset.file}", axis=1)


def _joined(parts: Sequence[NDArray[Any]], place: str, axis: int = 0) -> NDArray[Any]:
    try:
        return np.concatenate(parts, axis=axis)
    except ValueError:
        shapes = " and ".join(str(part.shape) for part in parts)
        raise FrostlineError(f"{place} has labels of the shapes {shapes}: give all the same") from None


def _several(
    labels: NDArray[Any], names: Sequence[str] | None, place: str
) -> tuple[NDArray[np.uint8], Sequence[str]]:
    """Return labels (N, K) of 0 and 1, and the class names; without names, the numbers of the columns."""
    if labels.ndim != 2 or labels.dtype.kind not in "biu" or not np.isin(labels, (0, 1)).all():
        raise FrostlineError(
            f"{place} has labels of shape {labels.shape} and type {labels.dtype}; for several labels "
            "per image give an array of 0 and 1 with a row per image and a column per class"
        )
    if names is not None and len(names) != labels.shape[1]:
        raise FrostlineError(
            f"{place} has {labels.shape[1]} columns of labels, and dataset.classes {len(names)} names: give"
            " one for each column, in their order"
        )
    return labels.astype(np.uint8), [str(k) for k in range(labels.shape[1])] if names is None else list(names)


def _flat(labels: NDArray[Any]) -> NDArray[Any]:
    """Return labels as (N,); MedMNIST's are (N, 1)."""
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _classes(
    labels: NDArray[Any], given: Sequence[str] | None, place: str
) -> tuple[NDArray[np.int64], Sequence[str]]:
    """Return labels as class numbers, and the class names."""
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise FrostlineError(
            f"{place} has labels of shape {labels.shape} and type {labels.dtype}; give one whole number or "
            "class name per image"
        )
    if labels.dtype.kind in "iu" and given is not None:
        return labels.astype(np.int64), list(given)
    values, positions = np.unique(labels, return_inverse=True)  # numbers in numeric order
    names = [nfc(str(value)) for value in values.tolist()]
    numbers = (
        class_numbers(given, names, place)
        if labels.dtype.kind == "U"
        else {name: number for number, name in enumerate(names)}
    )
    return np.array([numbers[name] for name in names], dtype=np.int64)[positions], list(numbers)
