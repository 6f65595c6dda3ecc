import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial import cKDTree
from tests.data.trees import encoded, picture

from frostline.duplicates import search
from frostline.duplicates.search import (
    Pair,
    groups_of,
    near_matches,
    near_pairs,
    near_pairs_over_folds,
    pixel_digest,
    repeated,
    thumbnail,
)


def test_groups():
    groups = groups_of([b"a", b"b", b"a", b"c", b"b"])
    assert groups.tolist() == [0, 1, 0, 2, 1]
    assert list(repeated(groups)) == [[0, 2], [1, 4]]
    assert list(repeated(groups_of([]))) == []


def test_pixels_have_one_digest_in_every_file_format():
    grey = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    colour = np.stack([grey, grey, grey], axis=2)
    colour[0, 1, 2] ^= 1  # only one channel of one pixel, outside the coarse grid
    for pixels in (grey, colour):
        same = [pixels, pixels.astype(np.uint16) * 257]
        same += [grey[..., None], np.repeat(grey[..., None], 3, axis=2)] if pixels is grey else []
        assert len({pixel_digest(own) for own in same}) == 1
    others = [grey, colour, grey.T, grey.reshape(7, 5), colour[..., :2], grey.astype(np.uint16)]
    others += [np.dstack([colour, np.full_like(grey, 255)])]
    assert len({pixel_digest(own) for own in others}) == len(others)


@pytest.mark.parametrize(("kind", "channels"), [(np.uint8, 3), (np.uint16, 1), (np.uint16, 13)])
def test_a_digest_needs_no_copy_of_a_large_image(kind, channels):
    top = np.iinfo(kind).max
    pixels = np.random.default_rng(0).integers(0, top, (256, 256, channels), dtype=kind)
    tracemalloc.start()
    try:
        pixel_digest(pixels)
        assert tracemalloc.get_traced_memory()[1] < pixels.nbytes / 4
    finally:
        tracemalloc.stop()


def large(seed: int) -> Image.Image:
    return picture(seed, (200, 180))


def recoded(image: Image.Image) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=50)))


CHANGES = {
    "encoded again": recoded,
    "half the size": lambda image: image.resize((100, 90)),
    "darker": lambda image: image.point(lambda level: level * 0.8),
    "grey": lambda image: image.convert("L"),
    "trimmed": lambda image: image.crop((1, 1, 199, 179)),
}


def pairs_of(images: list[Image.Image], splits: list[str], groups: list[int] | None = None) -> list[Pair]:
    thumbnails = np.stack([thumbnail(image) for image in images])
    numbers = np.arange(len(images)) if groups is None else np.array(groups)
    return near_pairs(thumbnails, np.array(splits), numbers)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_copy_in_another_split_is_found(change):
    originals = [large(seed) for seed in range(20)]
    copies = [change(image) for image in originals]
    assert pairs_of(originals + copies, ["train"] * 20 + ["test"] * 20) == [(i, i + 20) for i in range(20)]


def test_different_images_and_mirrored_ones_are_not():
    images = [large(seed) for seed in range(100)]
    images += [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
    assert pairs_of(images, ["train"] * 100 + ["test"] * 100) == []


def test_copies_in_one_split_and_exact_ones_are_not():
    image = large(1)
    assert pairs_of([image, recoded(image)], ["train", "train"]) == []
    assert pairs_of([image, image], ["train", "test"], groups=[0, 0]) == []


def test_blank_images_are_not():
    images = [Image.new("L", (64, 64), level) for level in (0, 255)]
    noise = np.random.default_rng(0).integers(120, 124, (64, 64), dtype=np.uint8)
    assert (
        pairs_of([*images, Image.fromarray(noise)] * 2, ["train"] * 3 + ["val"] * 3, [0, 1, 2, 3, 4, 5]) == []
    )


def test_each_image_is_named_once_with_the_first_it_resembles():
    image = large(1)
    copies = [recoded(image.resize((size, size))) for size in (150, 120, 90, 60)]
    assert pairs_of([image, *copies], ["train", "train", "val", "test", "test"]) == [(0, 2), (0, 3), (0, 4)]


def test_the_same_whatever_the_block(monkeypatch):
    images = [large(seed) for seed in range(12)]
    images += [recoded(image) for image in images]
    splits = ["train", "val", "test"] * 8
    expected = pairs_of(images, splits)
    for name, value in (("_BLOCK", 3), ("_FIRST_TREE", 2), ("_GROWTH", 2), ("_MOST_CANDIDATES", 2)):
        monkeypatch.setattr(search, name, value)
        assert pairs_of(images, splits) == expected


def test_candidates_of_many_images_are_not_held_at_once(monkeypatch):
    """Frames of one camera: each looks like all others."""
    frame = np.asarray(thumbnail(large(1)), dtype=int)
    noise = np.random.default_rng(0).integers(-3, 4, (60, 16, 16))
    frames = (frame + noise).clip(0, 255).astype(np.uint8)
    monkeypatch.setattr(search, "_MOST_CANDIDATES", 50)
    points = search._projected(frames, search._main_axes(frames))[1]
    tree = cKDTree(points)
    parts = list(search._parts(tree, points))
    counts = tree.query_ball_point(points, search._RADIUS, return_length=True)
    assert [place for part in parts for place in part] == list(range(60))
    assert all(len(part) == 1 or counts[part].sum() <= 50 for part in parts)
    splits = np.array(["train"] * 40 + ["test"] * 20)
    assert near_pairs(frames, splits, np.arange(60)) == [(0, second) for second in range(40, 60)]


@given(st.integers(0, 2**32 - 1), st.floats(0, 12))
def test_no_pair_is_missed(seed, noise):
    """Compared with all pairs, for thumbnails around the threshold."""
    rng = np.random.default_rng(seed)
    originals = rng.integers(0, 256, (12, 16, 16))
    smooth = np.array([np.asarray(picture(seed % 1000 + i, (16, 16), "L"), dtype=int) for i in range(12)])
    earlier = np.concatenate([originals, smooth])
    later = (earlier + rng.normal(0, noise, earlier.shape)).clip(0, 255).astype(np.uint8)
    earlier = earlier.astype(np.uint8)
    flat, other = earlier.reshape(24, -1).astype(float), later.reshape(24, -1).astype(float)
    correlations = np.corrcoef(flat, other)[:24, 24:]
    expected = [
        (int(np.flatnonzero(c >= 0.99)[0]), j) for j, c in enumerate(correlations.T) if (c >= 0.99).any()
    ]
    apart = np.zeros(24, int), np.ones(24, int)
    assert near_matches(earlier, later, apart) == expected


def test_why_small_images_are_not_searched():
    """A few of the 6 million pairs between two halves of MNIST-5k are as alike as copies, and none is one."""
    from frostline.console.progress import no_progress
    from frostline.data.reading.sources import mnist5k

    thumbnails = np.stack([thumbnail(Image.fromarray(image)) for image in mnist5k(None, no_progress).images])
    splits = np.where(np.arange(5000) % 2 == 0, "train", "test")
    assert 0 < len(near_pairs(thumbnails, splits, np.arange(5000))) < 50


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), min_size=1, max_size=24))
def test_over_folds_pairs_that_any_fold_divides_are_found(images):
    """Images are copies of four, in one of three folds; of those that are not tested, some are val."""
    originals = [np.asarray(thumbnail(large(seed))) for seed in range(4)]
    thumbnails = np.stack([originals[which] for which, _, _ in images])
    fold_splits = np.array(
        [["test" if fold == k else "val" if val else "train" for k in range(3)] for _, fold, val in images]
    )
    expected = {}
    for second, (which, *place) in enumerate(images):
        for first in range(second):
            if images[first][0] == which and list(images[first][1:]) != place:
                expected.setdefault(second, first)
    found = near_pairs_over_folds(thumbnails, fold_splits)
    assert {second: first for first, second in found} == expected
    assert [pair.second for pair in found] == sorted(expected)
