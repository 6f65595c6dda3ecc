"""Real pictures, photographs and drawings in several modes: ImageNet's weights know far more of them."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAMPS = Path("/usr/share/tuxpaint/stamps")
CLASSES = ("animals", "food", "symbols", "vehicles")
PER_CLASS = 30
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not STAMPS.is_dir(), reason="needs Debian's package tuxpaint-stamps-default"),
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("stamps")
    for name in CLASSES:
        (root / name).mkdir()
        found = [p for p in sorted((STAMPS / name).rglob("*.png")) if "_mirror" not in p.stem]
        step = len(found) / PER_CLASS
        for i in range(PER_CLASS):
            path = found[int(i * step)]
            shutil.copy(path, root / name / f"{i}-{path.name}")
    return root


def accuracy(python: Path, pictures: Path, weights: str, folder: Path) -> float:
    words = f"dataset=image_folder backbone=efficientnet_lite0 weights={weights} freeze=linear_probe"
    words += " input.size=128 trainer.epochs=8 trainer.batch_size=16 trainer.threads=1 optimizer.lr=0.003"
    words += " dataset.split.test=0.4 out=out"
    command = [str(python), "-m", "frostline", "finetune", *words.split(), f"dataset.root={pictures}"]
    environment = {**os.environ, "FROSTLINE_TRACKING": "off", "PYTHONPATH": str(ROOT / "src")}
    folder.mkdir()
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250)
    assert result.returncode == 0, result.stderr
    return json.loads((folder / "out" / "metrics.json").read_text())["test"]["accuracy"]


@pytest.mark.slow
def test_imagenets_weights_know_far_more_than_none(warm, pictures, tmp_path):
    known = accuracy(warm, pictures, "imagenet", tmp_path / "imagenet")
    random = accuracy(warm, pictures, "none", tmp_path / "none")
    assert known > 0.65
    assert known > random + 0.25
