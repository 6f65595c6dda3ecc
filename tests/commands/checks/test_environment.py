"""Checks of the machine and the environment: GPUs and installed packages."""

import shutil
from pathlib import Path

import pytest

from frostline.base import project
from frostline.commands.checks import environment

ROOT = Path(__file__).parents[3]


# MLflow 3.17 uses what SQLAlchemy 2.1 will drop.
pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")


def summaries(check) -> list[tuple[str, str]]:
    return [(finding.state, finding.message) for finding in check()]


def test_each_visible_gpu_has_a_line(monkeypatch):
    class Card:
        name, total_memory = "NVIDIA H100", 80 * 2**30

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-abc")
    for name, answer in (("is_available", True), ("device_count", 2), ("get_device_properties", Card)):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *_, answer=answer: answer)
    lines = summaries(environment.accelerator)
    assert [line.rpartition(", torch")[0] for _, line in lines] == [
        "2: NVIDIA H100, 80 GiB",
        "GPU-abc: NVIDIA H100, 80 GiB",
    ]


@pytest.mark.parametrize("value", ["0,1", ""])
def test_gpus_that_are_listed_and_not_there_are_noted(value, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    (finding,) = environment.accelerator()
    assert finding.state == "note"
    assert finding.message.startswith(f"CUDA_VISIBLE_DEVICES={value}, and torch ")
    assert finding.fix.startswith("unset CUDA_VISIBLE_DEVICES")


def test_the_lock_is_read_for_this_machine_alone():
    text = (
        "# a comment\n"
        "Torch_Vision==1.2 ; sys_platform == 'darwin' or sys_platform == 'linux' \\\n    --hash=sha256:00\n"
        "pywin32==3 ; sys_platform == 'win32' \\\n    --hash=sha256:00\n"
        "plain==4.5 \\\n    --hash=sha256:00\n    # via nobody\n"
        "old==1 ; python_full_version < '3.9' \\\n"
    )
    assert environment.locked(text) == {"torch-vision": "1.2", "plain": "4.5"}


def test_packages_that_are_missing_or_different(healthy, monkeypatch, tmp_path):
    monkeypatch.setattr(project, "CHECKOUT", tmp_path / "site-packages")
    assert summaries(environment.packages) == []
    monkeypatch.setattr(project, "CHECKOUT", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert summaries(environment.packages) == [
        ("note", "no requirements.lock beside the code to compare with")
    ]
    (tmp_path / "requirements.lock").write_text("numpy==0.0.1 \\\n")
    ((state, said),) = summaries(environment.packages)
    assert state == "note"
    assert said.startswith("other than in requirements.lock: numpy ")
    (tmp_path / "requirements.lock").write_text("no-such-thing==1 \\\n")
    assert summaries(environment.packages) == [("note", "missing: no-such-thing")]
    (tmp_path / "requirements.lock").write_text("numpy==0.0.1 \\\nno-such-thing==1 \\\n")
    monkeypatch.setattr(environment, "_dependencies", lambda path: {"no-such-thing"})
    assert summaries(environment.packages) == [("broken", "missing: no-such-thing")]
