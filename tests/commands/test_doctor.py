"""What the doctor says of a healthy project, and of each thing that may be broken."""

import shutil
import subprocess
from pathlib import Path

import pytest

from frostline.base import project
from frostline.commands import doctor

ROOT = Path(__file__).parents[2]


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


def found(check) -> list[tuple[str, str]]:
    return [(finding.state, finding.found) for finding in check()]


pytestmark = pytest.mark.filterwarnings(r"ignore:The ``noload`` loader strategy is deprecated")


def test_one_screen_and_nothing_broken(healthy, capsys):
    assert doctor.run()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "nothing is broken"
    assert len(lines) < 25
    names = {line.split()[1] for line in lines if line.startswith(("ok", "note"))}
    assert {
        "python",
        "packages",
        "processor",
        "gpu",
        "conf",
        "params.yaml",
        "mlflow",
        "weights",
        "data",
    } <= names
    assert f"sqlite:///{healthy}/mlflow.db, 0 runs" in "\n".join(lines)


def test_what_is_broken_is_counted_and_named(healthy, capsys, monkeypatch):
    (healthy / "params.yaml").write_text("freeze: nope\n")
    (healthy / "mlflow.db").write_text("not a database, and long enough to be told from one" * 10)
    assert not doctor.run()
    out = capsys.readouterr().out
    assert "broken  params.yaml  freeze: no option 'nope'; allowed: bit_hyperrule, bitfit" in " ".join(
        out.split("   ")
    )
    assert "file is not a database" in out
    assert f"move it aside: mv {healthy}/mlflow.db {healthy}/mlflow.db.aside" in out
    assert out.endswith("2 broken: params.yaml, mlflow\n")


@pytest.mark.parametrize(
    ("break_it", "check", "state", "words"),
    [
        (lambda root: shutil.rmtree(root / ".git"), doctor.dvc, "broken", "is no git repository"),
        (lambda root: shutil.rmtree(root / ".dvc"), doctor.dvc, "broken", "is no DVC repository"),
        (lambda root: (root / "dvc.yaml").unlink(), doctor.dvc, "note", "no dvc.yaml in"),
        (lambda root: (root / "mlflow.db").unlink(), doctor.store, "ok", "made by the first run"),
        (
            lambda root: (root / "conf/freeze/full.yaml").write_text("a: ["),
            doctor.configs,
            "broken",
            "the YAML",
        ),
    ],
)
def test_each_break(healthy, break_it, check, state, words):
    break_it(healthy)
    ((given, said),) = found(check)
    assert given == state
    assert words in said


def test_each_visible_gpu_has_a_line(monkeypatch):
    class Card:
        name, total_memory = "NVIDIA H100", 80 * 2**30

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-abc")
    for name, answer in (("is_available", True), ("device_count", 2), ("get_device_properties", Card)):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *_, answer=answer: answer)
    lines = found(doctor.accelerator)
    assert [line.rpartition(", torch")[0] for _, line in lines] == [
        "2: NVIDIA H100, 80 GiB",
        "GPU-abc: NVIDIA H100, 80 GiB",
    ]


@pytest.mark.parametrize("value", ["0,1", ""])
def test_gpus_that_are_listed_and_not_there_are_noted(value, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    (finding,) = doctor.accelerator()
    assert finding.state == "note"
    assert finding.found.startswith(f"CUDA_VISIBLE_DEVICES={value}, and torch ")
    assert finding.fix.startswith("unset CUDA_VISIBLE_DEVICES")


def test_the_lock_is_read_for_this_machine_alone():
    text = (
        "# a comment\n"
        "Torch_Vision==1.2 ; sys_platform == 'darwin' or sys_platform == 'linux' \\\n    --hash=sha256:00\n"
        "pywin32==3 ; sys_platform == 'win32' \\\n    --hash=sha256:00\n"
        "plain==4.5 \\\n    --hash=sha256:00\n    # via nobody\n"
        "old==1 ; python_full_version < '3.9' \\\n"
    )
    assert doctor.locked(text) == {"torch-vision": "1.2", "plain": "4.5"}


def test_packages_that_are_missing_or_different(healthy, monkeypatch, tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setattr(project, "CHECKOUT", tmp_path)
    assert found(doctor.packages) == [("note", "no requirements.lock beside the code to compare with")]
    (tmp_path / "requirements.lock").write_text("numpy==0.0.1 \\\n")
    ((state, said),) = found(doctor.packages)
    assert state == "note"
    assert said.startswith("not as locked: numpy ")
    (tmp_path / "requirements.lock").write_text("no-such-thing==1 \\\n")
    assert found(doctor.packages) == [("note", "missing: no-such-thing")]
    (tmp_path / "requirements.lock").write_text("numpy==0.0.1 \\\nno-such-thing==1 \\\n")
    monkeypatch.setattr(doctor, "_dependencies", lambda path: {"no-such-thing"})
    assert found(doctor.packages) == [("broken", "missing: no-such-thing")]


def test_little_room(healthy, monkeypatch):
    usage = shutil.disk_usage(healthy)
    for free, state in ((0.5e9, "broken"), (3e9, "note"), (9e9, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: usage._replace(free=int(free)))
        assert found(doctor.disk)[0][0] == state
