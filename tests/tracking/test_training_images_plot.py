"""The sheet of training images that is recorded with a run."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tiny import run_config

from frostline.data.loading.pixels import Images
from frostline.models.input_spec import InputSpec
from frostline.tracking.training_images_plot import GAP, LINE, NAMES, SIDE, draw
from frostline.training.data_module import ImageData

CLASSES = ("cat", "dog with a very long name", "ёж")


def data_of(augmentation):
    """Twelve images of one grey each, lighter from class to class."""
    spec = InputSpec(16, 1, "bilinear", 1.0, (0.5,), (0.5,))
    labels = torch.arange(12) % 3
    pixels = (60 + 60 * labels).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 16, 16).clone()
    images, run = Images(pixels, labels), run_config(augmentation)
    return ImageData(images, images, spec, run.trainer, run.augment, 0, 3)


def read(sheet):
    return np.asarray(Image.open(io.BytesIO(sheet)))


@pytest.mark.parametrize(
    ("augmentation", "views", "mixed"),
    [({}, 0, False), ({"augment.brightness": 0.5}, 4, False), ({"augment.mixup": 0.4}, 4, True)],
)
def test_a_row_per_image_with_its_views(augmentation, views, mixed):
    sheet = read(draw(data_of(augmentation), CLASSES))
    row = SIDE + GAP + 2 * LINE * mixed
    assert sheet.shape == (GAP + 6 * row, NAMES + GAP + (1 + views) * (SIDE + GAP), 3)
    first = sheet[GAP + SIDE // 2 :: row, NAMES + GAP + SIDE // 2][:6]
    assert np.allclose(first, np.repeat([60, 120, 180], 2)[:, None], atol=2)
    if views:
        later = sheet[GAP + SIDE // 2, NAMES + GAP + SIDE // 2 :: SIDE + GAP, 0][1:5]
        assert len(set(later.tolist())) > 1


def test_it_repeats_and_changes_no_batch():
    augmentation = {"augment.rotate": 10.0, "augment.mixup": 0.2}
    untouched, data, rows = data_of(augmentation), data_of(augmentation), torch.arange(8)
    assert draw(data, CLASSES) == draw(data, CLASSES)
    drawn = torch.get_rng_state()
    draw(data, CLASSES)
    assert torch.equal(drawn, torch.get_rng_state())
    for one, other in zip(
        data.training_images(rows, 3, torch.device("cpu")),
        untouched.training_images(rows, 3, torch.device("cpu")),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_several_labels_are_all_named():
    data = data_of({})
    data.train = replace(data.train, labels=torch.tensor([[1.0, 0, 1]] * 12))
    assert read(draw(data, CLASSES)).shape[0] == GAP + 6 * (SIDE + GAP)


def test_an_image_with_very_many_labels_fits_its_row():
    data = data_of({})
    sheets = []
    for count in (12, 13):
        labels = torch.zeros(12, 20)
        labels[:, :count] = 1
        data.train = replace(data.train, labels=labels)
        sheets.append(read(draw(data, [f"label {i}" for i in range(20)])))
    assert sheets[0].shape == sheets[1].shape
    assert not np.array_equal(*sheets)  # "and 8 more", "and 9 more"
    names = sheets[0][:, :NAMES]
    between = [names[GAP + row * (SIDE + GAP) - GAP : GAP + row * (SIDE + GAP)] for row in range(6)]
    assert np.ptp(between) < 8  # nothing but paper
