"""The most confident mistakes of a network as a grid of images: true class, prediction, confidence."""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from frostline.plotting import theme

if TYPE_CHECKING:
    from frostline.training.services import Misclassified

# Pillow rather than matplotlib, which takes a second for as many axes.
COLUMNS = 6
SIDE = 160
"""Pixels of an image's longer side in the grid."""
GAP, LINE = 16, 21
LETTERS = 15
"""Height in pixels."""


def draw(mistakes: "Sequence[Misclassified]") -> bytes:
    """Return a PNG of `mistakes` in their order, at least one."""
    columns = min(COLUMNS, len(mistakes))
    rows = -(-len(mistakes) // COLUMNS)
    width, height = SIDE + GAP, SIDE + 2 * LINE + GAP
    paper = Image.new("RGB", (columns * width + GAP, rows * height + GAP), theme.PAPER.light)
    pen = ImageDraw.Draw(paper)
    for place, mistake in enumerate(mistakes):
        down, across = divmod(place, COLUMNS)
        left, top = GAP + across * width, GAP + down * height
        image = _resized(Image.fromarray(mistake.picture))
        paper.paste(image, (left, top + SIDE - image.height))
        confidence = f"{100 * mistake.confidence:.0f} %"
        room = SIDE - _width(f" {confidence}")
        line = top + SIDE + 4
        pen.text((left, line), _fitted(mistake.label, SIDE), theme.INK.light, _font())
        line += LINE
        pen.text((left, line), _fitted(f"→ {mistake.prediction}", room), theme.HURT.light, _font())
        pen.text((left + SIDE - _width(confidence), line), confidence, theme.SOFT.light, _font())
    stream = io.BytesIO()
    paper.save(stream, format="png")
    return stream.getvalue()


def _resized(image: Image.Image) -> Image.Image:
    """Resize an image to the grid; enlarged images keep sharp pixel edges."""
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    kind = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC
    return image.resize(size, kind)


def _fitted(text: str, room: float) -> str:
    """Shorten a name in the middle: names often differ in their last letters only."""
    half = (len(text) + 1) // 2
    short = text
    while _width(short) > room and half > 1:
        half -= 1
        short = f"{text[:half]}…{text[-half:]}"
    return short


def _width(text: str) -> float:
    return _font().getlength(text)


@cache
def _font() -> ImageFont.FreeTypeFont:
    """The font that is part of matplotlib, so that the plot is the same on every machine."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), LETTERS)
