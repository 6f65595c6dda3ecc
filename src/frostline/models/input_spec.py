"""The input of a network: size, channels, interpolation, fit, crop and normalization."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    import torch

Fit = Literal["crop", "pad", "squash"]


@dataclass(frozen=True)
class InputSpec:
    """The input of a network: the fields of `schema.Input`, all of them set."""

    size: int | tuple[int, int]
    """Side of a square, or (height, width) that differ, pixels."""
    channels: int
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"]
    crop: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: Fit = "crop"
    depth: Literal[8, 16] = 8
    """Bits per channel of the pixels."""

    @property
    def white(self) -> int:
        """The largest value of a pixel: 255 or 65535."""
        return 2**self.depth - 1

    @property
    def dtype(self) -> "torch.dtype":
        """The type of the pixels: uint8 or uint16."""
        import torch

        return torch.uint8 if self.depth == 8 else torch.uint16

    @property
    def height(self) -> int:
        """Height of an image, pixels."""
        return self.size if isinstance(self.size, int) else self.size[0]

    @property
    def width(self) -> int:
        """Width of an image, pixels."""
        return self.size if isinstance(self.size, int) else self.size[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.channels, self.height, self.width

    @property
    def shape_text(self) -> str:
        """The shape of an image in words: ``3×64×192``."""
        return "×".join(map(str, self.shape))

    @property
    def geometry(self) -> list[Any]:
        """All that the pixels of an image depend on, as plain data for cache keys.

        Keys of squares that are cropped have no fit, and 8 bits are not named, as before there was a choice.
        """
        size = list(self.size) if isinstance(self.size, tuple) else self.size
        geometry = [size, self.channels, self.interpolation, self.crop, *([16] if self.depth == 16 else [])]
        match self.fit:
            case "crop":
                return geometry
            case "pad":
                return [*geometry, self.fit, self.fill]
            case "squash":
                return [*geometry, self.fit]

    @property
    def fill(self) -> list[int]:
        """The mean of each channel as a pixel: the colour of padding, zero after normalization."""
        return [round(self.white * value) for value in self.mean]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON; without `fit` crop and `depth` 8, which are older than these keys."""
        data = {**asdict(self), "mean": list(self.mean), "std": list(self.std)}
        if isinstance(self.size, tuple):
            data["size"] = list(self.size)
        if self.fit == "crop":
            del data["fit"]
        if self.depth == 8:
            del data["depth"]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the spec that `to_dict` was called on."""
        size, mean, std = size_of(data["size"]), tuple(data["mean"]), tuple(data["std"])
        return cls(**{**data, "size": size, "mean": mean, "std": std})


def size_of(size: int | list[int] | tuple[int, int]) -> int | tuple[int, int]:
    """Return a size in the form of `InputSpec.size`.

    >>> size_of([64, 64]), size_of([64, 192])
    (64, (64, 192))
    """
    if isinstance(size, int):
        return size
    height, width = size
    return height if height == width else (height, width)
