"""docs/python.md: its Python runs, in the page's order, and that of the README."""

import re
import shutil
from pathlib import Path

import pytest

import frostline
from tests.test_readme import photos

GUIDE = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
(IN_README,) = re.findall(r"```python\n(import frostline as fl\n.*?)```", README, re.DOTALL)


def test_its_functions_are_all_there_are():
    rows = re.findall(r"^\| `fl\.(\w+)\(", GUIDE, re.MULTILINE)
    functions = [name for name in frostline.__all__ if name[0].islower() and name != "preview"]
    assert sorted(rows) == sorted(functions)


@pytest.mark.slow
@pytest.mark.timeout(600)
# MLflow 3.17 uses what SQLAlchemy 2.1 will drop.
@pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")
def test_its_code_runs(tmp_path, monkeypatch, no_runs):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("FROSTLINE_WAIT", "60")
    shutil.copy(no_runs, tmp_path)
    for name in ("photos", "photos_b"):
        photos(tmp_path / name)
    names = {}
    for block in (*BLOCKS, IN_README):
        exec(block, names)
    assert names["predictions"][0].label in ("dawn", "dusk")
    assert len(names["sweep"]) == 4
