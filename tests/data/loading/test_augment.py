import pytest
import torch

from frostline import schema
from frostline.data.loading.augment import augment

NAMES = ("flip", "rotate", "translate", "scale", "brightness", "contrast", "mixup", "cutmix")
NONE = dict.fromkeys(NAMES, 0.0)
ALL = {"flip": 0.5, "rotate": 20.0, "translate": 0.1, "scale": 0.2, "brightness": 0.2, "contrast": 0.2}


def config(**changes: float) -> schema.Augment:
    return schema.Augment(**{**NONE, **changes})


def images(n: int = 64, channels: int = 3, height: int = 16, width: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=drawn(99))


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disc(height: int = 33, width: int = 33, n: int = 1) -> torch.Tensor:
    """A white disc of radius 8 in the middle, on black, with soft edges."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    distance = torch.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    return (8.5 - distance).clamp(0, 1).expand(n, 1, height, width)


def test_nothing_is_the_same_tensor_and_draws_nothing():
    generator, batch = drawn(0), images()
    before = generator.get_state()
    assert augment(batch, config(), generator) is batch
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_same_seed_gives_the_same_bytes(dtype):
    batch = images() if dtype == torch.uint8 else images() / 255
    results = [augment(batch, config(**ALL), drawn(seed)) for seed in (1, 1, 2)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert (results[0].dtype, results[0].shape) == (dtype, batch.shape)


def test_the_batch_is_left_alone():
    batch = images()
    before = batch.clone()
    augment(batch, config(**ALL), drawn(0))
    assert torch.equal(batch, before)


def test_images_are_drawn_for_one_by_one():
    batch = images(1).expand(64, -1, -1, -1)
    results = augment(batch, config(**ALL), drawn(0))
    assert len(torch.unique(results, dim=0)) == 64


def test_flips_are_exact_and_as_often_as_asked():
    batch = images(2000)
    result = augment(batch, config(flip=0.3), drawn(0))
    flipped = (result == batch.flip(-1)).flatten(1).all(1)
    assert torch.equal(result[~flipped], batch[~flipped])
    assert abs(flipped.float().mean() - 0.3) < 0.03
    assert torch.equal(augment(batch, config(flip=1.0), drawn(0)), batch.flip(-1))


def test_turning_one_change_off_leaves_the_others_as_they_were():
    batch = images()
    flipped = augment(batch, config(flip=0.5), drawn(0))
    both = augment(batch, config(flip=0.5, brightness=1e-9), drawn(0))
    assert torch.equal(flipped, both)


@pytest.mark.parametrize("shape", [(33, 33), (33, 65), (65, 33)])
def test_a_disc_stays_a_disc_when_rotated(shape):
    batch = disc(*shape, n=50)
    result = augment(batch, config(rotate=180.0), drawn(0))
    assert (result - batch).abs().max() < 0.25
    assert (result - batch).abs().mean() < 0.01


def test_rotation_stays_within_its_bound_and_turns_both_ways():
    batch = torch.zeros(500, 1, 65, 65)
    batch[:, :, 32, 52:] = 1  # A ray to the right.
    y, x = torch.meshgrid(torch.arange(65) - 32.0, torch.arange(65) - 32.0, indexing="ij")
    mass = augment(batch, config(rotate=30.0), drawn(0))
    angles = torch.rad2deg(torch.atan2((mass * y).sum((1, 2, 3)), (mass * x).sum((1, 2, 3))))
    assert 28 < angles.max() < 31
    assert -31 < angles.min() < -28


def centre(batch: torch.Tensor) -> torch.Tensor:
    """(N, 2) the centre of mass, rows and columns."""
    y, x = torch.meshgrid(torch.arange(batch.shape[2]), torch.arange(batch.shape[3]), indexing="ij")
    total = batch.sum((1, 2, 3))
    return torch.stack([(batch * y).sum((1, 2, 3)) / total, (batch * x).sum((1, 2, 3)) / total], 1)


def test_a_shift_is_a_share_of_each_side():
    batch = disc(65, 129, n=500)
    moved = centre(augment(batch, config(translate=0.2), drawn(0))) - torch.tensor([32.0, 64.0])
    assert 12 < moved[:, 0].abs().max() <= 13.05
    assert 24 < moved[:, 1].abs().max() <= 25.85


def test_zoom_scales_areas():
    batch = disc(65, 65, n=500)
    areas = augment(batch, config(scale=0.2), drawn(0)).sum((1, 2, 3)) / batch[0].sum()
    assert 1.40 < areas.max() < 1.46
    assert 0.62 < areas.min() < 0.68


def test_shift_is_not_changed_by_rotation_and_zoom():
    plain = centre(augment(disc(65, 65, n=50), config(translate=0.2), drawn(0)))
    turned = centre(augment(disc(65, 65, n=50), config(translate=0.2, rotate=45.0, scale=0.2), drawn(0)))
    assert (plain - turned).abs().max() < 0.3


def test_the_border_is_repeated():
    white = torch.full((20, 3, 16, 16), 255, dtype=torch.uint8)
    assert torch.equal(augment(white, config(rotate=45.0, translate=0.3, scale=0.3), drawn(0)), white)


def test_brightness_multiplies_and_contrast_keeps_the_mean():
    batch = torch.full((500, 1, 8, 8), 0.5)
    levels = augment(batch, config(brightness=0.2), drawn(0))[:, 0, 0, 0]
    assert 0.595 < levels.max() <= 0.6
    assert 0.4 <= levels.min() < 0.405
    batch[:, :, :4] = 0.4
    stretched = augment(batch, config(contrast=0.5), drawn(0))
    assert torch.allclose(stretched.mean((1, 2, 3)), batch.mean((1, 2, 3)), atol=1e-6)
    spread = (stretched.amax((1, 2, 3)) - stretched.amin((1, 2, 3))) / 0.1
    assert 1.48 < spread.max() <= 1.501
    assert 0.499 <= spread.min() < 0.52


def test_levels_stay_in_range():
    for batch in (images(), images() / 255):
        result = augment(batch, config(brightness=0.9, contrast=0.9), drawn(0))
        assert result.min() >= 0
        assert result.max() <= (255 if batch.dtype == torch.uint8 else 1)


def test_normalized_images_have_no_brightness():
    batch = images() / 127.5 - 1
    with pytest.raises(
        ValueError, match="augment takes images before normalization: float values from 0 to 1"
    ):
        augment(batch, config(brightness=0.1), drawn(0))
    augment(batch, config(flip=0.5, rotate=10.0), drawn(0))


def test_uint8_and_float_agree():
    batch = images()
    whole = augment(batch, config(**ALL), drawn(0)).float() / 255
    real = augment(batch / 255, config(**ALL), drawn(0))
    assert (whole - real).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_the_same_draws_on_another_device():
    batch = images()
    there = augment(batch.cuda(), config(**ALL), drawn(0))
    assert there.is_cuda
    assert (there.cpu().int() - augment(batch, config(**ALL), drawn(0)).int()).abs().max() <= 1
