"""What `Run.predict` takes."""

import numpy as np
import pytest
from tests.tiny import run_config

from frostline.api.predictions import _sources
from frostline.console.errors import FrostlineError
from frostline.data.reading.bands import PLAIN, PixelFormat


@pytest.mark.parametrize("images", ["my photo", ["my photos", "my photo"]])
def test_a_missing_folder_is_refused_as_the_command_does(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photos").mkdir()
    (tmp_path / "my photos/a.png").touch()
    sentence = "^images: my photo doesn't exist: give image files, folders or tables; did you mean my photos?"
    with pytest.raises(FrostlineError, match=sentence):
        list(_sources(images, PLAIN, run_config().dataset))


COLOUR = PixelFormat(3, 8)


def test_an_array_with_channels_first_is_refused():
    """As three grey images, it would give three wrong predictions."""
    sentence = r"^images: found an array of shape \(3, 32, 40\), with channels first; give \(H, W, 3\): array"
    with pytest.raises(FrostlineError, match=sentence):
        list(_sources(np.zeros((3, 32, 40), np.uint8), COLOUR, run_config().dataset))
    assert len(list(_sources(np.zeros((5, 32, 40), np.uint8), COLOUR, run_config().dataset))) == 5
    assert len(list(_sources(np.zeros((3, 32, 40), np.uint8), PixelFormat(1, 8), run_config().dataset))) == 3


def test_arrays_without_pixels_and_empty_paths_are_refused():
    with pytest.raises(FrostlineError, match=r"^images: found an array of shape \(0, 0, 3\), which has no"):
        list(_sources(np.zeros((0, 0, 3), np.uint8), COLOUR, run_config().dataset))
    with pytest.raises(FrostlineError, match=r"^images: found an empty text: give image files"):
        list(_sources("", COLOUR, run_config().dataset))
