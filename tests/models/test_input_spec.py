import json

import pytest

from frostline.models.input_spec import InputSpec, size_of

SQUARE = InputSpec(16, 3, "bicubic", 0.875, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
OBLONG = InputSpec((16, 40), 1, "nearest", 1.0, (0.5,), (0.5,), "pad")


@pytest.mark.parametrize("spec", [SQUARE, OBLONG])
def test_a_spec_goes_to_json_and_back(spec):
    assert InputSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_a_square_that_is_cropped_is_described_as_before_there_was_a_choice():
    assert list(SQUARE.to_dict()) == ["size", "channels", "interpolation", "crop", "mean", "std"]
    assert SQUARE.to_dict()["size"] == 16
    assert SQUARE.geometry == [16, 3, "bicubic", 0.875]


def test_shapes_and_sizes():
    assert (OBLONG.shape, OBLONG.shape_text) == ((1, 16, 40), "1×16×40")
    assert SQUARE.shape == (3, 16, 16)
    assert size_of([16, 16]) == size_of((16, 16)) == size_of(16) == 16
    assert OBLONG.geometry == [[16, 40], 1, "nearest", 1.0, "pad", [128]]
