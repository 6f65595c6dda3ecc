"""A study's file that is missing: what to do depends on the folder."""

from pathlib import Path

import pytest

from frostline.console.errors import FrostlineError
from frostline.projects import folder

PATH = Path("params.yaml")


def sentence():
    with pytest.raises(FrostlineError) as raised:
        folder.require(PATH, "run `git checkout`")
    return str(raised.value)


def test_the_advice_fits_the_folder(tmp_path, monkeypatch):
    study = tmp_path / "my study"
    (study / "frostline.lock").mkdir(parents=True)
    (study / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    assert sentence() == (
        "params.yaml is missing: this folder has no study; change to a study's folder, or begin one here with"
        " `frostline init NAME --source DIR --target DIR`"
    )
    (study / "dvc.yaml").touch()
    monkeypatch.chdir(study)
    assert sentence() == "params.yaml is missing: run `git checkout`"
    monkeypatch.chdir(study / "notebooks")
    assert sentence() == f"params.yaml is missing: run this in {study}, the folder of the study"
    monkeypatch.chdir(study)
    PATH.touch()
    folder.require(PATH, "run `git checkout`")
