"""The most confident mistakes of a network as a grid of images: true class, prediction, confidence."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from frostline.plotting import theme
from frostline.tracking.pictures import fitted, font, resized, text_width

if TYPE_CHECKING:
    from frostline.training.services import Misclassified

COLUMNS = 6
SIDE = 160
"""Pixels of an image's longer side in the grid."""
GAP, LINE = 16, 21


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
        image = resized(Image.fromarray(mistake.picture), SIDE)
        paper.paste(image, (left, top + SIDE - image.height))
        confidence = f"{100 * mistake.confidence:.0f} %"
        room = SIDE - text_width(f" {confidence}")
        line = top + SIDE + 4
        pen.text((left, line), fitted(mistake.label, SIDE), theme.INK.light, font())
        line += LINE
        pen.text((left, line), fitted(f"→ {mistake.prediction}", room), theme.HURT.light, font())
        pen.text((left + SIDE - text_width(confidence), line), confidence, theme.SOFT.light, font())
    stream = io.BytesIO()
    paper.save(stream, format="png")
    return stream.getvalue()
