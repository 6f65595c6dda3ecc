"""The grid of mistakes: every picture is in it as it is, whatever its size and its class's name."""

import io

import numpy as np
import pytest
from PIL import Image

from frostline.tracking.mistakes_plot import GAP, LINE, SIDE, draw
from frostline.tracking.pictures import fitted, text_width
from frostline.training.services import Misclassified


def mistake(picture, label="cat", prediction="dog"):
    return Misclassified("an id", label, prediction, 0.98765, picture)


def opened(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def cell(drawn: np.ndarray, place: int) -> np.ndarray:
    down, across = divmod(place, 6)
    top, left = GAP + down * (SIDE + 2 * LINE + GAP), GAP + across * (SIDE + GAP)
    return drawn[top : top + SIDE, left : left + SIDE]


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (6, 6, 1), (7, 6, 2), (24, 6, 4)])
def test_as_many_as_there_are(count, columns, rows):
    colours = [(10 * i, 255 - 10 * i, 0) for i in range(count)]
    pictures = [np.full((12, 12, 3), colour, np.uint8) for colour in colours]
    drawn = opened(draw([mistake(picture) for picture in pictures]))
    assert drawn.shape[:2] == (rows * (SIDE + 2 * LINE + GAP) + GAP, columns * (SIDE + GAP) + GAP)
    for place, colour in enumerate(colours):
        assert (cell(drawn, place) == colour).all()


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3), (300, 200), (1, 40, 3), (500, 1)])
def test_images_of_any_shape_keep_their_proportions(shape):
    drawn = cell(opened(draw([mistake(np.zeros(shape, np.uint8))])), 0)
    black = (drawn == 0).all(axis=2)
    assert black.any(axis=0).sum() == max(1, round(SIDE * shape[1] / max(shape[:2])))
    assert black.any(axis=1).sum() == max(1, round(SIDE * shape[0] / max(shape[:2])))


def test_small_images_keep_sharp_pixels():
    checks = np.array([[0, 255], [255, 0]], np.uint8)
    drawn = cell(opened(draw([mistake(checks)])), 0)
    assert (drawn[:80, :80] == 0).all()
    assert (drawn[:80, 80:] == 255).all()


@pytest.mark.parametrize("name", ["cat", "a very long name of a class 1", "", "W" * 400, "数" * 50])
def test_names_are_cut_in_their_middle_where_there_is_no_room(name):
    short = fitted(name, SIDE)
    assert text_width(short) <= SIDE
    assert (short == name) == (text_width(name) <= SIDE)
    assert short[:1] == name[:1]
    assert short[-1:] == name[-1:]
    draw([mistake(np.zeros((8, 8), np.uint8), name, name)])
