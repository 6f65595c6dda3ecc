"""The operations of RandAugment, TrivialAugment Wide and AugMix are torchvision's, strength by strength."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from frostline.data.loading import policies
from frostline.data.loading.policies import AUGMIX, FLAT, RAND, SIGNED, TRIVIAL

NAMES = {
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateX",
    "translate_y": "TranslateY",
    "auto_contrast": "AutoContrast",
    "color": "Color",
}
CLASSES = [(RAND, v2.RandAugment(), 31), (TRIVIAL, v2.TrivialAugmentWide(), 31), (AUGMIX, v2.AugMix(), 10)]


def image(channels: int = 3, height: int = 24, width: int = 36) -> torch.Tensor:
    stream = torch.Generator().manual_seed(channels)
    small = torch.rand(1, channels, 5, 5, generator=stream)
    return (torch.nn.functional.interpolate(small, (height, width), mode="bilinear")[0] * 255).to(torch.uint8)


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("space", "theirs", "bins"), CLASSES)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_operation_is_torchvisions_at_each_strength(space, theirs, bins, channels):
    picture = image(channels)
    table = theirs._AUGMENTATION_SPACE
    assert {NAMES.get(name, name.capitalize()) for name in space.operations} == set(table)
    for name in space.operations:
        label = NAMES.get(name, name.capitalize())
        strengths, signed = table[label]
        assert signed == (name in SIGNED)
        values = strengths(bins, 24, 36)
        assert (values is None) == (name in FLAT)
        for level in range(0, bins, 3):
            strength = space.strength(name, level / (bins - 1), (24, 36))
            expected = 0.0 if values is None else float(values[level])
            if values is not None:
                assert strength == pytest.approx(expected, abs=1e-5), name
            for sign in (1, -1)[: 1 + signed]:
                ours = policies.operation(picture, name, sign * expected, space.interpolation)
                reference = theirs._apply_image_or_video_transform(
                    picture, label, sign * expected, theirs.interpolation, theirs._fill
                )
                assert torch.equal(ours, reference), (name, level)


@pytest.mark.parametrize(
    "policy",
    [policies.rand_augment(9), policies.trivial_augment, policies.augmix],
    ids=["rand", "trivial", "augmix"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_policy_is_a_function_of_its_generator(policy, channels):
    picture = image(channels)
    before = torch.get_rng_state()
    first, again = policy(picture, random(1)), policy(picture, random(1))
    assert torch.equal(first, again)
    assert (first.dtype, first.shape) == (picture.dtype, picture.shape)
    assert len({policy(picture, random(seed)).numpy().tobytes() for seed in range(12)}) > 6
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(picture, image(channels))


@given(st.integers(0, 1000), st.integers(0, 30), st.integers(2, 9), st.integers(2, 9))
def test_small_images_of_any_shape(seed, magnitude, height, width):
    picture = image(3, height, width)
    for policy in (policies.rand_augment(magnitude), policies.trivial_augment, policies.augmix):
        assert policy(picture, random(seed)).shape == picture.shape
