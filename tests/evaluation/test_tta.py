"""Test-time augmentation: views of an image, and the mean of their probabilities."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.data.trees import picture
from tests.tiny import RESNET, arm_of, run_config
from torchvision.transforms.v2 import functional as F

from frostline.base.formats import read_csv
from frostline.commands import main as cli
from frostline.data.loading.resize import to_pixels
from frostline.evaluation.tta import Viewed, averaged, specs, views
from frostline.models.input_spec import InputSpec
from frostline.pipeline.evaluate import stage
from frostline.pipeline.finetune.stage import finetune
from frostline.schema import Evaluate, Measurement
from frostline.training.services import Services

SPEC = InputSpec(28, 3, "bilinear", 0.875, (0.5,) * 3, (0.5,) * 3)


def views_of(tta, spec, image):
    """All views of an image, the image itself first: (n, C, H, W)."""
    stacks = [torch.from_numpy(to_pixels(image, size))[None] for size in specs(tta, spec)]
    further = [Viewed(stacks[view.source], view, spec)[:] for view in views(tta)]
    return torch.cat([stacks[0], *further])


def test_the_views_are_those_of_torchvision():
    image = picture(1, (90, 60))
    whole = torch.from_numpy(np.asarray(image.resize((48, 32), Image.Resampling.BILINEAR)).copy())
    centre = F.center_crop(whole.permute(2, 0, 1), [32, 32])
    *corners, middle = F.five_crop(centre, [28, 28])
    five = torch.stack([middle, *corners])
    assert torch.equal(views_of("five_crop", SPEC, image), five)
    assert torch.equal(views_of("flip", SPEC, image), torch.stack([middle, middle.flip(-1)]))
    assert sorted(map(bytes, views_of("ten_crop", SPEC, image).numpy())) == sorted(
        map(bytes, torch.cat([five, five.flip(-1)]).numpy())
    )


@pytest.mark.parametrize("tta", ["flip", "five_crop", "ten_crop", None])
@pytest.mark.parametrize(
    "change",
    [
        {"size": (20, 30)},
        {"crop": 1.0, "fit": "pad"},
        {"crop": 0.7},
        {"crop": 1.0, "fit": "squash"},
        {"size": 4},
    ],
)
def test_views_have_the_inputs_size(tta, change):
    spec = replace(SPEC, **change)
    shown = views_of(tta, spec, picture(2, (50, 41)))
    assert shown.shape == ({"flip": 2, "five_crop": 5, "ten_crop": 10, None: 1}[tta], *spec.shape)
    if spec.height > 4 and tta in ("five_crop", "ten_crop"):
        assert len(torch.unique(shown, dim=0)) == len(shown)  # The corners differ, also without a crop.


@settings(max_examples=50)
@given(n=st.integers(1, 4), k=st.integers(1, 5), count=st.integers(1, 6), seed=st.integers(0, 99))
def test_probabilities_are_averaged(n, k, count, seed):
    logits = 50 * torch.randn(count, n, k, generator=torch.Generator().manual_seed(seed))
    mean = torch.stack([view.double().softmax(1) for view in logits]).mean(0)
    assert torch.allclose(averaged(list(logits)).softmax(1), mean, atol=1e-12)


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """A seed of a small convolutional network, and what its evaluation with a value of `tta` writes."""
    folder = tmp_path_factory.mktemp("tta")
    config = run_config({"arm": "full", "backbone": RESNET, "input.size": 16})
    finetune(arm_of(config), digits, folder / "finetuned", Services(folder / "scratch"))

    def measured(tta):
        wanted = Evaluate(
            study="tiny", arm="full", dataset=config.dataset, seeds=[0], trainer=config.trainer, tta=tta
        )
        stage.run(wanted, digits, folder / "finetuned", folder / str(tta), Services(folder / "scratch"))
        return folder / str(tta) / "seed-0"

    return measured


def test_probabilities_of_several_labels_are_averaged():
    views = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0)) * 8
    mean = averaged(list(views), several_labels=True).sigmoid()
    torch.testing.assert_close(mean, views.double().sigmoid().mean(0))


def test_an_evaluation_has_the_metrics_with_and_without(trained):
    plain = json.loads((trained(None) / "metrics.json").read_text())
    flipped = json.loads((trained("flip") / "metrics.json").read_text())
    assert flipped.keys() == {*plain, "test_without_tta"}
    assert flipped.pop("test_without_tta") == plain["test"]
    assert flipped.pop("test") != plain.pop("test")
    assert flipped == plain  # Validation chooses; it is measured as during the training.
    summary = json.loads((trained("flip").parent / "metrics.json").read_text())
    assert summary["test_without_tta"]["accuracy"]["n"] == 1
    again = (trained("ten_crop") / "predictions.csv").read_bytes()
    assert again == (trained("ten_crop") / "predictions.csv").read_bytes()
    assert again != (trained("flip") / "predictions.csv").read_bytes()


def test_none_is_written_as_before(trained):
    assert Measurement(tta="none").tta is None
    config = run_config({})
    assert "evaluate" not in config.model_dump()
    assert config.with_tta("flip").model_dump()["evaluate"] == {"tta": "flip"}
    assert config.with_tta("flip").with_tta(None) == config


def test_predict_and_evaluate_take_it(photo_run, tmp_path, capsys):
    photos = photo_run.parents[1] / "photos"
    paths = [str(photos / row["id"]) for row in read_csv(photo_run / "predictions.csv")]
    assert cli.main(["evaluate", str(photo_run), "--tta", "five_crop", "--out", str(tmp_path / "five")]) == 0
    measured = json.loads((tmp_path / "five" / "metrics.json").read_text())
    recorded = json.loads((photo_run / "metrics.json").read_text())
    assert measured["test_without_tta"]["accuracy"] == recorded["test"]["accuracy"]
    test = measured["test"]
    assert capsys.readouterr().out == (
        f"{tmp_path / 'five'}: test accuracy {test['accuracy']:.4f}"
        f" (balanced {test['balanced_accuracy']:.4f}, macro F1 {test['f1_macro']:.4f}),"
        f" {recorded['test']['accuracy']:.4f} without test-time augmentation\n"
    )
    assert cli.main(["predict", str(photo_run), *paths, "--tta", "five_crop", "--batch-size", "3"]) == 0
    predicted = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    for row, expected in zip(predicted, read_csv(tmp_path / "five" / "predictions.csv"), strict=True):
        assert row["prediction"] == expected["prediction"]
        assert float(row["confidence"]) == pytest.approx(float(expected["confidence"]), abs=1e-5)


def test_other_metrics_are_not_written_into_a_run(photo_run, capsys):
    assert cli.main(["evaluate", str(photo_run), "--tta", "flip"]) != 0
    sentence = f"--tta: found flip, but evaluate.tta is none in the config of {photo_run};"
    assert f"{sentence} name another folder with --out" in capsys.readouterr().err
