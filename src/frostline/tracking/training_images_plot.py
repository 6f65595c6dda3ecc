"""A sheet of a run's training images as the network sees them: plain, then augmented views."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageDraw

from frostline.data.loading.mix import mixes
from frostline.data.reading.label_sets import NO_LABEL, names_of
from frostline.planning import training_images
from frostline.plotting import theme
from frostline.tracking.pictures import fitted, font, resized

if TYPE_CHECKING:
    from frostline.training.data_module import ImageData

IMAGES = 6
"""Number of images, a row each."""
SIDE = 112
"""Pixels of an image's longer side on the sheet."""
GAP, LINE, NAMES = 10, 21, 130
MOST_NAMES = 5
"""Lines for the labels of an image."""
QUALITY = 90
"""Of the JPEG: a sheet of photographs takes 60 KB, as PNG a megabyte."""


def draw(data: "ImageData", classes: Sequence[str]) -> bytes:
    """Return a JPEG of some training images, evenly from all classes.

    Args:
        data: the run's images; nothing that training draws at random depends on this.
        classes: their names.
    """
    labels = data.train.labels.numpy()
    which = torch.from_numpy(training_images.spread(labels, len(classes), IMAGES))
    plain = [training_images.picture(image) for image in data.train.pixels[which]]
    views = training_images.views(data, which)
    mixed = mixes(data.augmentation)
    width, height = SIDE + GAP, SIDE + GAP + 2 * LINE * mixed
    paper = Image.new(
        "RGB", (NAMES + GAP + width * (1 + len(views)), GAP + height * len(which)), theme.PAPER.light
    )
    pen = ImageDraw.Draw(paper)
    for row, place in enumerate(which.tolist()):
        top = GAP + row * height
        names = names_of(labels[place], classes) or [NO_LABEL]
        if len(names) > MOST_NAMES:
            names = [*names[: MOST_NAMES - 1], f"and {len(names) - MOST_NAMES + 1} more"]
        lines = "\n".join(fitted(name, NAMES - GAP) for name in names)
        pen.text((GAP, top + (SIDE - LINE * (len(names) - 1)) // 2), lines, theme.INK.light, font())
        for column, picture in enumerate([plain[row], *(pictures[row] for pictures, _ in views)]):
            left = NAMES + GAP + column * width
            paper.paste(resized(Image.fromarray(picture), SIDE), (left, top))
            if mixed and column:
                label = training_images.label_text(views[column - 1][1][row], classes)
                lines = "\n".join(fitted(part, SIDE) for part in label.split(" + "))
                pen.text((left, top + SIDE + 2), lines, theme.SOFT.light, font())
    stream = io.BytesIO()
    paper.save(stream, format="jpeg", quality=QUALITY)
    return stream.getvalue()
