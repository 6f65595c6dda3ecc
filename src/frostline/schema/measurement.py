"""Config of measuring a trained network."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from frostline.schema.types import Strict

View = Literal["flip", "five_crop", "ten_crop"]
Tta = Annotated[
    View | None,
    BeforeValidator(lambda value: None if value == "none" else value),
    Field(description="none, flip, five_crop or ten_crop"),
]


class Measurement(Strict):
    """How a trained network is measured on the test split, and on further test sets."""

    tta: Tta = None
    """Test-time augmentation, the mean of class probabilities over views of each image. flip: the image and
    its mirror image; five_crop: the image and its four corners; ten_crop: these and their mirror images;
    null: none."""
