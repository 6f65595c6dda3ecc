"""What `Run.predict` takes."""

import pytest
from tests.tiny import run_config

from frostline.api.predictions import _sources
from frostline.console.errors import FrostlineError
from frostline.data.reading.bands import PLAIN


@pytest.mark.parametrize("images", ["my photo", ["my photos", "my photo"]])
def test_a_missing_folder_is_refused_as_the_command_does(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photos").mkdir()
    (tmp_path / "my photos/a.png").touch()
    sentence = "^images: my photo doesn't exist: give image files, folders or tables; did you mean my photos?"
    with pytest.raises(FrostlineError, match=sentence):
        list(_sources(images, PLAIN, run_config().dataset))
