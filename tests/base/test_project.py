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
    assert project.conf_dirs() == [root / "conf", CONF]
    assert project.scratch() == root / ".frostline"


def test_an_empty_folder_is_its_own_home_and_uses_the_checkouts_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert project.find_root() == project.home() == tmp_path
    assert project.conf_dirs() == [CONF]


def test_another_programs_configs_are_not_taken_for_ours(tmp_path, monkeypatch):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("db: mysql\n")
    monkeypatch.chdir(tmp_path)
    assert project.conf_dirs() == [CONF]


@pytest.mark.parametrize("group", ["freeze", "experiment"])
def test_a_projects_own_options_are_found_beside_frostlines(tmp_path, monkeypatch, group):
    own = tmp_path / "conf" / group / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.touch()
    (tmp_path / "conf/freeze").mkdir(exist_ok=True)
    (tmp_path / "conf/freeze/full.yaml").touch()
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    assert project.conf_dirs() == [tmp_path / "conf", CONF]
    assert project.conf_files(group)["mine"] == own
    assert project.conf_files("freeze")["full"] == tmp_path / "conf/freeze/full.yaml"
    assert project.conf_files("freeze")["gradual"] == CONF / "freeze/gradual.yaml"
    assert project.writable_conf() == tmp_path / "conf"


def test_nothing_is_written_into_another_programs_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert project.writable_conf() == tmp_path / "conf"
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "config.yaml").write_text("db: mysql\n")
    assert project.writable_conf() is None
    assert project.conf_dirs() == [CONF]


def test_without_any_configs_there_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(project, "CHECKOUT", tmp_path)
    monkeypatch.setattr(project, "PACKAGED_CONF", tmp_path / "frostline" / "conf")
    with pytest.raises(FrostlineError, match=r"no conf/config\.yaml"):
        project.conf_dirs()


def test_the_home_of_a_queued_experiment_is_the_project_around_it(tmp_path, monkeypatch):
    root = make_project(tmp_path / "project")
    copy = make_project(root / ".dvc" / "tmp" / "exps" / "tmp1234")
    monkeypatch.chdir(copy)
    assert project.find_root() == copy
    assert project.conf_dirs() == [copy / "conf", CONF]
    assert project.home() == root


def test_the_store_is_the_projects_unless_told_otherwise(tmp_path, monkeypatch):
    root = make_project(tmp_path / "a prôject")
    monkeypatch.chdir(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert project.store_uri() == f"sqlite:///{root}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:5000")
    assert project.store_uri() == "http://team:5000"
