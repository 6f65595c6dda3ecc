"""A contact sheet of pairs of images that look alike, to decide which to remove."""

import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from frostline.data.reading.decode import printable

NEAR_DUPLICATES_FILE = "near-duplicates.png"
"""Its file, beside the index or the result of a comparison; it is there if any images look alike."""

MOST_PAIRS = 24
"""Pairs on a sheet; further ones are not shown."""

SIDE = 200
"""The longer side of an image on the sheet, pixels."""

_GAP, _LINE = 16, 18
_LETTERS = 30
"""Characters of a caption; the end of a path says more than its beginning."""
_COLUMNS = 2


class Shown(NamedTuple):
    """One image of a pair."""

    image: Image.Image
    name: str
    split: str


def contact_sheet(pairs: Sequence[tuple[Shown, Shown]]) -> bytes:
    """Return a PNG of the first pairs, each side by side over its names; equal pairs give equal bytes."""
    pairs = pairs[:MOST_PAIRS]
    width, height = 2 * SIDE + _GAP, SIDE + 2 * _LINE + _GAP
    columns = min(_COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    sheet = Image.new("RGB", (columns * (width + 2 * _GAP) + _GAP, rows * (height + _GAP) + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, pair in enumerate(pairs):
        row, column = divmod(number, columns)
        left, top = _GAP + column * (width + 2 * _GAP), _GAP + row * (height + _GAP)
        draw.rectangle((left - 6, top - 6, left + width + 6, top + height - 6), outline="#cccccc")
        for side, shown in enumerate(pair):
            x = left + side * (SIDE + _GAP)
            image = shown.image.convert("RGB")
            image.thumbnail((SIDE, SIDE))
            sheet.paste(image, (x + (SIDE - image.width) // 2, top + (SIDE - image.height) // 2))
            name = printable(shown.name)
            name = name if len(name) <= _LETTERS else f"…{name[1 - _LETTERS :]}"
            draw.text((x, top + SIDE + 4), name, "black", font)
            draw.text((x, top + SIDE + 4 + _LINE), shown.split, "#666666", font)
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()
