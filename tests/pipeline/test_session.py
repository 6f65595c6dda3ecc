"""Services of a command, and the lock of its output folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from frostline.pipeline import session
from frostline.pipeline.output_folders import short_label, title_label
from frostline.training.services import LabelledTracker, RunInfo, Tracker

SRC = Path(__file__).parents[2] / "src"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROSTLINE_TRACKING", "off")
    return tmp_path


def test_a_sweeps_label_is_added_to_the_runs_name():
    assert short_label("freeze=full,optimizer.lr=0.1,seed=2,trainer.epochs=3") == "lr0.1·epochs3"
    assert short_label("optimizer.lr=3e-4,optimizer=sgd") == "lr3e-4·optimizer=sgd"
    assert short_label("backbone.hidden=[8,4],input.size=null") == "hidden=[8,4]·size=null"
    assert title_label("backbone.hidden=[8,4],seed=1") == "backbone.hidden=[8,4]"
    swept = "optimizer.lr=0.1,pretrain.optimizer.lr=0.2,pretrain.freeze=full,dataset.root=a/test"
    assert (
        short_label(swept)
        == "optimizer.lr0.1·pretrain.optimizer.lr0.2·pretrain.freeze=full·dataset.root=a/test"
    )
    tests = "dataset.test_sets={night:{root:a,b},day:{root:c}},seed=1"
    assert short_label(tests) == "test_sets={night:{root:a,b},day:{root:c}}"
    assert short_label("freeze=full") == short_label("") == title_label("seed=1") == title_label("") == ""
    assert type(session.make_services("freeze=full").tracker) is Tracker
    tracker = session.make_services("optimizer.lr=0.1").tracker
    assert isinstance(tracker, LabelledTracker)
    names = []
    heard = LabelledTracker(
        type("Heard", (Tracker,), {"run": lambda self, about: names.append(about.name)})(), tracker.label
    )
    heard.run(RunInfo("mlp·full·digits", "finetune", "study", {}, {}, "training", {}, 0))
    assert names == ["lr0.1·mlp·full·digits·s0"]


def test_two_runs_do_not_write_to_one_folder(place):
    code = "from pathlib import Path; from frostline.pipeline.session import writing\n"
    code += "with writing(Path('out')): pass"
    again = [sys.executable, "-c", code]
    with session.writing(Path("out")):
        second = subprocess.run(
            again, env={"PYTHONPATH": str(SRC)}, capture_output=True, text=True, check=False
        )
        assert "ResourceLocked: out: another run is writing" in second.stderr
        with session.writing(Path("other")):
            pass
    assert subprocess.run(again, env={"PYTHONPATH": str(SRC)}, check=True).returncode == 0


def test_only_a_killed_runs_temporary_folders_are_removed(place):
    for name in (".out.abcd1234", ".out.backup", ".outer.abcd1234", ".out.v2.abcd1234", "out"):
        (place / name).mkdir()
    (place / ".out.abcd5678").write_text("a file")
    with session.writing(Path("out")):
        left = {path.name for path in place.iterdir()}
    assert left == {
        ".out.backup",
        ".outer.abcd1234",
        ".out.v2.abcd1234",
        "out",
        ".out.abcd5678",
        ".frostline",
    }


def test_the_next_command_removes_a_killed_ones_temporary_files_from_the_scratch(place):
    leftovers = [
        ".frostline/.study.yaml.abcd1234.tmp",
        ".frostline/data/.key.abcd1234/index.csv",
        ".frostline/resume/key/.done.abcd1234/weights.safetensors",
    ]
    for name in [*leftovers, ".frostline/resume/key/a.ckpt"]:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("half")
    with session.writing(Path("out")):
        assert not [name for name in leftovers if (place / name).exists()]
    assert (place / ".frostline/resume/key/a.ckpt").exists()
