"""Folders in which the functions are called."""

import pytest


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, whose path is not plain; nothing is recorded."""
    folder = tmp_path / "a prôject's folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FROSTLINE_TRACKING", "off")
    return folder
