"""Fashion-MNIST: find or download its four IDX files, and read them."""

import gzip
import io
import math
import zlib
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frostline.base import project
from frostline.base.files import publish
from frostline.base.locks import exclusive
from frostline.console.errors import FrostlineError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Folder of Debian's package dataset-fashion-mnist."""

_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_TORCHVISION_FOLDER = Path("FashionMNIST") / "raw"
_HOW_TO_GET_THEM = (
    "install Debian's package dataset-fashion-mnist, or put the four IDX files (plain or .gz) into a folder "
    "and set dataset.root to it"
)
_UNSIGNED_BYTE = 8

Split = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Images (N, 28, 28) and labels (N,)."""


def fashion_mnist(root: Path | None) -> tuple[Split, Split]:
    """Return the train and test split.

    Args:
        root: folder of the four files, plain or .gz, or torchvision's download folder; None: Debian's package
            if it is installed, else a download by torchvision, cached in `.frostline/downloads`.

    Raises:
        FrostlineError: a file is missing or damaged, or can't be downloaded; says how to get it.
    """
    folder = _existing(root) if root is not None else DEBIAN if _complete(DEBIAN) else _downloaded()
    train, test = (_read_split(folder, split) for split in ("train", "test"))
    return train, test


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, plain or .gz: two zeros, type, rank, sizes, values.

    Raises:
        FrostlineError: it is another kind of file, or truncated.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise FrostlineError(f"{path} is truncated or damaged: {_HOW_TO_GET_THEM}") from None
    except OSError as error:
        raise FrostlineError(f"{path} can't be read ({error.strerror}): {_HOW_TO_GET_THEM}") from None
    rank = content[3] if len(content) > 3 else 0
    header = 4 + 4 * rank
    if content[:3] != bytes((0, 0, _UNSIGNED_BYTE)) or len(content) < header:
        raise FrostlineError(f"{path} is not an IDX file of bytes: {_HOW_TO_GET_THEM}")
    sizes = np.frombuffer(content, dtype=">u4", count=rank, offset=4).tolist()
    if len(content) != header + math.prod(sizes):
        raise FrostlineError(
            f"{path} is damaged: it holds {len(content) - header} values and its header says "
            f"{math.prod(sizes)}; {_HOW_TO_GET_THEM}"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(sizes)


def _read_split(folder: Path, split: str) -> Split:
    images, labels = (read_idx(_find(folder, name)) for name in _FILES[split])
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise FrostlineError(
            f"{folder}: the {split} images have shape {images.shape} and the labels {labels.shape}, which "
            f"don't belong together: {_HOW_TO_GET_THEM}"
        )
    return images, labels


def _existing(root: Path) -> Path:
    folder = root / _TORCHVISION_FOLDER if _complete(root / _TORCHVISION_FOLDER) else root
    if not root.is_dir():
        raise FrostlineError(f"dataset.root: {root} is not a folder: {_HOW_TO_GET_THEM}")
    for names in _FILES.values():
        for name in names:
            _find(folder, name)
    return folder


def _complete(folder: Path) -> bool:
    return all(
        (folder / n).is_file() or (folder / f"{n}.gz").is_file() for names in _FILES.values() for n in names
    )


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FrostlineError(f"dataset.root: {folder} has neither {name} nor {name}.gz: {_HOW_TO_GET_THEM}")


def _downloaded() -> Path:
    """Return the folder of torchvision's download, which is complete; torchvision verifies the hashes."""
    downloads = project.scratch() / "downloads"
    target = downloads / "fashion_mnist"
    with exclusive(downloads / "fashion_mnist.lock"):
        if not target.is_dir():
            from torchvision.datasets import FashionMNIST

            try:
                # torchvision prints every failed mirror; the sentence below is enough.
                with publish(target) as work, redirect_stdout(io.StringIO()):
                    FashionMNIST(work, download=True)
            except (OSError, RuntimeError) as error:
                reason = " ".join(str(error).split())
                raise FrostlineError(
                    f"fashion_mnist can't be downloaded ({reason}): {_HOW_TO_GET_THEM}"
                ) from None
    return target / _TORCHVISION_FOLDER
