"""The data that all competitors are given: the same pixels, the same split, the same first weights.

frostline prepares the data set as for any run of its own. What it would train on is then written out for the
others: `arrays.npz` with uint8 images at the network's size, and `start.safetensors`, the network that
training begins with.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.defaults.data import STAMPS

HERE = Path(__file__).parent
KEPT = Path(os.environ.get("BENCHMARK_DATA", HERE / ".data"))
FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""
TEST_IMAGES = 50
"""frostline measures its test split after the timed part; nobody else reads it."""


def articles() -> str:
    """Return the data set of the articles' MLP: Fashion-MNIST, else the 5,000 digits of a package."""
    return "fashion_mnist" if FASHION.is_dir() else "mnist5k"


def colour_images(images: int, size: int) -> Path:
    """Return a folder of colour images in class folders, four fifths of them to train on.

    They are Fashion-MNIST's (else MNIST's) pictures, enlarged and tinted: no package carries a set of colour
    photographs. What is on them matters to the accuracy, not to the seconds.
    """
    folder = KEPT / f"colour-{articles()}-{images}-{size}px"
    if folder.is_dir():
        return folder
    from PIL import Image

    from frostline import schema
    from frostline.console.progress import no_progress
    from frostline.data.reading.sources import SOURCES

    split = schema.Split(val=0.2, test=0.2, seed=0)
    common: dict[str, Any] = {"split": split, "shots": None, "fraction": None, "on_bad_image": "error"}
    dataset: schema.Dataset
    if articles() == "fashion_mnist":
        dataset = schema.FashionMnist(kind="fashion_mnist", root=None, **common)
    else:
        dataset = schema.Mnist5k(kind="mnist5k", **common)
    source = SOURCES[dataset.kind](dataset, no_progress)
    draw = np.random.default_rng(0)
    of_class = [
        draw.permutation(np.flatnonzero(source.labels == label)) for label in range(len(source.classes))
    ]
    partial = folder.with_name(f".{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    for number in range(images + TEST_IMAGES):
        # Each class in turn, in each split.
        turn, label = divmod(number, len(of_class))
        row = int(of_class[label][turn % len(of_class[label])])
        part = "test" if number >= images else "val" if turn % 5 == 4 else "train"
        shape = np.asarray(Image.fromarray(source.images[row]).resize((size, size), Image.Resampling.BICUBIC))
        ground, ink = draw.uniform(0, 110, 3), draw.uniform(120, 255, 3)
        share = shape[:, :, None] / 255
        picture = (ground * (1 - share) + ink * share).astype(np.uint8)
        place = partial / part / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{number:06}.png", compress_level=1)
    partial.rename(folder)
    return folder


PHOTOGRAPH = 500, 375
"""Width and height, the median of ImageNet's."""


def photographs(images: int) -> Path:
    """Return a folder of JPEG files in ten class folders, `train` and a tenth as many in `val`.

    Each is a part of one of scikit-learn's two photographs, enlarged or reduced, under up to three of
    tuxpaint's stamps (Debian's tuxpaint-stamps-default), if they are there: real textures at a photograph's
    size, of which no two are equal.
    """
    folder = KEPT / f"photographs-{images}"
    if folder.is_dir():
        return folder
    from PIL import Image
    from sklearn.datasets import load_sample_images

    draw = np.random.default_rng(0)
    scenes = [Image.fromarray(scene) for scene in load_sample_images().images]
    stamps = sorted(STAMPS.rglob("*.png"))
    partial = folder.with_name(f".{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    for part, count in (("train", images), ("val", max(10, images // 10))):
        for number in range(count):
            scene = scenes[number % len(scenes)]
            side = draw.uniform(0.5, 1)
            width, height = (round(side * length) for length in scene.size)
            left = int(draw.integers(scene.width - width + 1))
            top = int(draw.integers(scene.height - height + 1))
            picture = scene.crop((left, top, left + width, top + height)).resize(PHOTOGRAPH)
            for chosen in draw.choice(len(stamps), 3) if stamps else ():
                stamp = Image.open(stamps[chosen]).convert("RGBA")
                stamp.thumbnail((220, 220))
                x, y = (int(draw.integers(-60, length - 60)) for length in PHOTOGRAPH)
                picture.paste(stamp, (x, y), stamp)
            place = partial / part / str(number % 10)
            place.mkdir(parents=True, exist_ok=True)
            picture.save(place / f"{number:06}.jpg", quality=90)
    partial.rename(folder)
    return folder


def given(overrides: Sequence[str]) -> Path:
    """Return the folder of the prepared data that a run with these overrides would train on; made once.

    Raises:
        subprocess.CalledProcessError: frostline can't make it.
    """
    key = sha256(json.dumps(list(overrides)).encode()).hexdigest()[:16]
    folder = KEPT / f"arrays-{key}"
    if not folder.is_dir():
        words = [sys.executable, "-m", "benchmarks.data", str(folder), *overrides]
        path = os.pathsep.join([str(HERE.parent), str(HERE.parent / "src")])
        # Elsewhere, so that the project's own scratch stays as it is.
        with tempfile.TemporaryDirectory() as elsewhere:
            environment = {**os.environ, "PYTHONPATH": path, "FROSTLINE_TRACKING": "off"}
            subprocess.run(words, check=True, cwd=elsewhere, env=environment, capture_output=True, text=True)
    return folder


def main(folder: Path, overrides: Sequence[str]) -> None:
    import torch

    from frostline.config import compose, stage_configs
    from frostline.data.loading.label_budget import label_budget
    from frostline.models import weights
    from frostline.models.pretrained import create_network, load_initial_weights
    from frostline.pipeline.standalone import prepared
    from frostline.training.inputs import load_inputs
    from frostline.training.services import Services

    composed, choices = compose.experiment(overrides)
    run = stage_configs.finetune_config(composed, choices)
    index, place = prepared(composed, "target")
    initial = load_initial_weights(run.backbone, run.weights)
    partial = folder.with_name(f".{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    inputs = load_inputs(run, place, initial, Services(partial / "scratch"))
    seed = run.seed
    parts = {
        "train": label_budget(index, run.dataset, seed).train,
        "val": index.rows("val"),
    }
    arrays: dict[str, Any] = {}
    for name, rows in parts.items():
        images = inputs.images(name, rows)
        arrays[f"{name}_images"], arrays[f"{name}_labels"] = images.pixels[:].numpy(), images.labels.numpy()
    spec = inputs.spec
    arrays |= {
        "mean": np.array(spec.mean),
        "std": np.array(spec.std),
        "classes": np.array(len(index.classes)),
    }
    np.savez(partial / "arrays.npz", **arrays)
    network, _ = create_network(run, initial, spec, index.classes)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    weights.save(partial / "start.safetensors", state, {})
    shutil.rmtree(partial / "scratch", ignore_errors=True)
    partial.rename(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
