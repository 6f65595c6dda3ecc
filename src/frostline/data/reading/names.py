"""The display name of the data set at a path, which tells it from others."""

import re
from pathlib import Path

from frostline.data.reading.folder import SPLIT_FOLDERS

GENERIC = frozenset(
    (
        *("annotation", "annotations", "array", "arrays", "class", "classes", "data", "dataset", "datasets"),
        *("file", "files", "image", "images", "img", "imgs", "index", "label", "labels", "list", "meta"),
        *("metadata", "set", "table"),
    )
)
"""Words that say nothing about a data set."""


def telling_name(path: Path, own: str = "") -> str:
    """Return the name of the data set at a path: its folder's where its own would tell nothing.

    Words of splits follow the folder's name. Only the path as it is written counts: with the folder that the
    project happens to be in, two copies of a project would have different results.

    Args:
        own: the last part without its suffix; empty: as it is.

    >>> telling_name(Path("photos")), telling_name(Path("clothes/data/labels.csv"), "labels")
    ('photos', 'clothes')
    >>> telling_name(Path("clothes/train_labels.csv"), "train_labels"), telling_name(Path("data/test"))
    ('clothes-train', 'data')
    """
    own = own or path.name
    splits = _splits_in(own)
    if splits is None:
        return own
    folders = [folder.name for folder in path.parents if folder.name not in ("", "..")]
    if telling := next((name for name in folders if _splits_in(name) is None), None):
        return "-".join([telling, *splits])
    # Less misleading than the name of a split, since all splits are read.
    is_split = "".join(splits) == re.sub(r"[-_. ]", "", own.lower())
    return next((name for name in folders if not _splits_in(name)), own) if is_split else own


def _splits_in(name: str) -> list[str] | None:
    """Return the words of splits in a name of generic words; None: it has other words."""
    words = re.split(r"[-_. ]+", name.lower())
    if not all(word in GENERIC or word in SPLIT_FOLDERS for word in words):
        return None
    return [word for word in words if word in SPLIT_FOLDERS]
