"""Types that fields share: ranges of numbers, and a strict, frozen model."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


def _not_empty(path: str) -> str:
    """Refuse an empty text, which would stand for the current folder."""
    if not path.strip():
        raise ValueError(
            "found an empty text; give a path (an empty shell variable?), or '.' for the current folder"
        )
    return path


PathText = Annotated[str, AfterValidator(_not_empty)]
"""The path of a file or folder."""


class Strict(BaseModel):
    """A model that rejects unknown keys, wrong types and numbers that are not finite, and is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
