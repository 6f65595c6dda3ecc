"""The image files that `frostline predict` is given, found without importing torch."""

from collections.abc import Sequence
from pathlib import Path

from frostline.base.files import files_below
from frostline.console.errors import FrostlineError, allowed
from frostline.data.reading.bands import IMAGE_SUFFIXES
from frostline.data.reading.checks import tally
from frostline.data.reading.decode import suffix
from frostline.data.reading.table_file import TABLES, open_table
from frostline.schema import Dataset, Table

TRIED = 20
"""Of the first paths of a table, one has to exist; a table with one path is left to the prediction."""
IMAGE = "image"
"""The usual name of a table's column of images."""


def image_files(inputs: Sequence[str], trained_on: Dataset) -> list[Path]:
    """Return the named files, the image files of the named folders, and the images that named tables list.

    Args:
        trained_on: the model's data set; if it is a table, its `columns.image` names the column of images.

    Raises:
        FrostlineError: a folder has no image file, or a table no column of images.
    """
    columns = (trained_on.columns.image, IMAGE) if isinstance(trained_on, Table) else (IMAGE,)
    files: list[Path] = []
    for path in map(Path, inputs):
        if suffix(path.name) in TABLES:
            files += _listed(path, columns)
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
    return files


def _listed(table: Path, columns: Sequence[str]) -> list[Path]:
    """Return the paths in the first of the columns that a table has; they are relative to its folder."""
    opened = open_table(table, str(table), columns[:1])
    column = next((name for name in columns if name in opened.columns), None)
    if column is None:
        wanted = " or ".join(map(repr, dict.fromkeys(columns)))
        names = allowed(columns[0], opened.columns)
        raise FrostlineError(f"{table}: has no column {wanted}; {names}: rename one")
    paths = [table.parent / cell for _, (cell,) in opened.records([column])]
    if len(paths) > 1 and not any(path.exists() for path in paths[:TRIED]):
        raise FrostlineError(
            f"{table}: {paths[0]} doesn't exist; paths in a table are relative to its folder: move it there"
        )
    return paths


def _is_image(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return suffix(path.name) in IMAGE_SUFFIXES and not hidden
