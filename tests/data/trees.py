"""Folders of small pictures, made with Pillow, and configs for them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from frostline import schema

CLASSES = ("cat", "dog")
IMAGES = 6


def picture(seed: int, size: tuple[int, int] = (40, 36), mode: str = "RGB") -> Image.Image:
    """Blotches that no other seed makes: noise, enlarged."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def plant(root: Path, classes: tuple[str, ...] = CLASSES, images: int = IMAGES, seed: int = 0) -> Path:
    """Fill `root` with class folders of PNGs; no two pictures in it are alike."""
    for label, name in enumerate(classes):
        folder = root / name
        folder.mkdir(parents=True)
        for i in range(images):
            picture(seed + 1000 * label + i).save(folder / f"{i}.png")
    return root


def plant_splits(root: Path, splits: tuple[str, ...] = ("train", "test")) -> Path:
    """Fill `root` with split folders of class folders."""
    for i, split in enumerate(splits):
        plant(root / split, seed=100_000 * (i + 1))
    return root


def image_folder(
    root: Path, val: float | None = 0.2, test: float | None = 0.2, on_bad_image: str = "error", seed: int = 0
) -> schema.Prepare:
    """The config of a tree."""
    return schema.Prepare(
        dataset=schema.ImageFolder(
            kind="image_folder",
            root=str(root),
            split=schema.Split(val=val, test=test, seed=seed),
            shots=None,
            fraction=None,
            on_bad_image=on_bad_image,
        )
    )


def packaged(
    kind: str, val: float | None = 0.2, test: float | None = 0.2, **fields: object
) -> schema.Prepare:
    """The config of a data set that isn't a tree."""
    data = {
        "kind": kind,
        "split": {"val": val, "test": test, "seed": 0},
        "shots": None,
        "fraction": None,
        "on_bad_image": "error",
        **fields,
    }
    return schema.Prepare.model_validate({"dataset": data})
