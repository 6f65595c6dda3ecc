"""A stage as a command: where its results go, that it is alone there, and what it is called."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.photos import plant
from tests.shell import TINY
from tests.tiny import run_config

from frostline.base import files
from frostline.config import compose, stage_configs
from frostline.pipeline import standalone as alone
from frostline.training.services import Labelled, NoTracker, RunInfo

SRC = Path(__file__).parents[2] / "src"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROSTLINE_TRACKING", "off")
    return tmp_path


def test_where_results_go():
    config = run_config()
    assert alone.out_folder("out", "finetune", "name", "", config) == Path("out")
    assert alone.out_folder("out", "finetune", "name", "freeze=full,seed=1", config) == Path(
        "out/freeze=full,seed=1"
    )
    one = alone.out_folder(None, "finetune", "mlp·full·digits·s0", "", config)
    assert str(one).startswith("runs/finetune/mlp-full-digits-s0-")
    changed = alone.out_folder(None, "finetune", "mlp·full·digits·s0", "", run_config({"trainer.epochs": 4}))
    assert one != changed


def test_draws_that_three_digits_do_not_tell_apart_have_folders_of_their_own():
    configs = [run_config({"optimizer.lr": lr}) for lr in (0.00031622, 0.00031623)]
    label = "optimizer.lr=0.000316"
    one, other = (alone.out_folder("out", "finetune", "n", label, each, drawn=True) for each in configs)
    assert one != other
    assert one.name.startswith(f"{label}-")
    assert other.parent == Path("out")


def test_what_a_run_reads_is_known_by_its_content(place):
    words = ["dataset=image_folder", "dataset.root=photos", "weights=file", "weights.path=w.safetensors"]
    (place / "w.safetensors").write_bytes(b"one")
    plant(place / "photos")
    composed, _ = compose.experiment([*words, "source=digits"])
    first = alone.Job("finetune").inputs([composed, composed])
    assert [len(each) for each in first.values()] == [1, 1]
    (place / "w.safetensors").write_bytes(b"two")
    second = alone.Job("finetune").inputs([composed])
    assert second["data"] == first["data"]
    assert second["weights"] != first["weights"]
    (place / "photos/cat/00.png").unlink()
    assert alone.Job("finetune").inputs([composed])["data"] != first["data"]
    assert alone.Job("pretrain").inputs([composed])["data"] != first["data"]


@pytest.mark.parametrize("label", ["dataset.root='/a b/c'", "../../etc", "a/b", "ü" * 300, "x=" + "y" * 300])
def test_a_label_stays_one_folder_below_out(label):
    out = alone.out_folder("out", "finetune", "name", label, run_config())
    assert out.parent == Path("out")
    assert len(out.name.encode()) < 255
    assert out.resolve().is_relative_to(Path("out").resolve())
    other = alone.out_folder("out", "finetune", "name", label + "z", run_config())
    assert other != out


def test_a_run_in_a_sweep_is_called_by_what_its_name_does_not_say_yet():
    assert alone.short_label("freeze=full,optimizer.lr=0.1,seed=2,trainer.epochs=3") == "lr0.1·epochs3"
    assert alone.short_label("optimizer.lr=3e-4,optimizer=sgd") == "lr3e-4·optimizer=sgd"
    assert alone.short_label("freeze=full") == alone.short_label("") == ""
    assert isinstance(alone.services("freeze=full").tracker, NoTracker)
    tracker = alone.services("optimizer.lr=0.1").tracker
    assert isinstance(tracker, Labelled)
    names = []
    heard = Labelled(
        type("Heard", (NoTracker,), {"run": lambda self, about: names.append(about.name)})(), tracker.label
    )
    heard.run(RunInfo("mlp·full·digits", "finetune", "study", {}, {}, "training", {}, 0))
    assert names == ["mlp·full·digits·lr0.1·s0"]


def test_two_runs_do_not_write_to_one_folder(place):
    code = "from pathlib import Path; from frostline.pipeline.standalone import writing\n"
    code += "with writing(Path('out')): pass"
    again = [sys.executable, "-c", code]
    with alone.writing(Path("out")):
        second = subprocess.run(
            again, env={"PYTHONPATH": str(SRC)}, capture_output=True, text=True, check=False
        )
        assert "Busy: out: another run is writing to out; wait for it, or name another" in second.stderr
        with alone.writing(Path("other")):
            pass
    assert subprocess.run(again, env={"PYTHONPATH": str(SRC)}, check=True).returncode == 0


def test_what_a_killed_run_left_half_full_goes_and_nothing_else(place):
    for name in (".out.abcd1234", ".out.backup", ".outer.abcd1234", ".out.v2.abcd1234", "out"):
        (place / name).mkdir()
    (place / ".out.abcd5678").write_text("a file")
    with alone.writing(Path("out")):
        left = {path.name for path in place.iterdir()}
    assert left == {
        ".out.backup",
        ".outer.abcd1234",
        ".out.v2.abcd1234",
        "out",
        ".out.abcd5678",
        ".frostline",
    }


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x7f")),
        ("weights.safetensors", Path.unlink),
        ("training.json", lambda path: path.write_text("{}")),
        ("metrics.json", lambda path: path.write_bytes(b"")),
        (files.SEAL, Path.unlink),
    ],
)
def test_a_damaged_pretraining_is_made_again(name, damage, place, capsys):
    words = [*TINY, "dataset=digits", "weights=pretrain"]
    composed, choices = compose.experiment(words)
    config = stage_configs.finetune_config(composed, choices)
    index, _ = alone.prepared(composed, "target")

    def weights() -> Path:
        run = alone.with_weights(config, composed, choices, alone.services(), index.classes)
        return Path(run.weights.path)

    path = weights()
    content, made = path.read_bytes(), path.stat().st_ino
    assert weights().stat().st_ino == made
    damage(path.parent / name)
    capsys.readouterr()
    assert weights().read_bytes() == content
    assert path.stat().st_ino != made
    (warning,) = (line for line in capsys.readouterr().err.splitlines() if "warning" in line)
    assert name in warning
    assert warning.endswith(f"; it was set aside as {path.parent.name}.damaged and is made again")


def test_the_next_command_removes_what_a_killed_one_left_in_the_scratch(place):
    leftovers = [
        ".frostline/.study.yaml.abcd1234.tmp",
        ".frostline/data/.key.abcd1234/index.csv",
        ".frostline/resume/key/.done.abcd1234/weights.safetensors",
    ]
    for name in [*leftovers, ".frostline/resume/key/a.ckpt"]:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("half")
    with alone.writing(Path("out")):
        assert not [name for name in leftovers if (place / name).exists()]
    assert (place / ".frostline/resume/key/a.ckpt").exists()


def test_a_schedule_that_does_not_fit_is_refused_before_the_pretraining(shell):
    """Of a network with one hidden layer, gradual's last group has no layers."""
    error = shell.refused("finetune", "dataset=digits", *TINY, "freeze=gradual", "out=run")
    assert error.startswith("freeze.groups.rest: empty")
    assert not (shell.folder / ".frostline/pretrain").exists()
