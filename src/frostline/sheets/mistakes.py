"""A sheet of the test images that a run misclassified, the most confident mistakes first."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from frostline.base import project
from frostline.base.formats import read_csv
from frostline.base.run_folder import PER_CLASS, PREDICTIONS
from frostline.console.errors import FrostlineError
from frostline.data.reading.bands import PixelFormat, decode_as
from frostline.data.reading.checks import check_keys
from frostline.data.reading.decode import BadImage, printable
from frostline.data.reading.sources import store_of
from frostline.data.reading.stores import Store
from frostline.schema import ImageFolder, Prepare, Table, is_multi_label
from frostline.sheets.page import SIDE, Bar, Card, Picture, Sheet, reduced

NO_PICTURE = "the image is missing or damaged"
Row = dict[str, str]
"""A row of predictions.csv."""


def mistakes(folder: Path, config: Prepare, count: int) -> Sheet:
    """Return a sheet of up to `count` misclassified images.

    Args:
        folder: the run's folder.
        config: the run's data set.

    Raises:
        FrostlineError: the run has no predictions.csv.
    """
    if not (folder / PREDICTIONS).is_file():
        raise FrostlineError(
            f"{folder / PREDICTIONS} is missing; measure the run: frostline evaluate {folder}"
        )
    if is_multi_label(config.dataset):
        raise FrostlineError(
            f"{folder}: a sheet of mistakes is for one label per image, and this run predicts several: see "
            f"{PER_CLASS} and {PREDICTIONS} there"
        )
    rows = read_csv(folder / PREDICTIONS, ["id", "label", "prediction", "confidence"])
    wrong = [row for row in rows if row["label"] != row["prediction"]]
    wrong.sort(key=lambda row: -float(row["confidence"]))  # stable
    shown = wrong[:count]
    cards = [_card(row, picture) for row, picture in zip(shown, _pictures(shown, config), strict=True)]
    title = f"{len(wrong):,} of {len(rows):,} images misclassified"
    first = "all of them" if len(cards) == len(wrong) else f"the first {len(cards)}"
    subtitle = f"{first}, the most confident first; the prediction in red" if wrong else ""
    return Sheet(title, subtitle, cards)


def _card(row: Row, picture: Picture | None) -> Card:
    bar = Bar(row["prediction"], float(row["confidence"]))
    note = printable(row["id"]) if picture is not None else f"{printable(row['id'])}: {NO_PICTURE}"
    return Card(() if picture is None else (picture,), row["label"], note, bars=[bar], wrong=True)


def _pictures(rows: Sequence[Row], config: Prepare) -> list[Picture | None]:
    dataset, wanted = config.dataset, PixelFormat(config.channels, config.depth or 8)
    keys = [row["id"] for row in rows]
    if isinstance(dataset, ImageFolder | Table):
        check_keys(keys, PREDICTIONS)
        return [_stored(store_of(dataset), key, wanted) for key in keys]
    from frostline.preparation.stage import prepare_cached

    if not keys:
        return []
    try:
        index, folder = prepare_cached(config, project.scratch())
    except FrostlineError:  # it is not on this machine
        return [None] * len(keys)
    if index.storage == "files":
        return [_stored(store_of(dataset), key, wanted) for key in keys]
    images, place_of = index.images(folder), {key: place for place, key in enumerate(index.keys)}
    return [reduced(Image.fromarray(images[place_of[key]])) if key in place_of else None for key in keys]


def _stored(store: Store, key: str, wanted: PixelFormat) -> Picture | None:
    try:
        return reduced(decode_as(store.read(key), key, wanted, at_least=SIDE).picture)
    except (BadImage, OSError):
        return None
