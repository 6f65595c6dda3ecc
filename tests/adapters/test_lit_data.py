import pytest
import torch
from tests.tiny import Bench, random_images

from frostline.adapters.lit_data import EpochOrder, ImageData, TrainBatches, ValBatches
from frostline.core.freeze import FreezePlan
from frostline.data.pixels import Images

FLIP = {"augment": {"flip": 0.5}}


def test_an_order_is_a_permutation_drawn_by_seed_and_epoch_alone():
    def order(seed, epoch, passed=()):
        made = EpochOrder(seed, torch.zeros(50, dtype=torch.int64))
        for earlier in passed:
            made.set_epoch(earlier)
            made.indices()
        made.set_epoch(epoch)
        return made.indices()

    assert torch.equal(order(0, 3), order(0, 3, passed=(0, 1, 2)))
    assert torch.equal(order(0, 3).sort().values, torch.arange(50))
    assert len({tuple(order(seed, epoch).tolist()) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_a_balanced_epoch_has_as_many_batches_and_all_classes_alike():
    images = random_images(140)
    few = Images(images.pixels, torch.tensor([0] * 100 + [1] * 30 + [2] * 10))
    bench = Bench({"trainer.sampling": "balanced"}, train=140)
    data = ImageData(few, few, bench.data.spec, bench.config.trainer, bench.config.augment, 0, 3)

    def epoch(number):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(number)
        return [labels for _, labels in loader]

    assert [len(labels) for labels in epoch(0)] == [20] * 7
    assert len(data.train_dataloader()) == bench.plan.steps_per_epoch == 7
    counts = torch.bincount(torch.cat([torch.cat(epoch(number)) for number in range(30)]))
    torch.testing.assert_close(counts / counts.sum(), torch.full((3,), 1 / 3), atol=0.03, rtol=0)
    assert torch.equal(torch.cat(epoch(3)), torch.cat(epoch(3)))
    assert not torch.equal(torch.cat(epoch(3)), torch.cat(epoch(4)))


@pytest.mark.parametrize(
    ("images", "batch_size", "expected"), [(40, 20, [20, 20]), (41, 20, [20, 21]), (5, 3, [3, 2])]
)
def test_training_batches_are_the_epochs_images_and_as_many_as_the_plan_counts(images, batch_size, expected):
    bench = Bench({"trainer.batch_size": batch_size}, train=images)
    loader = bench.data.train_dataloader()
    assert [len(labels) for _, labels in loader] == expected
    assert len(loader) == len(expected) == bench.plan.steps_per_epoch
    assert isinstance(bench.plan, FreezePlan)


def test_an_image_keeps_its_label_in_the_shuffle():
    images = random_images(30)
    loader = TrainBatches(images, 7, EpochOrder(0, images.labels))
    place = {tuple(p.flatten().tolist()): int(y) for p, y in zip(images.pixels, images.labels, strict=True)}
    seen = [(images.pixels[row], y) for rows, labels in loader for row, y in zip(rows, labels, strict=True)]
    assert len(seen) == 30
    assert all(place[tuple(p.flatten().tolist())] == int(y) for p, y in seen)


def test_validation_batches_lie_in_order():
    images = random_images(10)
    loader = ValBatches(images, 4)
    rows, labels = zip(*loader, strict=True)
    assert len(loader) == 3
    assert [len(part) for part in labels] == [4, 4, 2]
    assert torch.equal(torch.cat(rows), torch.arange(10))
    assert torch.equal(torch.cat(labels), images.labels)


def test_training_images_are_augmented_by_seed_and_step_and_others_never():
    data = Bench(FLIP).data
    rows = torch.arange(16)

    def given(step, seed=0):
        data.seed = seed
        return data.training_images(rows, data.train.labels[rows], step)[0]

    validated = data.validation_images(rows, torch.device("cpu"))
    torch.testing.assert_close(validated, data.val.pixels[rows] / 255)
    still, moved = data.train.pixels[rows] / 255, given(step=5)
    assert torch.equal(moved, given(step=5))
    assert not torch.equal(moved, given(step=6))
    assert not torch.equal(moved, given(step=5, seed=1))
    flipped = (moved == still.flip(-1)).flatten(1).all(1)
    kept = (moved == still).flatten(1).all(1)
    assert bool((flipped ^ kept).all())
    assert flipped.any()
    assert kept.any()


def test_training_images_are_mixed_by_seed_and_step_and_others_never():
    data = Bench({"augment": {"mixup": 1.0}}).data
    rows = torch.arange(16)
    still, labels = data.train.pixels[rows] / 255, data.train.labels[rows]

    def given(step, seed=0):
        data.seed = seed
        return data.training_images(rows, labels, step)

    torch.testing.assert_close(data.validation_images(rows, torch.device("cpu")), data.val.pixels[rows] / 255)
    mixed, shares = given(step=5)
    again, same_shares = given(step=5)
    assert torch.equal(mixed, again)
    assert torch.equal(shares, same_shares)
    assert not torch.equal(mixed, given(step=6)[0])
    assert not torch.equal(mixed, given(step=5, seed=1)[0])
    share = (shares[0, 0] if labels[-1] else shares[1, 1]).item()
    assert shares.shape == (16, 3)
    assert 0 < share < 1
    first = 0 if labels[-1] else 1
    torch.testing.assert_close(mixed[first], share * still[first] + (1 - share) * still[15 - first])


def test_images_are_normalised_by_the_networks_constants():
    bench = Bench({"input": {"mean": [0.5], "std": [0.25]}})
    data, rows = bench.data, torch.tensor([3, 1])
    batch, labels = data.training_images(rows, data.train.labels[rows], 0)
    torch.testing.assert_close(batch, (data.train.pixels[rows] / 255 - 0.5) / 0.25)
    assert torch.equal(labels, data.train.labels[rows])
    batch = data.validation_images(rows, torch.device("cpu"))
    torch.testing.assert_close(batch, (data.val.pixels[rows] / 255 - 0.5) / 0.25)
