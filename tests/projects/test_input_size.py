"""The input of a new study fits the shape of its images, with about as many pixels as the usual square."""

import numpy as np
import pytest
from tests.data.tables import table, write_table
from tests.data.trees import image_folder, packaged, picture

from frostline.data.loading.resize import crop_warning
from frostline.models.input_spec import InputSpec
from frostline.preparation.stage import prepare
from frostline.projects.input_size import input_size


def folder(root, *sizes, kind="png", count=6):
    """A data set whose images have these sizes, (width, height), in turn."""
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for i in range(count):
            seed = 1000 * (label == "dog") + i
            picture(seed, sizes[i % len(sizes)]).save(root / label / f"{i}.{kind}")
    return image_folder(root)


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize(("width", "height"), [(320, 96), (96, 320), (160, 120), (1200, 100), (300, 200)])
def test_oblong_images_are_not_cropped_and_have_as_many_pixels_as_a_square(tmp_path, width, height, kind):
    config = folder(tmp_path / "x", (width, height), kind=kind)
    keys = input_size(config.dataset, None, 64).keys
    high, wide = keys["size"]
    assert keys["crop"] == 1
    assert wide / high == pytest.approx(width / height, rel=0.2)
    assert 0.7 < wide * high / 64**2 < 1.4
    index = prepare(config, tmp_path / "out")
    spec = InputSpec((high, wide), 3, "bilinear", 1.0, (0.5,) * 3, (0.5,) * 3)
    assert crop_warning(index, spec) is None
    square = InputSpec(64, 3, "bilinear", 0.875, (0.5,) * 3, (0.5,) * 3)
    assert "input.size=[height,width]" in crop_warning(index, square)


@pytest.mark.parametrize("sizes", [[(96, 96)], [(100, 90)], [(90, 100), (100, 90)]])
def test_images_that_are_nearly_square_have_the_usual_input(tmp_path, sizes):
    assert input_size(folder(tmp_path / "x", *sizes).dataset, None, 128).keys == {"size": 128}


def test_images_of_several_shapes_are_padded(tmp_path):
    mixed = folder(tmp_path / "mixed", (90, 160), (160, 90))
    assert input_size(mixed.dataset, None, 64).keys == {"size": 64, "fit": "pad"}
    wide, square = folder(tmp_path / "wide", (320, 96)), folder(tmp_path / "square", (96, 96))
    for target, source in ((wide, square), (square, wide)):
        assert input_size(target.dataset, source.dataset, 64).keys == {"size": 64, "fit": "pad"}
    other = folder(tmp_path / "other", (310, 100))
    assert input_size(wide.dataset, other.dataset, 64).keys == {"size": [32, 112], "crop": 1}


def test_tables_and_arrays(tmp_path):
    folder(tmp_path / "x", (320, 96))
    rows = [[f"x/{label}/{i}.png", label] for label in ("cat", "dog") for i in range(6)]
    config = table(write_table(tmp_path / "x.csv", rows)).dataset
    assert input_size(config, None, 64).keys == {"size": [32, 112], "crop": 1}
    images = np.zeros((4, 30, 60, 3), np.uint8)
    np.savez(tmp_path / "x.npz", image=images, label=np.array(["a", "b"] * 2))
    columns = {name: name for name in ("image", "label", "split", "group", "fold", "weight")}
    arrays = packaged("npz", file=str(tmp_path / "x.npz"), columns=columns, classes=None, group=None).dataset
    height, width = input_size(arrays, None, 64).keys["size"]
    assert (height, width) == (48, 96)


def test_images_that_can_not_be_read_are_left_to_prepare(tmp_path):
    config = folder(tmp_path / "x", (320, 96))
    (tmp_path / "x/cat/0.png").write_bytes(b"")
    assert input_size(config.dataset, None, 64).keys == {"size": [32, 112], "crop": 1}
    assert input_size(image_folder(tmp_path / "none").dataset, None, 64).keys == {"size": 64}
