"""A sheet of images with a network's predictions and their probabilities."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.base.parallel import in_order
from frostline.data.reading.decode import BadImage, decode, printable, read_bytes
from frostline.sheets.page import SIDE, Bar, Card, Sheet, reduced

if TYPE_CHECKING:
    from frostline.serving.prediction import Prediction
    from frostline.sheets.page import Picture

MOST_IMAGES = 500
"""Images of a sheet; further ones are only counted."""
BARS = 3
"""Most probable classes of each image."""


def sheet_of(predictions: "Sequence[Prediction]", paths: Sequence[Path], model: str) -> Sheet:
    """Return a sheet of predictions for image files.

    Args:
        predictions: those of the first `MOST_IMAGES` files, or of all.
        paths: all files that were predicted.
        model: the network's name in the title.
    """
    pictures = in_order(_picture, paths[: len(predictions)])
    cards = [card(prediction, picture) for prediction, picture in zip(predictions, pictures, strict=True)]
    total = "1 image" if len(paths) == 1 else f"{len(paths):,} images"
    number = total if len(cards) == len(paths) else f"the first {len(cards)} of {total}"
    return Sheet(f"Predictions of {model}", number, cards)


def card(prediction: "Prediction", picture: "Picture | None") -> Card:
    """Return the card of a prediction.

    Args:
        picture: the image; None: it can't be read.
    """
    pictures = () if picture is None else (picture,)
    name = printable(prediction.image)
    if prediction.error:
        return Card(pictures, name, prediction.error)
    bars = [Bar(label, share) for label, share in prediction.best[:BARS]]
    return Card(pictures, bars[0].name, name, bars=bars)


def _picture(path: Path) -> "Picture | None":
    try:
        return reduced(decode(read_bytes(path, str(path)), str(path), at_least=SIDE).image)
    except BadImage:
        return None
