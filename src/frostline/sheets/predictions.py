"""A sheet of images with a network's predictions and their probabilities."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from frostline.base.parallel import in_order
from frostline.data.reading.bands import PLAIN, PixelFormat, decode_as
from frostline.data.reading.decode import BadImage, printable, read_bytes
from frostline.data.reading.label_sets import NO_LABEL
from frostline.sheets.page import SIDE, Bar, Card, Sheet, reduced

if TYPE_CHECKING:
    from frostline.serving.prediction import InMemory, Prediction
    from frostline.sheets.page import Picture

MOST_IMAGES = 500
"""Images of a sheet; further ones are only counted."""
BARS = 3
"""Most probable classes of each image."""


def sheet_of(
    predictions: "Sequence[Prediction]",
    images: "Sequence[Path | InMemory]",
    model: str,
    wanted: PixelFormat = PLAIN,
) -> Sheet:
    """Return a sheet of predictions.

    Args:
        predictions: those of the first `MOST_IMAGES` images, or of all.
        images: all files, or images in memory, that were predicted.
        model: the network's name in the title.
        wanted: channels and bits that it takes.
    """
    pictures = in_order(partial(_picture, wanted), images[: len(predictions)])
    cards = [card(prediction, picture) for prediction, picture in zip(predictions, pictures, strict=True)]
    total = "1 image" if len(images) == 1 else f"{len(images):,} images"
    number = total if len(cards) == len(images) else f"the first {len(cards)} of {total}"
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
    title = bars[0].name if prediction.labels is None else ", ".join(prediction.labels) or NO_LABEL
    return Card(pictures, title, name, bars=bars)


def _picture(wanted: PixelFormat, image: "Path | InMemory") -> "Picture | None":
    from frostline.serving.prediction import in_memory

    try:
        if isinstance(image, Path):
            content = read_bytes(image, str(image))
            return reduced(decode_as(content, str(image), wanted, at_least=SIDE).picture)
        return reduced(in_memory(image, wanted).picture.copy())
    except BadImage:
        return None
