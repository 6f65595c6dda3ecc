"""Tables of small images, and configs for them."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.data.trees import IMAGES, picture

from frostline import schema

COLUMNS = {name: name for name in ("image", "label", "split", "group", "fold", "weight")}


def write_table(
    path: Path, rows: Iterable[Sequence[Any]], header: Sequence[str] = ("image", "label")
) -> Path:
    """Write a CSV, or a TSV where the name says so."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(header)
        writer.writerows(rows)
    return path


def plant_flat(root: Path, classes: Sequence[str] = ("cat", "dog"), images: int = IMAGES) -> list[list[str]]:
    """Fill `root` with PNGs in one folder; return the rows of their table: path, class."""
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for label, name in enumerate(classes):
        for i in range(images):
            picture(1000 * label + i).save(root / f"{name} {i}.png")
            rows.append([f"{name} {i}.png", name])
    return rows


def table(
    file: Path,
    columns: Mapping[str, str | None] = {},  # it is not changed
    *,
    val: float | None = 0.2,
    test: float | None = 0.2,
    **fields: Any,
) -> schema.Prepare:
    """The config of a table."""
    data = {
        "kind": "table",
        "file": str(file),
        "root": None,
        "columns": {**COLUMNS, **columns},
        "classes": None,
        "group": None,
        "split": {"val": val, "test": test, "seed": 0},
        "shots": None,
        "fraction": None,
        "on_bad_image": "error",
        **fields,
    }
    return schema.Prepare.model_validate({"dataset": data})
