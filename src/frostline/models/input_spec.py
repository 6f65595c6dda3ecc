"""The input of a network: size, channels, interpolation, crop and normalization."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self


@dataclass(frozen=True)
class InputSpec:
    """The input of a network: the fields of `schema.Input`, all of them set."""

    size: int
    channels: Literal[1, 3]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    crop: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.channels, self.size, self.size

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the spec that `to_dict` was called on."""
        return cls(**{**data, "mean": tuple(data["mean"]), "std": tuple(data["std"])})
