"""The image files that `frostline predict` is given, found without importing torch."""

import os
from collections.abc import Sequence
from pathlib import Path

from frostline.base.files import files_below
from frostline.console.errors import FrostlineError, allowed
from frostline.data.reading.bands import IMAGE_SUFFIXES
from frostline.data.reading.checks import tally
from frostline.data.reading.decode import printable, suffix
from frostline.data.reading.table_file import TABLES, open_table
from frostline.data.reading.tables import root_of
from frostline.schema import Dataset, Table

TRIED = 20
"""Of the first paths of a table, one has to exist; a table with one path is left to the prediction."""
NO_IMAGES = frozenset(
    (".txt", ".json", ".jsonl", ".xls", ".xlsx", ".npz", ".arrow", ".zip", ".tar", ".tgz", ".gz", ".7z")
)
"""Suffixes of files that hold lists, several images or archives."""
IMAGE = "image"
"""The usual name of a table's column of images."""


def image_files(inputs: Sequence[str], trained_on: Dataset) -> list[Path]:
    """Return the named files, the image files of the named folders, and the images that named tables list.

    Args:
        trained_on: the model's data set; if it is a table, its `columns.image` names the column of images.

    Raises:
        FrostlineError: a folder has no image file, or a table no column of images.
    """
    files: list[Path] = []
    for path in map(Path, inputs):
        if suffix(path.name) in TABLES:
            files += _listed(path, trained_on)
            continue
        if not path.is_dir():
            files.append(path)
            continue
        below = list(files_below(path))
        inside = sorted(file for file in below if _is_image(file, path))
        if not inside:
            others = [file.name for file in below if file.is_file()]
            holds = f"no image file but {tally(others)}" if others else "no file"
            raise FrostlineError(f"{path}: holds {holds}; name another folder, or the files")
        files += inside
    if files and all(suffix(file.name) in NO_IMAGES for file in files):
        raise FrostlineError(
            f"{files[0]}: is no image file, folder of images, or table (CSV, TSV, Parquet) with their paths; "
            "unpack archives, and save arrays as image files"
        )
    return files


def _listed(table: Path, trained_on: Dataset) -> list[Path]:
    """Return the paths in a table's column of images.

    They are relative to the table's folder. If none exists there, and the model was trained with this table,
    they are relative to `dataset.root`.
    """
    columns, roots = [IMAGE], [table.parent]
    if isinstance(trained_on, Table):
        columns = [trained_on.columns.image, IMAGE]
        own = os.path.realpath(Path(trained_on.file).expanduser()) == os.path.realpath(table)
        if own and trained_on.root is not None:
            roots.append(root_of(trained_on))
    opened = open_table(table, str(table), columns[:1])
    column = next((name for name in columns if name in opened.columns), None)
    if column is None:
        wanted = " or ".join(map(repr, dict.fromkeys(columns)))
        names = allowed(columns[0], opened.columns)
        raise FrostlineError(f"{table}: has no column {wanted}; {names}: rename one")
    cells = [cell for _, (cell,) in opened.records([column])]
    paths = [cell for cell in cells if cell.strip() and "://" not in cell]
    if cells and not paths:
        found = f"URLs such as {printable(cells[0])}" if cells[0].strip() else "no paths"
        raise FrostlineError(
            f"{table}: has {found} in column {column!r}; list the paths of images on this machine"
        )
    for root in roots:
        if any((root / path).exists() for path in paths[:TRIED]):
            return [root / cell for cell in cells]
    if len(paths) > 1:
        start = "its folder" + (f" or to dataset.root={roots[1]}" if len(roots) > 1 else "")
        raise FrostlineError(
            f"{table}: {roots[0] / paths[0]} doesn't exist; paths in a table are relative to {start}: "
            "move it there"
        )
    return [roots[0] / cell for cell in cells]


def _is_image(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return suffix(path.name) in IMAGE_SUFFIXES and not hidden
