"""docs/models.md: its commands run, and its Python too."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from frostline.commands import main as cli

GUIDE = (Path(__file__).parents[1] / "docs" / "models.md").read_text()
COMMANDS = [shlex.split(line) for line in re.findall(r"^\$ frostline (.*)$", GUIDE, re.MULTILINE)]
EXPORTED, PYTHON = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)

# MLflow 3.17 uses what SQLAlchemy 2.1 will drop.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")


def test_the_guide(photo_run, no_runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # which is set again when the test is over
    shutil.copy(no_runs, tmp_path)
    photos = photo_run.parents[1] / "photos"
    shutil.copytree(photo_run, "runs/finetune/NAME")
    shutil.copy(photos / "cat" / "01.jpeg", "one.jpg")
    shutil.copy(photos / "cat" / "02.png", "two.png")
    known = {"RUN": str(photo_run), "FOLDER": str(photos), "3": "2"}  # two classes
    assert {words[0] for words in COMMANDS} == {"register", "predict", "export"}
    for words in COMMANDS:
        if "onnx" not in words:  # as long as all others; see test_exporting.py
            assert cli.main([known.get(word, word) for word in words]) == 0, words
    assert all(Path(name).is_file() for name in ("predictions.csv", "model.pt2", "model.safetensors"))
    exec(EXPORTED.replace("224", "16"), read := {})
    assert read["about"]["classes"] == ["cat", "dog & más"]
    assert read["probabilities"].shape == (2, 2)
    exec(PYTHON, found := {})
    assert found["model"].metadata.metadata["classes"] == ["cat", "dog & más"]
    with pytest.raises(RuntimeError, match="Expected: Byte, Got: float"):
        found["network"](torch.zeros(1, 3, 16, 16))
    found["mlflow"].set_tracking_uri("")
