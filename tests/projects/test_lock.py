"""frostline.lock: which code each stage of a project depends on."""

import shutil

import pytest

import frostline
from frostline.base import code, project
from frostline.base.code import FOLDERS
from frostline.commands import main as cli
from frostline.console.errors import FrostlineError
from frostline.projects import lock
from frostline.projects.study import pipeline


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of frostline's code, which may be changed."""
    copy = tmp_path / "frostline"
    shutil.copytree(code.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(project.packaged_conf(), copy / "conf")
    monkeypatch.setattr(code, "PACKAGE", copy)
    monkeypatch.setattr(project, "packaged_conf", lambda: copy / "conf")
    code.fingerprint.cache_clear()
    yield copy
    code.fingerprint.cache_clear()


def test_a_new_lock_agrees_with_the_installed_code(tmp_path):
    assert lock.changed(tmp_path) == []  # there is no lock
    assert lock.write(tmp_path) == [*FOLDERS, "packages"]
    assert lock.changed(tmp_path) == []
    assert lock.write(tmp_path) == []
    assert lock.locked_version(tmp_path) == frostline.__version__


@pytest.mark.parametrize(
    ("path", "stages"),
    [
        ("freezing/curves.py", ["compose", "pretrain", "finetune", "evaluate"]),
        ("reporting/words.py", ["report"]),
        ("conf/freeze/full.yaml", ["compose"]),
        ("tracking/store.py", []),
    ],
)
def test_a_change_of_the_code_names_the_stages_that_it_affects(tmp_path, package, path, stages):
    lock.write(tmp_path)
    with (package / path).open("a") as file:
        file.write("# changed\n")
    code.fingerprint.cache_clear()
    assert lock.changed(tmp_path) == stages
    assert lock.write(tmp_path) == stages
    assert lock.changed(tmp_path) == []


def test_a_stage_with_other_code_is_refused_and_others_get_a_note(tmp_path, package, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lock.check("report") is None  # there is no lock
    lock.write(tmp_path)
    assert lock.check("report") is None
    with (package / "reporting/words.py").open("a") as file:
        file.write("# changed\n")
    code.fingerprint.cache_clear()
    sentence = "has other code for report; frostline upgrade accepts it"
    assert sentence in lock.check()
    assert sentence in lock.check("finetune")
    with pytest.raises(FrostlineError, match=sentence):
        lock.check("report")


def test_a_version_with_the_same_code_changes_nothing(tmp_path, monkeypatch):
    lock.write(tmp_path)
    monkeypatch.setattr(frostline, "__version__", "9.9")
    assert lock.changed(tmp_path) == []


def test_data_of_another_package_version_is_read_again(tmp_path, monkeypatch):
    lock.write(tmp_path)
    monkeypatch.setattr(lock, "version", lambda package: "9.9")
    assert lock.changed(tmp_path) == ["packages"]


def test_a_stage_that_the_lock_does_not_have_is_accepted_by_an_upgrade(tmp_path, monkeypatch, capsys):
    """As one that a later version of frostline has."""
    lock.write(tmp_path)
    (tmp_path / "frostline.lock" / "finetune").unlink()
    monkeypatch.chdir(tmp_path)
    assert "has other code for finetune; frostline upgrade accepts it" in lock.check()
    assert cli.main(["upgrade"]) == 0
    said = f"frostline {frostline.__version__}, with other code; dvc repro runs again: finetune"
    assert said in capsys.readouterr().out
    assert lock.check("finetune") is None


def test_an_empty_lock_is_renewed_as_one_of_an_unknown_version(tmp_path, monkeypatch, capsys):
    (tmp_path / "frostline.lock").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "this project uses frostline unknown" in lock.check()
    assert cli.main(["upgrade"]) == 0
    assert lock.check("finetune") is None


def test_a_damaged_lock_differs_and_an_upgrade_renews_it(tmp_path, monkeypatch):
    lock.write(tmp_path)
    (tmp_path / "frostline.lock" / "finetune").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "frostline.lock" / "compose").write_bytes(b"\xff")
    monkeypatch.chdir(tmp_path)
    assert "has other code for compose, finetune; frostline upgrade accepts it" in lock.check()
    assert cli.main(["upgrade"]) == 0
    assert lock.check("finetune") is None


def test_a_missing_lock_is_written_where_a_pipeline_depends_on_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "conf/experiment").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["upgrade"]) == 2
    assert "has no frostline.lock; `frostline init NAME` begins a study" in capsys.readouterr().err
    (tmp_path / "dvc.yaml").write_text(pipeline(in_project=True))
    assert cli.main(["upgrade"]) == 0
    assert "frostline.lock: was missing, written for frostline" in capsys.readouterr().out
    assert (tmp_path / "frostline.lock" / "packages").is_file()
    assert lock.changed(tmp_path) == []
