"""Where a command finds its project, its configs and its home."""

import shutil
from pathlib import Path

import pytest

from frostline.base import project
from frostline.console.errors import FrostlineError

CONF = Path(__file__).parents[2] / "conf"


def make_project(folder: Path) -> Path:
    shutil.copytree(CONF, folder / "conf")
    return folder


def test_the_project_is_found_from_inside(tmp_path, monkeypatch):
    root = make_project(tmp_path / "a project")
    inner = root / "artifacts" / "report"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert project.find_root() == project.home() == root
    assert project.conf_dir() == root / "conf"
    assert project.scratch() == root / ".frostline"


def test_an_empty_folder_is_its_own_home_and_uses_the_checkouts_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert project.find_root() == project.home() == tmp_path
    assert project.conf_dir() == CONF


def test_another_programs_configs_are_not_taken_for_ours(tmp_path, monkeypatch):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("db: mysql\n")
    monkeypatch.chdir(tmp_path)
    assert project.conf_dir() == CONF


def test_without_any_configs_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(project, "CHECKOUT", tmp_path)
    monkeypatch.setattr(project, "PACKAGED_CONF", tmp_path / "frostline" / "conf")
    with pytest.raises(FrostlineError, match=r"no conf/config\.yaml in .* or beside the package"):
        project.conf_dir()


def test_the_home_of_a_queued_experiment_is_the_project_around_it(tmp_path, monkeypatch):
    root = make_project(tmp_path / "project")
    copy = make_project(root / ".dvc" / "tmp" / "exps" / "tmp1234")
    monkeypatch.chdir(copy)
    assert project.find_root() == copy
    assert project.conf_dir() == copy / "conf"
    assert project.home() == root


def test_the_store_is_the_projects_unless_told_otherwise(tmp_path, monkeypatch):
    root = make_project(tmp_path / "a prôject")
    monkeypatch.chdir(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert project.store_uri() == f"sqlite:///{root}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:5000")
    assert project.store_uri() == "http://team:5000"
