"""Types that fields share: ranges of numbers, and a strict, frozen model."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


def _path(path: str) -> str:
    """Refuse an empty text, which would stand for the current folder, and the home of an unknown user."""
    if not path.strip():
        raise ValueError(
            "found an empty text; give a path (an empty shell variable?), or '.' for the current folder"
        )
    try:
        Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"found {path!r}, but there is no such user; write the path from / on") from None
    return path


PathText = Annotated[str, AfterValidator(_path)]
"""The path of a file or folder."""


class Strict(BaseModel):
    """A model that rejects unknown keys, wrong types and numbers that are not finite, and is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
