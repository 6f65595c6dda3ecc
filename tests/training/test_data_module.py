import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import Bench, random_images

from frostline.data.loading.pixels import Images
from frostline.training.data_module import FORWARD_PASSES, ImageData, Steps, ValBatches

CPU = torch.device("cpu")
FLIP = {"augment": {"flip": 0.5}}


def data_of(labels, trainer=(), seed=0):
    bench = Bench(dict(trainer))
    images = Images(torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8), labels)
    return ImageData(images, images, bench.data.spec, bench.config.trainer, bench.config.augment, seed, 3)


def test_an_order_is_a_permutation_drawn_by_seed_and_epoch_alone():
    def order(seed, epoch, passed=()):
        data = data_of(torch.zeros(50, dtype=torch.int64), seed=seed)
        for earlier in passed:
            data.training_rows(earlier)
        return torch.cat(data.training_rows(epoch))

    assert torch.equal(order(0, 3), order(0, 3, passed=(0, 1, 2)))
    assert torch.equal(order(0, 3).sort().values, torch.arange(50))
    assert len({tuple(order(seed, epoch).tolist()) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_a_balanced_epoch_has_as_many_batches_and_all_classes_alike():
    labels = torch.tensor([0] * 100 + [1] * 30 + [2] * 10)
    data = data_of(labels, {"trainer.sampling": "balanced"})

    def epoch(number):
        return [labels[rows] for rows in data.training_rows(number)]

    assert [len(batch) for batch in epoch(0)] == [20] * 7
    counts = torch.bincount(torch.cat([torch.cat(epoch(number)) for number in range(30)]))
    torch.testing.assert_close(counts / counts.sum(), torch.full((3,), 1 / 3), atol=0.03, rtol=0)
    assert torch.equal(torch.cat(epoch(3)), torch.cat(epoch(3)))
    assert not torch.equal(torch.cat(epoch(3)), torch.cat(epoch(4)))


@pytest.mark.parametrize(
    ("images", "batch_size", "expected"), [(40, 20, [20, 20]), (41, 20, [20, 21]), (5, 3, [3, 2])]
)
def test_training_batches_are_the_epochs_images_and_as_many_as_the_plan_counts(images, batch_size, expected):
    bench = Bench({"trainer.batch_size": batch_size}, train=images)
    assert [len(rows) for rows in bench.data.training_rows(0)] == expected
    assert bench.data.steps.total() == len(expected) == bench.plan.steps_per_epoch


def test_another_batch_size_makes_other_batches_of_the_same_order():
    data = data_of(torch.zeros(50, dtype=torch.int64))
    before = torch.cat(data.training_rows(1))
    data.images_of_next_step = lambda: 7
    data.train_dataloader()
    assert [len(rows) for rows in data.training_rows(1)] == [7] * 6 + [8]
    assert torch.equal(torch.cat(data.training_rows(1)), before)


@given(total=st.integers(1, 30), sizes=st.lists(st.integers(1, 9), min_size=1), skip=st.integers(0, 29))
def test_steps_are_all_there_however_many_are_taken_at_once(total, sizes, skip):
    steps = Steps(lambda: total)
    turn = itertools.cycle(sizes)
    steps.per_batch, steps.steps_taken = lambda: next(turn), lambda: skip
    steps.load_state_dict(steps.state_dict())
    spans = list(steps)
    assert [number for first, after in spans for number in range(first, after)] == list(
        range(skip % total, total)
    )
    assert len(list(steps)) >= 1  # the next epoch begins at its beginning
    assert next(iter(steps))[0] == 0


def test_validation_batches_lie_in_order():
    images = random_images(10 * FORWARD_PASSES)
    loader = ValBatches({"val": images}, 4)
    splits, rows, labels = zip(*loader, strict=True)
    assert set(splits) == {"val"}
    assert len(loader) == 3
    assert [len(part) for part in labels] == [4 * FORWARD_PASSES, 4 * FORWARD_PASSES, 2 * FORWARD_PASSES]
    assert torch.equal(torch.cat(rows), torch.arange(10 * FORWARD_PASSES))
    assert torch.equal(torch.cat(labels), images.labels)


def test_training_images_are_augmented_by_seed_and_step_and_others_never():
    data = Bench(FLIP).data
    rows = torch.arange(16)

    def drawn(step, seed=0):
        data.seed = seed
        return data.training_images(rows, step, CPU)[0]

    validated = data.validation_images("val", rows, CPU)
    torch.testing.assert_close(validated, data.validation["val"].pixels[rows] / 255)
    still, moved = data.train.pixels[rows] / 255, drawn(step=5)
    assert torch.equal(moved, drawn(step=5))
    assert not torch.equal(moved, drawn(step=6))
    assert not torch.equal(moved, drawn(step=5, seed=1))
    flipped = (moved == still.flip(-1)).flatten(1).all(1)
    kept = (moved == still).flatten(1).all(1)
    assert bool((flipped ^ kept).all())
    assert flipped.any()
    assert kept.any()


def test_training_images_are_mixed_by_seed_and_step_and_others_never():
    data = Bench({"augment": {"mixup": 1.0}}).data
    rows = torch.arange(16)
    still, labels = data.train.pixels[rows] / 255, data.train.labels[rows]

    def drawn(step, seed=0):
        data.seed = seed
        return data.training_images(rows, step, CPU)

    torch.testing.assert_close(
        data.validation_images("val", rows, CPU), data.validation["val"].pixels[rows] / 255
    )
    mixed, shares = drawn(step=5)
    again, same_shares = drawn(step=5)
    assert torch.equal(mixed, again)
    assert torch.equal(shares, same_shares)
    assert not torch.equal(mixed, drawn(step=6)[0])
    assert not torch.equal(mixed, drawn(step=5, seed=1)[0])
    share = (shares[0, 0] if labels[-1] else shares[1, 1]).item()
    assert shares.shape == (16, 3)
    assert 0 < share < 1
    first = 0 if labels[-1] else 1
    torch.testing.assert_close(mixed[first], share * still[first] + (1 - share) * still[15 - first])


def test_images_are_normalized_by_the_networks_constants():
    bench = Bench({"input": {"mean": [0.5], "std": [0.25]}})
    data, rows = bench.data, torch.tensor([3, 1])
    batch, labels = data.training_images(rows, 0, CPU)
    torch.testing.assert_close(batch, (data.train.pixels[rows] / 255 - 0.5) / 0.25)
    assert torch.equal(labels, data.train.labels[rows])
    batch = data.validation_images("val", rows, CPU)
    torch.testing.assert_close(batch, (data.validation["val"].pixels[rows] / 255 - 0.5) / 0.25)
