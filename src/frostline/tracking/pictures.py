"""Images and short texts on a sheet, drawn with Pillow: matplotlib takes a second for as many axes."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageFont

LETTERS = 15
"""Height of letters in pixels."""


def resized(image: Image.Image, side: int) -> Image.Image:
    """Resize an image so that its longer side has `side` pixels; enlarged images keep sharp pixel edges."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    kind = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC
    return image.resize(size, kind)


def fitted(text: str, room: float) -> str:
    """Shorten a name in the middle to `room` pixels: names often differ in their last letters only."""
    half = (len(text) + 1) // 2
    short = text
    while text_width(short) > room and half > 1:
        half -= 1
        short = f"{text[:half]}…{text[-half:]}"
    return short


def text_width(text: str) -> float:
    """Return the width of a text in pixels."""
    return font().getlength(text)


@cache
def font() -> ImageFont.FreeTypeFont:
    """Return the font that is part of matplotlib, found without importing it: the same on every machine."""
    origin = getattr(find_spec("matplotlib"), "origin", None)
    assert origin is not None
    return ImageFont.truetype(Path(origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf", LETTERS)
