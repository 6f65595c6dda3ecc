"""Images of five bands and 16 bits through a whole run; the last band's low bits tell the classes apart."""

import csv
import io

import numpy as np
import pytest
import torch

from frostline import schema
from frostline.base.formats import read_csv, read_json
from frostline.commands import main as cli
from frostline.console.errors import FrostlineError
from frostline.pipeline.pretrain.stage import train_once
from frostline.preparation.stage import prepare
from frostline.runs.trained_run import TrainedRun
from frostline.serving import export
from frostline.training.services import Services
from tests.data.tiffs import tiff
from tests.data.trees import image_folder
from tests.tiny import RESNET, run_config

BANDS = 5
INPUT = {"size": 8, "channels": BANDS, "mean": [0.5] * 4 + [0.001], "std": [0.3] * 4 + [0.001]}


@pytest.fixture(scope="module")
def satellite(tmp_path_factory):
    """Two classes of noise, 40 TIFFs and .npy arrays each, in which band 4 is 30 or 90 of 65535."""
    root, rng = tmp_path_factory.mktemp("bands") / "fields, 5 bands", np.random.default_rng(0)
    for label, level in (("maize", 30), ("wheat", 90)):
        (root / label).mkdir(parents=True)
        for i in range(40):
            values = rng.integers(0, 65536, (10, 12, BANDS), dtype=np.uint16)
            values[..., 4] = level + rng.integers(0, 20, (10, 12))
            if i % 2:
                (root / label / f"{i}.tif").write_bytes(tiff(values, 1))
            else:
                np.save(root / label / f"{i}.npy", np.moveaxis(values, 2, 0) if i % 4 else values)
    return root


def trained(root, folder, depth, **changes):
    dataset = image_folder(root, test=0.4).dataset
    run = run_config(
        {
            "dataset": dataset.model_dump(),
            "backbone": RESNET,
            "input": {**INPUT, "depth": depth},
            "trainer": {"epochs": 6, "batch_size": 8, "eval_batch_size": 32},
            "optimizer.lr": 0.01,
            **changes,
        }
    )
    prepare(schema.Prepare.of(dataset, run.input), folder / "data")
    train_once(run, folder / "data", folder / "run", Services(folder / "scratch"))
    return folder / "run"


def test_sixteen_bits_are_learnt_served_and_exported(satellite, tmp_path, capsys):
    run = trained(satellite, tmp_path, 16, **{"augment.flip": 0.5, "augment.rotate": 5.0})
    assert read_json(run / "metrics.json")["test"]["accuracy"] > 0.9
    measured = read_csv(run / "predictions.csv")
    capsys.readouterr()
    sheet = ["--html", str(tmp_path / "sheet.html")]
    assert cli.main(["predict", str(run), *(str(satellite / row["id"]) for row in measured), *sheet]) == 0
    for row, truth in zip(csv.DictReader(io.StringIO(capsys.readouterr().out)), measured, strict=True):
        assert row["prediction"] == truth["prediction"]
        assert float(row["confidence"]) == pytest.approx(float(truth["confidence"]), abs=1e-6)
    network = TrainedRun.read(run)
    images, _ = network.images(4)
    assert (images.dtype, images.shape) == (torch.uint16, (4, BANDS, 8, 8))
    assert network.about()["input"]["depth"] == 16
    exported = export.run(network, "pt2", tmp_path / "model.pt2")
    theirs = torch.export.load(exported.file).module()(images)
    with torch.no_grad():
        assert theirs.detach() == pytest.approx(network.serving_model()(images), abs=1e-5)
    with pytest.raises(AssertionError, match="images have to be uint16, 0 to 65535"):
        network.serving_model()(images.to(torch.uint8))


def test_eight_bits_lose_what_tells_the_classes_apart(satellite, tmp_path):
    run = trained(satellite, tmp_path, 8)
    assert read_json(run / "metrics.json")["test"]["accuracy"] < 0.8


def test_images_of_other_channels_are_refused_before_training(satellite, tmp_path):
    dataset = image_folder(satellite).dataset
    for channels in (None, 4):
        with pytest.raises(FrostlineError, match=r"80 files .*: maize/0\.npy has .*channels=5"):
            prepare(schema.Prepare(dataset=dataset, channels=channels), tmp_path / "out")


def test_arrays_have_one_or_three_channels(digits):
    run = run_config({"input.channels": 5})
    with pytest.raises(FrostlineError, match=r"^input\.channels: found 5, and digits holds grey"):
        train_once(run, digits, digits / "run", Services(digits / "scratch"))
