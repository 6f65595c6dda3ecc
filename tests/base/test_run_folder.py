"""Run folders: damaged, edited, measured again on changed data, and written again."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tests.damage import DAMAGE
from tests.photos import train
from tests.shell import TINY, TINY_PRETRAIN
from tests.tiny import files

from frostline.base import run_folder
from frostline.base.formats import read_csv
from frostline.commands import main as cli
from frostline.console.errors import FrostlineError
from frostline.pipeline import reevaluate


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("project"))


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A finished run on photos/, both as they were."""
    project = trained.parents[1]
    for name in ("photos", "runs"):
        shutil.copytree(project / name, tmp_path / name)
    monkeypatch.chdir(project)
    monkeypatch.setenv("FROSTLINE_TRACKING", "off")
    yield trained
    for name in ("photos", "runs"):
        shutil.rmtree(project / name)
        shutil.move(tmp_path / name, project / name)


def said(capsys, *words: object, status: int = 0) -> str:
    """What a command says on standard error."""
    capsys.readouterr()
    assert cli.main([str(word) for word in words]) == status
    return capsys.readouterr().err


def photo(run: Path, key: str) -> Path:
    return run.parents[1] / "photos" / key


def held_out_keys(run: Path) -> list[str]:
    return [row["id"] for row in read_csv(run / "predictions.csv")]


# ── damaged ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_weights_are_noticed_by_every_reader(run, kind, capsys, tmp_path):
    DAMAGE[kind](run / "weights.safetensors")
    readers = [
        ["evaluate", run],
        ["predict", run, photo(run, "cat")],
        ["export", run, "--format", "pt2", "--out", tmp_path / "network.pt2"],
        ["register", run, "--name", "photos"],
    ]
    sentence = "weights.safetensors is missing" if kind == "deleted" else "is damaged or was replaced"
    for words in readers:
        assert sentence in said(capsys, *words, status=2)
    if kind != "deleted":
        words = ["dataset=image_folder", "dataset.root=photos", "weights=file", "source=digits", "out=other"]
        path = f"weights.path='{run}/weights.safetensors'"
        assert sentence in said(capsys, "finetune", "backbone=mlp", *words, path, status=2)
    assert not (tmp_path / "network.pt").exists()


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind != "flipped"])
def test_a_damaged_record_is_one_sentence(run, kind, capsys):
    DAMAGE[kind](run / "training.json")
    assert said(capsys, "evaluate", run, status=2).startswith(f"frostline: error: {run}")


def test_metrics_that_can_not_be_read_are_made_again(run, capsys):
    before = files(run)
    for kind in ("empty", "garbage", "deleted"):
        DAMAGE[kind](run / "metrics.json")
        said(capsys, "evaluate", run)
        assert files(run) == before


# ── edited ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_edited_config_is_noticed(run, capsys):
    path = run / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("crop: 0.9", "crop: 0.8"))
    before = files(run)
    error = said(capsys, "evaluate", run, status=2)
    assert f"{path}: was edited after the run" in error
    assert "--force" in error
    assert "warning" in said(capsys, "predict", run, photo(run, "cat"))
    assert files(run) == before
    said(capsys, "evaluate", run, "--force")
    path.write_text(text)
    said(capsys, "evaluate", run)


# ── measured again ──────────────────────────────────────────────────────────────────────────────────────────


def test_measured_again_a_run_keeps_its_bytes(run, capsys):
    before = files(run)
    said(capsys, "evaluate", run)
    assert files(run) == before


def add(run: Path) -> None:
    for number, label in enumerate(("cat", "dog & más")):
        for i in range(9):
            image = Image.new("RGB", (20 + i, 20), (i * 20, 5, 90 * number))
            image.save(photo(run, f"{label}/00-new-{i}.png"))


def remove_one_that_was_trained_on(run: Path) -> None:
    held = held_out_keys(run)
    root = run.parents[1] / "photos"
    keys = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.*"))]
    photo(run, next(key for key in keys if key not in held)).unlink()


@pytest.mark.parametrize("change", [add, remove_one_that_was_trained_on])
def test_only_its_own_test_images_are_measured(run, change, capsys, tmp_path):
    before = files(run)
    change(run)
    err = said(capsys, "evaluate", run)
    assert "the data set has changed since the run (40 images then, " in err
    assert "only the run's own 16 test images are measured" in err
    assert files(run) == before
    said(capsys, "evaluate", run, "--out", tmp_path / "again")
    again, old = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "again", run))
    assert again == {"test": pytest.approx(old["test"], rel=1e-5)}
    assert held_out_keys(tmp_path / "again") == held_out_keys(run)


def change_one(run: Path, key: str) -> str:
    photo(run, key).write_bytes(photo(run, "cat/new.png").read_bytes())
    return "some of its 16 test images have another content or class than they had"


def remove_it(run: Path, key: str) -> str:
    photo(run, key).unlink()
    return f"1 of its 16 test images are missing from the data set ({key}; 40 images then, 40 now)"


def move_it(run: Path, key: str) -> str:
    other = "cat" if key.startswith("dog") else "dog & más"
    photo(run, key).rename(photo(run, f"{other}/moved-{Path(key).name}"))
    return f"1 of its 16 test images are missing from the data set ({key}; 40 images then, 41 now)"


@pytest.mark.parametrize("change", [change_one, remove_it, move_it])
def test_changed_test_images_are_refused(run, change, capsys):
    before = files(run)
    Image.new("RGB", (31, 20), (1, 5, 90)).save(photo(run, "cat/new.png"))
    sentence = change(run, held_out_keys(run)[3])
    assert sentence in said(capsys, "evaluate", run, status=2)
    assert files(run) == before


def test_edited_predictions_do_not_choose_what_is_measured(run, capsys):
    add(run)
    path = run / "predictions.csv"
    text = path.read_text()
    path.write_text(text.replace(held_out_keys(run)[0], "cat/00-new-1.png"))
    assert "predictions.csv was edited" in said(capsys, "evaluate", run, status=2)


def test_other_metrics_are_overwritten_only_with_force(run, capsys):
    path = run / "metrics.json"
    right = path.read_bytes()
    metrics = json.loads(right)
    metrics["test"]["accuracy"] = 0.99
    path.write_text(json.dumps(metrics))
    error = said(capsys, "evaluate", run, status=2)
    assert "metrics.json says test accuracy 0.99, measured now it is " in error
    assert "name another folder with --out, or overwrite it with --force" in error
    assert json.loads(path.read_text()) == metrics
    said(capsys, "evaluate", run, "--force")
    assert path.read_bytes() == right


@pytest.mark.parametrize("names", [[], ["config.yaml"], ["weights.safetensors"]])
def test_a_folder_without_a_finished_run_is_not_measured(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(FrostlineError, match=r": no finished run, .* is missing; name another folder$"):
        reevaluate.run(tmp_path, None)


# ── written again ───────────────────────────────────────────────────────────────────────────────────────────

WORDS = [*TINY, "weights=none", "dataset=digits"]


def test_a_folder_with_another_run_is_overwritten_only_with_force(shell):
    shell("finetune", *WORDS, "out=here", "freeze=linear_probe")
    (shell.folder / "here/notes.txt").write_text("mine")
    before = files(shell.folder / "here")
    shell("finetune", *WORDS, "out=here", "freeze=linear_probe", "study=renamed")
    shell("finetune", *WORDS, "out=here", "freeze=linear_probe")
    assert files(shell.folder / "here") == before
    other = ["finetune", *WORDS, "out=here", "freeze=linear_probe", "optimizer.lr=0.123"]
    error = shell.refused(*other)
    assert error.startswith("out: here contains a run with another config (optimizer.lr is ")
    assert error.endswith(" there, 0.123 here); name another folder with out=, or overwrite it with --force")
    assert "(seed is 0 there, 1 here)" in shell.refused(
        "finetune", *WORDS, "out=here", "freeze=linear_probe", "seed=1"
    )
    assert "(stage is " in shell.refused("pretrain", *TINY_PRETRAIN, "out=here")
    assert "out: here contains a run of finetune" in shell.refused("probe", *WORDS, "--out", "here")
    assert files(shell.folder / "here") == before
    shell(*other, "--force")
    after = files(shell.folder / "here")
    assert after["notes.txt"] == b"mine"
    assert after["config.yaml"] != before["config.yaml"]


def test_a_probe_of_other_heads_is_overwritten_only_with_force(shell):
    words = ["probe", *WORDS, "--out", "here"]
    shell(*words, "optimizer.lr=0.01,0.1")
    before = files(shell.folder / "here")
    shell(*words, "optimizer.lr=0.1,0.01")
    assert files(shell.folder / "here") == before
    assert "out: here contains a probe of other heads" in shell.refused(*words, "optimizer.lr=0.01,0.2")
    assert "contains a run with another config (trainer.epochs" in shell.refused(
        *words, "optimizer.lr=0.01,0.1", "trainer.epochs=3"
    )
    assert "out: here contains a probe;" in shell.refused("finetune", *WORDS, "out=here")
    assert files(shell.folder / "here") == before
    shell(*words, "optimizer.lr=0.01,0.2", "--force")
    shell("finetune", *WORDS, "out=here", "--force")
    assert not (shell.folder / "here/heads.csv").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"metrics.json": "{}"}, "contains metrics.json, but no config.yaml of a run; name another folder"),
        ({"config.yaml": "a: 1"}, "config.yaml was not written by a frostline run"),
        ({"config.yaml": "a: ["}, "config.yaml: line 1"),
        ({"config.yaml": "", "metrics.json": ""}, "config.yaml was not written by a frostline run"),
    ],
)
def test_files_of_other_programs_are_not_overwritten(tmp_path, content, sentence):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(FrostlineError) as caught:
        run_folder.check_out(tmp_path, {"stage": "finetune"})
    assert str(caught.value).startswith("out: ")
    assert sentence in str(caught.value)
    assert "--force" in str(caught.value)


def test_a_folder_without_a_run_may_be_written_to(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    run_folder.check_out(tmp_path, {"stage": "finetune"})
    run_folder.check_out(tmp_path / "new", {"stage": "finetune"})
