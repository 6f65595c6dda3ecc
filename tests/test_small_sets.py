"""Data sets with hardly any images, or with very many classes: each trains or is refused in one sentence."""

import contextlib
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny import in_process

RESNET = ("backbone=timm", "backbone.name=test_resnet", "input.size=32")
MLP = ("backbone=mlp", "backbone.hidden=[4]", "input.size=8")


def make(root, sizes):
    """A folder for each class with as many images as `sizes` says."""
    rng = np.random.default_rng(0)
    for label, count in enumerate(sizes):
        folder = root / f"class {label:03}"
        folder.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(folder / f"{i}.png")


def finetune(folder, *words):
    """Run the command in a folder, and write what it prints to `said`."""
    from frostline.commands.main import main

    os.environ["FROSTLINE_TRACKING"] = "off"
    with contextlib.chdir(folder), Path("said").open("w") as said, contextlib.redirect_stderr(said):
        common = [
            "dataset=image_folder",
            "dataset.root=images",
            "input.channels=3",
            "weights=none",
            "freeze=full",
        ]
        status = main(["finetune", *common, "trainer.epochs=1", "trainer.threads=1", "out=out", *words])
    raise SystemExit(status)


@pytest.mark.parametrize(
    ("sizes", "words", "trained"),
    [
        ([3, 3], RESNET, 2),
        ([3, 3], (*RESNET, "trainer.batch_size=4", "trainer.accumulate=8"), 2),
        ([8, 7], (*RESNET, "trainer.batch_size=4"), 9),
        ([3] * 300, (*MLP, "dataset.split.test=null"), 600),
        ([2, 2], (*MLP, "dataset.split.test=null", "dataset.shots=1", "dataset.selection=last"), 2),
    ],
    ids=["fewer than a batch", "fewer than a step", "one left over", "300 classes", "one each"],
)
def test_it_trains(sizes, words, trained, tmp_path):
    make(tmp_path / "images", sizes)
    status, error = in_process(finetune, tmp_path, *words)
    assert status == 0, error + (tmp_path / "said").read_text()
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["train"]["n"] == trained
    assert all(np.isfinite(list(values.values())).all() for values in metrics.values())


@pytest.mark.parametrize(
    ("sizes", "words", "error"),
    [
        ([1, 5], MLP, "class 'class 000' has 1 image, too few for a split into train, val, test: add some"),
        ([9], MLP, "dataset.root: images has only one class, 'class 000': a classifier needs at least two"),
        (
            [3, 3],
            (*RESNET, "trainer.batch_size=1"),
            "trainer.batch_size: BatchNorm can't normalize a single im",
        ),
        ([9, 9], (*MLP, "dataset.shots=8"), "dataset.shots"),
        (
            [9, 9],
            (*MLP, "dataset.shots=1"),
            "dataset: shots=1 leaves no labelled image to choose the epoch on",
        ),
    ],
    ids=["one image", "one class", "batches of one", "more shots than images", "one label a class"],
)
def test_it_is_refused(sizes, words, error, tmp_path):
    make(tmp_path / "images", sizes)
    status, _ = in_process(finetune, tmp_path, *words)
    (line,) = re.findall("frostline: error: (.*)", (tmp_path / "said").read_text())
    assert (status, line[: len(error)]) == (2, error)
    assert not (tmp_path / "out").exists()
