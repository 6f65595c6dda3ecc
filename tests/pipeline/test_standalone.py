"""A standalone run: what identifies its inputs, and the pretraining that it shares."""

import re
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.photos import plant
from tests.shell import TINY

from frostline.base import files
from frostline.config import compose, stage_configs
from frostline.console.errors import FrostlineError
from frostline.pipeline import session, standalone
from frostline.pipeline.pretrain import stage


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROSTLINE_TRACKING", "off")
    return tmp_path


def test_what_a_run_reads_is_known_by_its_content(place):
    words = ["dataset=image_folder", "dataset.root=photos", "weights=file", "weights.path=w.safetensors"]
    (place / "w.safetensors").write_bytes(b"one")
    plant(place / "photos")
    composed, _ = compose.experiment([*words, "source=digits"])
    first = standalone.Job("finetune").inputs([composed, composed])
    assert [len(each) for each in first.values()] == [1, 1]
    (place / "w.safetensors").write_bytes(b"two")
    second = standalone.Job("finetune").inputs([composed])
    assert second["data"] == first["data"]
    assert second["weights"] != first["weights"]
    (place / "photos/cat/00.png").unlink()
    assert standalone.Job("finetune").inputs([composed])["data"] != first["data"]
    assert standalone.Job("pretrain").inputs([composed])["data"] != first["data"]


def test_an_error_about_the_source_names_its_keys(place):
    plant(place / "photos")
    (place / "photos/cat/broken.png").write_bytes(b"no image")
    words = ["source=image_folder", "source.root=photos", "dataset=image_folder", "dataset.root=photos"]
    composed, _ = compose.experiment(words)
    for role, key in (("source", "source"), ("target", "dataset")):
        with pytest.raises(FrostlineError, match=rf"^{key}\.root: photos has .* {key}\.on_bad_image=skip$"):
            standalone.prepared(composed, role)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x7f")),
        ("weights.safetensors", Path.unlink),
        ("training.json", lambda path: path.write_text("{}")),
        ("metrics.json", lambda path: path.write_bytes(b"")),
        (files.CHECKSUMS, Path.unlink),
    ],
)
def test_a_damaged_pretraining_is_made_again(name, damage, place, capsys):
    words = [*TINY, "dataset=digits", "weights=pretrain"]
    composed, choices = compose.experiment(words)
    config = stage_configs.finetune_config(composed, choices)

    def weights() -> Path:
        run, _ = standalone.prepared_run(
            config, composed, choices, session.make_services(), standalone.prepared_data(composed)
        )
        return Path(run.weights.path)

    path = weights()
    content, made = path.read_bytes(), path.stat().st_mtime_ns
    assert weights().stat().st_mtime_ns == made
    damage(path.parent / name)
    capsys.readouterr()
    assert weights().read_bytes() == content
    assert path.stat().st_mtime_ns != made  # not its inode, which may be used again
    (warning,) = (line for line in capsys.readouterr().err.splitlines() if "warning" in line)
    assert name in warning
    assert warning.endswith(f"; it was set aside as {path.parent.name}.damaged and is made again")


def test_the_studys_pretraining_is_used_where_it_is_the_same(place, monkeypatch, capsys):
    (place / "conf/freeze").mkdir(parents=True)
    words = [*TINY, "dataset=digits", "weights=pretrain"]
    composed, choices = compose.experiment(words)
    _, data = standalone.prepared(composed, "source")
    study = place / "artifacts/pretrain"
    config = stage_configs.pretrain_config(composed, choices).model_copy(update={"study": "another name"})
    stage.train_once(config, data, study, session.make_services(), place / "artifacts/timing/pretrain.json")
    shutil.rmtree(place / ".frostline")

    def folder(*more: str) -> Path:
        composed, choices = compose.experiment([*words, *more])
        config = stage_configs.finetune_config(composed, choices)
        run, _ = standalone.prepared_run(
            config, composed, choices, session.make_services(), standalone.prepared_data(composed)
        )
        return Path(run.weights.path).parent

    with monkeypatch.context() as patched:
        patched.setattr(stage, "train_once", None)
        used = folder()
        assert (used / "weights.safetensors").read_bytes() == (study / "weights.safetensors").read_bytes()
        notice = "pretrain on digits: not needed, the study's weights in artifacts/pretrain are used\n"
        assert notice in capsys.readouterr().err
        assert folder() == used
    assert folder("pretrain.seed=5") != used  # trained
    # What was replaced or edited since is not what the key stands for.
    shutil.rmtree(used)
    with (study / "config.yaml").open("a") as stream:
        stream.write("# edited\n")
    monkeypatch.setattr(stage, "train_once", None)
    with pytest.raises(TypeError, match="not callable"):
        folder()


@pytest.mark.parametrize(
    ("words", "advised"),
    [
        (["dataset.shots=5"], True),
        (["dataset.shots=11"], False),  # enough to select an epoch with
        (["dataset.shots=5", "dataset.selection=last"], False),
        (["dataset.shots=5", "dataset.selection=held_out"], False),
        (["dataset.shots=5", "freeze=gradual", "trainer.epochs=10"], False),  # its phases end by a metric
        ([], False),
    ],
)
def test_few_labels_are_advised_to_be_trained_on(words, advised, place, capsys):
    one = ["trainer.epochs=1", "backbone=mlp", "backbone.hidden=[4,4]", "weights=none", *words]
    composed, choices = compose.experiment(["dataset=digits", *one, f"out={place / 'out'}"])
    standalone.Job("finetune")(composed, choices)
    assert ("dataset.selection=last trains on all" in capsys.readouterr().err) == advised


def test_a_schedule_that_does_not_fit_is_refused_before_the_pretraining(shell):
    """Of a network with one hidden layer, gradual's last group has no layers."""
    error = shell.refused("finetune", "dataset=digits", *TINY, "freeze=gradual", "out=run")
    assert error.startswith("freeze.groups.rest: empty")
    assert not (shell.folder / ".frostline/pretrain").exists()


def test_each_target_is_compared_with_a_source_whose_pretraining_is_cached(place, monkeypatch, capsys):
    generator = np.random.default_rng(0)
    for name, split, label, i in product(
        ("source", "clean", "leaking"), ("train", "val", "test"), ("cat", "dog"), range(4)
    ):
        folder = place / name / split / label
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i}.png")
    shutil.copy(place / "source/train/cat/0.png", place / "leaking/test/cat/copy.png")
    words = [*TINY, "dataset.shots=null", "source=image_folder", "source.root=source", "weights=pretrain"]

    def fine_tuned(target: str) -> None:
        composed, choices = compose.experiment(
            [*words, "dataset=image_folder", f"dataset.root={target}", "weights.head=reset"]
        )
        config = stage_configs.finetune_config(composed, choices)
        data_sets = standalone.prepared_data(composed)
        standalone.prepared_run(config, composed, choices, session.make_services(), data_sets)

    fine_tuned("clean")
    assert "trained before" not in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setattr(stage, "train_once", None)  # the pretraining is cached
        patched.setattr("frostline.leakage.stage.check_source", None)  # and so is the comparison
        fine_tuned("clean")
    assert re.search(
        r"^pretrain on source: trained before, val/accuracy 0\.\d{4}$", capsys.readouterr().err, re.M
    )
    (comparison,) = (place / ".frostline/leakage").glob("*/leakage.json")
    content = comparison.read_bytes()
    comparison.write_bytes(b"")
    fine_tuned("clean")
    assert comparison.read_bytes() == content
    for _ in range(2):
        with pytest.raises(FrostlineError, match=r"train/cat/0\.png \(train\) = test/cat/copy\.png \(test\)"):
            fine_tuned("leaking")
