"""A finished run on pictures of every kind that is decoded, for what is done with trained networks."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.trees import encoded, picture

EXIF_ORIENTATION = 0x0112
SIX = 6
"""Turned by 90 degrees."""


def plant(root: Path) -> Path:
    """Two classes of pictures, 40 in all, of many sizes, modes and formats; one is turned by its EXIF."""
    turned = Image.Exif()
    turned[EXIF_ORIENTATION] = SIX
    kinds = (
        ("RGB", "PNG", {}),
        ("RGB", "JPEG", {"exif": turned}),
        ("L", "PNG", {}),
        ("1", "PNG", {}),
        ("P", "GIF", {}),
        ("RGBA", "PNG", {}),
        ("LA", "PNG", {}),
        ("CMYK", "JPEG", {}),
        ("I;16", "PNG", {}),
        ("RGB", "WEBP", {"lossless": True}),
    )
    for label, name in enumerate(("cat", "dog & más")):
        (root / name).mkdir(parents=True)
        for i in range(20):
            mode, kind, options = kinds[i % len(kinds)]
            image = picture(i + 1000 * label, (30 + i, 40 - i), "L" if mode == "I;16" else mode)
            if mode == "I;16":
                image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
            (root / name / f"{i:02}.{kind.lower()}").write_bytes(encoded(image, kind, **options))
    return root


def train(folder: Path) -> Path:
    """Fine-tune a small convolutional network on pictures in `folder`/photos; return the run's folder."""
    from frostline import schema
    from frostline.pipeline.pretrain.stage import train_once
    from frostline.preparation.stage import prepare
    from frostline.training.services import Services
    from tests.data.trees import image_folder
    from tests.tiny import RESNET, run_config

    config = image_folder(plant(folder / "photos"), test=0.4)
    prepare(config, folder / "data")
    run = run_config(
        {
            "backbone": RESNET,
            "dataset": config.dataset.model_dump(),
            "input": {"size": 16, "channels": 3, "crop": 0.9},
            "trainer": {"epochs": 2, "batch_size": 8, "eval_batch_size": 8},
        }
    )
    assert isinstance(run.dataset, schema.ImageFolder)
    train_once(run, folder / "data", folder / "runs" / "one", Services(folder / "scratch"))
    return folder / "runs" / "one"
