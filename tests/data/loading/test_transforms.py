"""Random crops, colour, blur and erasing: what they do to values and places, and what they depend on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from frostline.config import compose
from frostline.console.errors import FrostlineError
from frostline.data.loading import transforms
from frostline.data.loading.augment import augment, source_pixels
from frostline.data.loading.pixels import Images, Uncropped
from frostline.data.loading.resize import to_pixels
from frostline.data.loading.transforms import _box, random_crops, transform, uncropped
from frostline.models.input_spec import InputSpec

SPEC = InputSpec(32, 3, "bicubic", 0.875, (0.5,) * 3, (0.5,) * 3)
NONE = compose.experiment(["augment=none"])[0].augment


def config(**changes):
    return NONE.model_copy(update=changes)


def noise(n: int = 6, channels: int = 3, side: int = 32) -> torch.Tensor:
    stream = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8, generator=stream)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ── random crops ────────────────────────────────────────────────────────────────────────────────────────────


@given(st.integers(0, 10**6), st.floats(0.2, 5), st.floats(0.3, 3), st.floats(0.05, 1))
def test_a_box_lies_in_the_image_and_has_the_inputs_shape(seed, aspect, ratio, smallest):
    top, left, height, width = _box(np.random.default_rng(seed), aspect, ratio, smallest)
    assert min(top, left) >= 0
    assert top + height <= 1 + 1e-9
    assert left + width <= 1 + 1e-9
    shape = width * aspect / height
    assert 0.749 < shape / ratio < 1.334


def test_boxes_have_the_areas_that_were_asked_for():
    boxes = [_box(np.random.default_rng(seed), 1.5, 1.0, 0.35) for seed in range(400)]
    areas = np.array([height * width for _, _, height, width in boxes])
    assert areas.min() > 0.34
    assert 0.45 < areas.mean() < 0.7
    assert np.array([top for top, *_ in boxes]).std() > 0.05


def test_a_crop_is_a_part_of_the_image_in_its_true_shape():
    """A disc in a wide image, which the cache squashes, is a disc in every crop."""
    rows, columns = np.mgrid[0:100, 0:200]
    disc = ((rows - 50) ** 2 + (columns - 100) ** 2 < 30**2).astype(np.uint8) * 255
    spec = InputSpec(64, 1, "bilinear", 1.0, (0.5,), (0.5,))
    whole = torch.from_numpy(to_pixels(Image.fromarray(disc), uncropped(spec)).copy())[None]
    assert whole.shape == (1, 1, 96, 96)
    shapes = []
    for seed in range(20):
        (crop,) = random_crops(whole, np.array([2.0]), config(resized_crop=0.9), spec, seed)
        sides = [int((crop[0] > 127).any(axis).sum()) for axis in (0, 1)]
        shapes.append(max(sides) / min(sides))
    assert max(shapes) < 1.5  # 4/3 by the drawn shape; 2 if the squashed image was cropped as it is


def test_crops_have_the_spec_and_depend_on_seed_and_place_alone():
    wide = replace(SPEC, size=(16, 40))
    images = noise(side=60)
    aspects = np.linspace(0.5, 2, len(images))
    crops = random_crops(images, aspects, config(resized_crop=0.3), wide, 7)
    assert (crops.shape, crops.dtype) == ((6, 3, 16, 40), torch.uint8)
    assert torch.equal(random_crops(images[:2], aspects[:2], config(resized_crop=0.3), wide, 7), crops[:2])
    assert not torch.equal(random_crops(images, aspects, config(resized_crop=0.3), wide, 8), crops)


def test_crops_of_sixteen_bits_keep_them():
    spec = replace(SPEC, depth=16)
    images = (noise(side=48).int() * 251 + 3).to(torch.uint16)
    crops = random_crops(images, np.ones(len(images)), config(resized_crop=0.5), spec, 0)
    assert crops.dtype == torch.uint16
    assert len(np.unique(crops.numpy())) > 1000


def test_the_cached_images_are_squashed_and_bounded():
    assert (uncropped(SPEC).size, uncropped(SPEC).fit, uncropped(SPEC).crop) == (48, "squash", 1.0)
    assert uncropped(replace(SPEC, size=(16, 40))).size == (24, 60)


def test_source_pixels():
    images = Images(noise(), torch.zeros(6).long(), uncropped=Uncropped(noise(side=48), torch.ones(6)))
    rows = torch.tensor([3, 1])
    assert torch.equal(source_pixels(images, rows, NONE, SPEC, stream()), images.pixels[rows])
    crops = source_pixels(images, rows, config(resized_crop=0.5), SPEC, stream())
    assert crops.shape == (2, 3, 32, 32)
    alone = replace(images, uncropped=None)
    assert source_pixels(alone, rows, config(resized_crop=0.5), SPEC, stream()).shape == (2, 3, 32, 32)


# ── changes of images ───────────────────────────────────────────────────────────────────────────────────────

CHANGES = [
    {"flip_vertical": 0.5},
    {"policy": "rand"},
    {"policy": "rand", "magnitude": 20},
    {"policy": "trivial"},
    {"policy": "augmix"},
    {"saturation": 0.5},
    {"hue": 0.3},
    {"blur": 0.7},
    {"erase": 0.7},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_each_change_depends_on_seed_and_place_alone(changes, kind):
    images = noise(side=96) if kind == "uint8" else noise(side=96).float() / 255
    chosen = config(**changes)
    assert chosen.changes_images
    before = torch.get_rng_state()
    changed = augment(images, chosen, stream(3))
    assert (changed.shape, changed.dtype) == (images.shape, images.dtype)
    assert torch.equal(augment(images, chosen, stream(3)), changed)
    assert torch.equal(augment(images[:2], chosen, stream(3)), changed[:2])
    assert not torch.equal(augment(images, chosen, stream(4)), changed)
    assert not torch.equal(changed, images)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("changes", [{"flip_vertical": 1.0}, {"blur": 1.0}, {"erase": 1.0}], ids=str)
def test_changes_of_any_channels_and_sixteen_bits(changes):
    images = (noise(channels=5).int() * 257).to(torch.uint16)
    changed = transform(images, config(**changes), 0)
    assert (changed.shape, changed.dtype) == (images.shape, torch.uint16)
    assert not torch.equal(changed, images)


def test_erasing_replaces_one_rectangle_by_the_mean():
    images = noise(40)
    changed = transform(images, config(erase=1.0), 0)
    different = (changed != images).any(1).float()
    shares = different.mean((1, 2))
    assert shares.min() > 0.01
    assert shares.max() < 0.36
    place = different[0].nonzero()
    (top, left), (bottom, right) = place.amin(0), place.amax(0)
    inside = changed[0, :, top : bottom + 1, left : right + 1]
    assert (inside == inside[:, :1, :1]).all()
    assert (inside[:, 0, 0] - images[0].float().mean((1, 2))).abs().max() <= 0.5


def test_half_are_flipped_upside_down():
    images = noise(200, side=4)
    flipped = transform(images, config(flip_vertical=0.5), 1)
    same = (flipped == images).flatten(1).all(1)
    assert torch.equal(flipped[~same], images[~same].flip(-2))
    assert 60 < same.sum() < 140


def test_the_old_keys_draw_as_before_a_new_one():
    """What flip, rotate, … draw is not changed by the transforms that follow."""
    images = noise()
    old = config(flip=0.5, rotate=20.0, brightness=0.3)
    first = augment(images, old, stream(2))
    both = augment(images, old.model_copy(update={"flip_vertical": 1.0}), stream(2))
    assert torch.equal(both, first.flip(-2))


def test_colours_of_other_images_are_refused():
    transforms.check(config(policy="rand", saturation=0.2), SPEC)
    transforms.check(config(erase=0.2, blur=0.1, resized_crop=0.3), replace(SPEC, channels=5, depth=16))
    with pytest.raises(FrostlineError, match=r"^augment\.policy: found rand, which takes 8-bit grey or RGB"):
        transforms.check(config(policy="rand"), replace(SPEC, channels=5))
    with pytest.raises(FrostlineError, match=r"these have 3 channels of 16 bits; set augment\.hue=null$"):
        transforms.check(config(hue=0.1), replace(SPEC, depth=16))


@pytest.mark.parametrize("name", ["photo", "strong"])
def test_the_presets_of_photographs(name):
    chosen = compose.experiment([f"augment={name}"])[0].augment
    assert transforms.crops(chosen)
    assert transforms.transforms(chosen)
    images = Images(noise(), torch.zeros(6).long())
    pixels = source_pixels(images, slice(0, 6), chosen, SPEC, stream())
    assert augment(pixels, chosen, stream()).shape == (6, 3, 32, 32)
