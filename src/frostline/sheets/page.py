"""A sheet of captioned images as HTML, for a page or a notebook: self-contained and of bounded size."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from frostline.data.reading.decode import no_larger
from frostline.plotting.templates import page, templates

TEMPLATE = Path(__file__).with_name("page.html.j2")
SIDE = 224
"""Pixels of an image's longer side in a sheet; larger images are reduced."""
BOX, VIEW_BOX = 148, 96
"""CSS pixels of the box that an image is shown in, and of one of several views of an image."""
SMALL = 64
"""Images up to this side are stored without loss, and enlarged with sharp pixel edges."""
MOST_BYTES = 8 << 20
"""Bytes of all images of a sheet; further ones are only counted."""
QUALITY = 85
"""Of JPEG."""

Picture = NDArray[np.uint8]
"""(H, W) grey or (H, W, 3) RGB."""


@dataclass(frozen=True)
class Bar:
    """A named probability."""

    name: str
    share: float
    """0…1."""


@dataclass(frozen=True)
class Card:
    """One image of a sheet, or several views of it, with its caption."""

    pictures: Sequence[Picture]
    """Empty: there is none; `note` says why."""
    title: str
    note: str = ""
    captions: Sequence[str] = ()
    """One for each picture, if there are several."""
    bars: Sequence[Bar] = ()
    wrong: bool = False
    """Whether the first bar is marked as a mistake."""


@dataclass(frozen=True)
class Sheet:
    """A sheet of images; shows itself in a notebook."""

    title: str
    subtitle: str
    cards: Sequence[Card] = field(repr=False)

    def page(self) -> str:
        """Return the sheet as one self-contained HTML page."""
        return page(TEMPLATE, **self._content(), whole=True)

    def _repr_html_(self) -> str:
        """Return the sheet for a notebook's output."""
        template = templates(TEMPLATE.parent, autoescape=True).get_template(TEMPLATE.name)
        return template.render(**self._content(), whole=False)

    def __len__(self) -> int:
        return len(self.cards)

    def _content(self) -> dict[str, Any]:
        cards = list(_within_limit(self.cards))
        return {
            "title": self.title,
            "subtitle": self.subtitle,
            "cards": cards,
            "rest": len(self) - len(cards),
            "box": BOX,
            "view_box": VIEW_BOX,
        }


def _within_limit(cards: Sequence[Card]) -> Iterator[dict[str, Any]]:
    """Yield the content of cards until their images exceed `MOST_BYTES`."""
    total = 0
    for card in cards:
        uris = [_data_uri(picture) for picture in card.pictures]
        total += sum(map(len, uris))
        if total > MOST_BYTES:
            return
        small = bool(card.pictures) and max(card.pictures[0].shape[:2]) <= SMALL
        yield {"card": card, "uris": uris, "small": small}


def reduced(image: Image.Image) -> Picture:
    """Return an image, L or RGB, at most `SIDE` pixels wide and high."""
    return no_larger(image, SIDE)


def _data_uri(picture: Picture) -> str:
    image = Image.fromarray(reduced(Image.fromarray(picture)))
    small, stream = max(picture.shape[:2]) <= SMALL, io.BytesIO()
    if small:
        image.save(stream, format="png", optimize=True)
    else:
        image.save(stream, format="jpeg", quality=QUALITY)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
