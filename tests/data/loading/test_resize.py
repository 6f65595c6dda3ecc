from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.data.trees import picture
from timm.data import create_transform

from frostline.data.loading.pixels import normalize
from frostline.data.loading.resize import cropped_share, to_pixels
from frostline.models.input_spec import InputSpec

SPEC = InputSpec(48, 3, "bicubic", 0.875, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
GREY = replace(SPEC, channels=1, mean=(0.5,), std=(0.5,))
MODES = {"crop": "center", "pad": "border", "squash": "squash"}


def timms(image, spec):
    transform = create_transform(
        (3, spec.height, spec.width),
        is_training=False,
        interpolation=spec.interpolation,
        crop_pct=spec.crop,
        crop_mode=MODES[spec.fit],
        mean=spec.mean,
        std=spec.std,
    )
    return transform(image)


@pytest.mark.parametrize("crop", [1.0, 0.95, 0.875])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(40, 36), (37, 101), (300, 200), (64, 64), (20, 25)])
def test_the_same_pixels_as_timms_eval_transform(size, interpolation, crop):
    image, spec = picture(1, size), replace(SPEC, interpolation=interpolation, crop=crop)
    ours = torch.from_numpy(to_pixels(image, spec))[None]
    assert torch.equal(normalize(ours, spec)[0], timms(image, spec))


@pytest.mark.parametrize("crop", [1.0, 0.875])
@pytest.mark.parametrize("fit", MODES)
@pytest.mark.parametrize("size", [48, (32, 96), (96, 32), (40, 41)])
@pytest.mark.parametrize("shape", [(40, 36), (37, 101), (300, 97), (64, 64), (9, 60)])
def test_each_fit_is_one_of_timms_for_any_shape(shape, size, fit, crop):
    image, spec = picture(1, shape), replace(SPEC, size=size, fit=fit, crop=crop)
    ours = to_pixels(image, spec)
    assert ours.shape == spec.shape
    assert torch.equal(normalize(torch.from_numpy(ours)[None], spec)[0], timms(image, spec))


def test_colour_and_grey_become_what_the_network_takes():
    colour, grey = picture(1), picture(1, mode="L")
    assert to_pixels(colour, GREY).shape == (1, 48, 48)
    assert (to_pixels(grey, SPEC) == to_pixels(grey, GREY)).all()
    assert (to_pixels(colour, GREY) == to_pixels(colour.convert("L"), GREY)).all()


def test_padding_is_the_mean_and_keeps_every_pixel():
    image = picture(1, (24, 8), "L")
    padded = to_pixels(image, replace(GREY, size=24, crop=1.0, fit="pad"))[0]
    assert (padded[8:16] == np.asarray(image)).all()
    assert (padded[[0, 7, 16, 23]] == 128).all()


@given(
    st.integers(2, 300),
    st.integers(2, 300),
    st.sampled_from([4, (4, 9), (7, 5)]),
    st.sampled_from(list(MODES)),
)
def test_any_shape_becomes_the_input(width, height, size, fit):
    spec = replace(GREY, size=size, fit=fit)
    assert to_pixels(picture(0, (width, height), "L"), spec).shape == spec.shape


def test_what_the_crop_cuts_off():
    widths, heights = np.array([100, 300, 300]), np.array([100, 100, 100])
    assert cropped_share(widths, heights, GREY) == pytest.approx(2 / 3)
    assert cropped_share(widths[:1], heights[:1], GREY) == 0
    assert cropped_share(widths, heights, replace(GREY, size=(16, 48))) == 0
    assert cropped_share(heights, widths, replace(GREY, size=(16, 48))) == pytest.approx(8 / 9)
    assert cropped_share(widths, heights, replace(GREY, fit="pad")) == 0
