"""Objects at the ends of wide images: a centre crop loses them, padding does not; in training and serving."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from frostline.base.formats import read_csv, read_json
from frostline.commands import main as cli
from frostline.models import weights
from frostline.models.initial_weights import NO_WEIGHTS
from frostline.pipeline.pretrain.stage import train_once
from frostline.preparation.stage import prepare
from frostline.runs.trained_run import TrainedRun
from frostline.serving import export
from frostline.training.inputs import load_inputs
from frostline.training.services import Services
from tests.data.trees import image_folder
from tests.tiny import RESNET, run_config

CLASSES = (0, 1, 4)
PER_CLASS = 70


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """Real digits, 8×8, at the left or the right end of grey canvases of 24×8 pixels, which vary a little."""
    root = tmp_path_factory.mktemp("wide") / "digits on canvases"
    data, rng = load_digits(), np.random.default_rng(0)
    for digit in CLASSES:
        (root / f"a {digit}").mkdir(parents=True)
        for i, image in enumerate(data.images[data.target == digit][:PER_CLASS]):
            canvas = rng.integers(0, 20, (8, 24), dtype=np.uint8)
            left = 16 * (i % 2)
            canvas[:, left : left + 8] = image * 15
            Image.fromarray(canvas).save(root / f"a {digit}" / f"{i:02}.png")
    return root


def trained(root: Path, folder: Path, **changes: object) -> tuple[Path, list[str]]:
    """Fine-tune on the folder; return the run's folder and what was said."""
    config = image_folder(root, test=0.4)
    if not (folder / "data").exists():
        prepare(config, folder / "data")
    run = run_config(
        {
            "dataset": config.dataset.model_dump(),
            "backbone.hidden": [32],
            "trainer": {"epochs": 20, "batch_size": 16, "eval_batch_size": 32},
            "optimizer.lr": 0.003,
            **changes,
        }
    )
    said: list[str] = []
    out = folder / "runs" / "one"
    train_once(run, folder / "data", out, Services(folder / "scratch", say=said.append))
    return out, said


def test_of_the_arms_of_a_study_the_baseline_warns_about_their_images(wide, tmp_path):
    config = image_folder(wide)
    prepare(config, tmp_path / "data")
    said: list[str] = []
    pretrained = {"kind": "pretrain", "path": None, "head": "auto"}
    for arm, start in ((None, pretrained), ("scratch", {"kind": "none"}), ("full", pretrained)):
        run = run_config({"dataset": config.dataset.model_dump(), "arm": arm, "weights": start})
        services = Services(tmp_path / "scratch", say=lambda text, arm=arm: said.append(f"{arm} {text[:38]}"))
        load_inputs(run, tmp_path / "data", NO_WEIGHTS, services)
    assert said == [f"{arm} frostline: warning: the centre crop to" for arm in (None, "scratch")]


def accuracy(run: Path) -> float:
    return read_json(run / "metrics.json")["test"]["accuracy"]


def test_a_crop_fails_where_padding_and_a_wide_input_do_not(wide, tmp_path):
    cropped, said = trained(wide, tmp_path / "crop")
    assert accuracy(cropped) < 0.6
    (warning,) = (text for text in said if "the centre crop" in text)
    assert "warning: the centre crop to 8×8 px cuts off 67 % of the median image" in warning
    assert "(24×8 px); input.fit=pad keeps whole images" in warning
    for name, change in {
        "pad": {"input": {"size": 24, "channels": 1, "fit": "pad"}},
        "wide": {"input": {"size": [8, 24], "channels": 1}},
    }.items():
        run, said = trained(wide, tmp_path / name, **change)
        assert accuracy(run) > 0.85, name
        assert not any("the centre crop" in text for text in said), name


def test_a_chosen_crop_is_not_warned_about(wide, tmp_path):
    _, said = trained(wide, tmp_path, **{"input.fit": "crop", "trainer.epochs": 1})
    assert not any("the centre crop" in text for text in said)


@pytest.mark.parametrize("fit", ["pad", "squash", "crop"])
def test_a_wide_network_is_served_as_it_was_trained(wide, tmp_path, capsys, fit):
    """predict gives what evaluate measured; an export takes images of the shape that its metadata names."""
    size = {"input": {"size": [16, 40], "channels": 3, "fit": fit}, "backbone": RESNET, "trainer.epochs": 1}
    folder, _ = trained(wide, tmp_path, **size)
    measured = read_csv(folder / "predictions.csv")
    capsys.readouterr()
    assert cli.main(["predict", str(folder), *(str(wide / row["id"]) for row in measured)]) == 0
    for row, truth in zip(csv.DictReader(io.StringIO(capsys.readouterr().out)), measured, strict=True):
        assert row["prediction"] == truth["prediction"]
        assert float(row["confidence"]) == pytest.approx(float(truth["confidence"]), abs=1e-6)
    run = TrainedRun.read(folder)
    images, about_images = run.images(4)
    assert (images.shape, about_images) == ((4, 3, 16, 40), "4 of its images")
    exported = export.run(run, "pt2", tmp_path / "model.pt2")
    files = {"frostline.json": ""}
    torch.export.load(exported.file, extra_files=files)
    _, about = weights.load(folder / "weights.safetensors")
    for recorded in (about, json.loads(files["frostline.json"])):
        assert recorded["input"]["size"] == [16, 40]
        assert recorded["input"].get("fit", "crop") == fit
        assert recorded["input"]["crop"] == run.spec.crop


def test_random_crops_come_from_whole_images_and_repeat(wide, tmp_path):
    """The crops of a centre-cropped input show the digits at the ends; two runs give the same bytes."""
    drawn = {"resized_crop": 0.3, "policy": "trivial", "erase": 0.2}
    changes = {"augment": drawn, "input.fit": "crop", "trainer.epochs": 2}
    first, _ = trained(wide, tmp_path / "first", **changes)
    again, _ = trained(wide, tmp_path / "again", **changes)
    for name in ("weights.safetensors", "metrics.json", "predictions.csv", "history.csv"):
        assert (first / name).read_bytes() == (again / name).read_bytes()
    shapes = {np.load(path, mmap_mode="r").shape[1:] for path in tmp_path.glob("first/scratch/pixels/*.npy")}
    assert shapes == {(1, 8, 8), (1, 12, 12)}
