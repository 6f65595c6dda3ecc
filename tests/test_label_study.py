"""A study on tables with several labels per image under real DVC, from `frostline init` to the gate."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from tests.data.tables import write_table
from tests.study import leave_out, run

LABELS = ("boat", "red car", "tree")
SMALL = (
    ("resnet10t", "mlp"),
    ("size: 64, channels: 3", "size: 8, channels: 1"),
    ("epochs: 20, batch_size: 32", "epochs: 3, batch_size: 32"),
    ("epochs: 25", "epochs: 4"),
    ("batch_size: 16", "batch_size: 4"),
    ("seeds: [0, 1, 2]", "seeds: [0, 1]"),
)
GATE = "gate: {arms.full.test.mAP.mean: 0.5}\n"


def write_images(root, name, seed, count=60):
    """Images of noise with a bright stripe for each of their labels, and their table."""
    generator = np.random.default_rng(seed)
    (root / name).mkdir(parents=True)
    rows = []
    for number in range(count):
        pixels = generator.integers(0, 90, (8, 8), dtype=np.uint8)
        own = [label for label in LABELS if generator.random() < 0.45]
        for label in own:
            pixels[2 * LABELS.index(label) + 1] += 150
        Image.fromarray(pixels).save(root / name / f"{number}.png")
        rows.append([f"{name}/{number}.png", ";".join(own)])
    write_table(root / f"{name}.csv", rows)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_with_several_labels_is_of_mean_average_precision(tmp_path, warm):
    root = tmp_path / "my work"
    root.mkdir()
    for seed, name in enumerate(("day photos", "night photos", "other town")):
        write_images(root / "data", name, seed)
    (tmp_path / ".gitconfig").write_text("[user]\nname = a\nemail = a@b\n")
    run(["git", "init", "-q"], root)
    data = ["--source", "data/day photos.csv", "--target", "data/night photos.csv"]
    keys = ["source.task=multi_label", "dataset.task=multi_label", "dataset.shots=8"]
    tests = ["dataset.test_sets.other_town.file=data/other town.csv"]
    run([sys.executable, "-m", "frostline", "init", "towns", *data, *keys, *tests], root)
    experiment = root / "conf/experiment/towns.yaml"
    text = experiment.read_text()
    for old, new in SMALL:
        assert old in text
        text = text.replace(old, new)
    experiment.write_text(text + GATE)
    params = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(params.replace("freeze: gradual", "freeze: full"))
    leave_out(root / "dvc.yaml", ("zero_shot", "linear_probe"))
    printed = run(["dvc", "repro"], root, warm).stdout
    assert "points of test mAP" in printed

    report = json.loads((root / "artifacts/report/report.json").read_text())
    full = report["arms"]["full"]
    assert full["test"]["mAP"]["mean"] > 0.5
    assert full["test_sets"]["other_town"]["mAP"]["n"] == 2
    assert full["gain"]["n"] == 2
    metrics = json.loads((root / "artifacts/report/metrics.json").read_text())
    assert set(metrics) == {"full.mAP", "scratch.mAP", "full.gain"}
    page = (root / "artifacts/report/index.html").read_text()
    assert "the mean average precision" in page
    assert "accuracy" not in page.partition("<body")[2].lower()
