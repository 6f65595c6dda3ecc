"""What several tests of commands start from."""

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.shell import TINY, Shell

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(warm, tmp_path_factory) -> Shell:
    """A folder with a finished fine-tuning in `runs/one`."""
    shell = Shell(warm, tmp_path_factory.mktemp("finished"))
    shell("finetune", *TINY, "freeze=full", "out=runs/one")
    return shell


@pytest.fixture
def healthy(tmp_path, monkeypatch, no_runs):
    """A project in which nothing is broken."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".dvc").mkdir()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "config", "user.email", "a@b"], cwd=tmp_path, check=True)
    shutil.copy(no_runs, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path
