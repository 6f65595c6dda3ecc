"""A sheet of the test images that a run misclassified, the most confident mistakes first."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from frostline.base import project
from frostline.base.formats import read_csv
from frostline.base.run_folder import PREDICTIONS
from frostline.console.errors import FrostlineError
from frostline.data.reading.checks import check_keys
from frostline.data.reading.decode import BadImage, decode, printable
from frostline.data.reading.sources import store_of
from frostline.data.reading.stores import Store
from frostline.schema import ImageFolder, Prepare, Table
from frostline.sheets.page import SIDE, Bar, Card, Picture, Sheet, reduced

if TYPE_CHECKING:
    from frostline.schema import Dataset

NO_PICTURE = "the image is missing or damaged"
Row = dict[str, str]
"""A row of predictions.csv."""


def mistakes(folder: Path, dataset: "Dataset", count: int) -> Sheet:
    """Return a sheet of up to `count` misclassified images.

    Args:
        folder: the run's folder.
        dataset: the run's data set.

    Raises:
        FrostlineError: the run has no predictions.csv.
    """
    if not (folder / PREDICTIONS).is_file():
        raise FrostlineError(
            f"{folder / PREDICTIONS} is missing; measure the run: frostline evaluate {folder}"
        )
    rows = read_csv(folder / PREDICTIONS, ["id", "label", "prediction", "confidence"])
    wrong = [row for row in rows if row["label"] != row["prediction"]]
    wrong.sort(key=lambda row: -float(row["confidence"]))  # stable
    shown = wrong[:count]
    cards = [_card(row, picture) for row, picture in zip(shown, _pictures(shown, dataset), strict=True)]
    title = f"{len(wrong):,} of {len(rows):,} images misclassified"
    first = "all of them" if len(cards) == len(wrong) else f"the first {len(cards)}"
    subtitle = f"{first}, the most confident first; in red what it was taken for" if wrong else ""
    return Sheet(title, subtitle, cards)


def _card(row: Row, picture: Picture | None) -> Card:
    bar = Bar(row["prediction"], float(row["confidence"]))
    note = printable(row["id"]) if picture is not None else f"{printable(row['id'])}: {NO_PICTURE}"
    return Card(() if picture is None else (picture,), row["label"], note, bars=[bar], wrong=True)


def _pictures(rows: Sequence[Row], dataset: "Dataset") -> list[Picture | None]:
    keys = [row["id"] for row in rows]
    if isinstance(dataset, ImageFolder | Table):
        check_keys(keys, PREDICTIONS)
        return [_stored(store_of(dataset), key) for key in keys]
    from frostline.preparation.stage import prepare_cached

    if not keys:
        return []
    whole = dataset.model_copy(update={"shots": None, "fraction": None})
    try:
        index, folder = prepare_cached(Prepare(dataset=whole), project.scratch())
    except FrostlineError:  # it is not on this machine
        return [None] * len(keys)
    if index.storage == "files":
        return [_stored(store_of(dataset), key) for key in keys]
    images, place_of = index.images(folder), {key: place for place, key in enumerate(index.keys)}
    return [reduced(Image.fromarray(images[place_of[key]])) if key in place_of else None for key in keys]


def _stored(store: Store, key: str) -> Picture | None:
    try:
        return reduced(decode(store.read(key), key, at_least=SIDE).image)
    except (BadImage, OSError):
        return None
