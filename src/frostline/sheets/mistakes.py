"""A sheet of the test images that a run misclassified, the most confident mistakes first."""

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Mistake:
    """A misclassified image."""

    image: str
    """Its path in the data set, or its number: the id in predictions.csv."""
    label: str
    """Its class."""
    prediction: str
    """The most probable class."""
    confidence: float
    """The probability of the prediction."""


def read(folder: Path, config: Prepare) -> tuple[list[Mistake], int]:
    """Return the misclassified images of a run, the most confident first, and how many were measured.

    Args:
        folder: of predictions.csv.
        config: the run's data set.

    Raises:
        FrostlineError: the run has no predictions.csv, or images with several labels.
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
    wrong = [
        Mistake(row["id"], row["label"], row["prediction"], float(row["confidence"]))
        for row in rows
        if row["label"] != row["prediction"]
    ]
    wrong.sort(key=lambda mistake: -mistake.confidence)  # stable
    return wrong, len(rows)


def sheet_of(shown: Sequence[Mistake], wrong: int, images: int, config: Prepare) -> Sheet:
    """Return a sheet of misclassified images.

    Args:
        shown: the first ones.
        wrong: number of all.
        images: number of all images that were measured.
        config: their data set.
    """
    pictures = _pictures(shown, config)
    cards = [_card(mistake, picture) for mistake, picture in zip(shown, pictures, strict=True)]
    title = f"{wrong:,} of {images:,} images misclassified"
    first = "all of them" if len(cards) == wrong else f"the first {len(cards)}"
    subtitle = f"{first}, the most confident first; the prediction in red" if wrong else ""
    return Sheet(title, subtitle, cards)


def _card(mistake: Mistake, picture: Picture | None) -> Card:
    bar, name = Bar(mistake.prediction, mistake.confidence), printable(mistake.image)
    note = name if picture is not None else f"{name}: {NO_PICTURE}"
    return Card(() if picture is None else (picture,), mistake.label, note, bars=[bar], wrong=True)


def _pictures(shown: Sequence[Mistake], config: Prepare) -> list[Picture | None]:
    dataset, wanted = config.dataset, PixelFormat(config.channels, config.depth or 8)
    keys = [mistake.image for mistake in shown]
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
