"""Warnings about data are printed in full when it is prepared, and later in one line."""

import re
import shlex
import shutil

import pytest
from tests.data.tables import plant_flat, write_table
from tests.data.trees import packaged, picture, plant

from frostline.commands import main as cli
from frostline.console.progress import say_once
from frostline.pipeline import data_warnings
from frostline.pipeline.data_warnings import prepare_command
from frostline.schema import Prepare

TINY = ["backbone=mlp", "backbone.hidden=[8]", "weights=none", "input.size=8", "freeze=full"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of images, with near-duplicates; nothing is recorded."""
    for label in ("cat", "dog"):
        (tmp_path / "my photos" / label).mkdir(parents=True)
        for i in range(8):
            image = picture(1000 * (label == "dog") + i // 4, (90, 90))
            image.putpixel((i, 0), (255, 0, 0))
            image.save(tmp_path / "my photos" / label / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROSTLINE_TRACKING", "off")
    return tmp_path


def said(capsys, *words):
    """What a command prints about the data, as a process of its own would."""
    say_once.cache_clear()
    data_warnings._said.clear()
    capsys.readouterr()
    assert cli.main([*words]) == 0
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("frostline: ")]


def test_each_is_printed_in_full_once(here, capsys):
    data = ["dataset=image_folder", "dataset.root=my photos"]
    first = said(capsys, "plan", *data, *TINY)
    assert [line[:18] for line in first] == ["frostline: warning", "frostline: the ima"]
    assert "look like one in another split" in first[0]
    again = "frostline prepare dataset=image_folder 'dataset.root=my photos'"
    note = f"frostline: note: my photos caused 1 warning before; {again} prints it again"
    train = ["trainer.epochs=1", "trainer.threads=1"]
    for command in (["show"], ["plan"], ["finetune", "out=run"], ["lr-find"]):
        assert said(capsys, *command, *data, *TINY, *train)[:1] == [note]
    assert said(capsys, "evaluate", "run")[:1] == [note]
    assert said(capsys, *shlex.split(again)[1:]) == first[:1]


def test_changed_data_is_reported_anew(here, capsys):
    data = ["dataset=image_folder", "dataset.root=my photos"]
    before = said(capsys, "plan", *data, *TINY)
    shutil.copy(here / "my photos/cat/0.png", here / "my photos/cat/copy.png")
    after = said(capsys, "plan", *data, *TINY)
    assert before[0] not in after
    assert any("exact copy of another" in line for line in after)


def test_data_without_warnings_is_not_mentioned(here, capsys):
    plant(here / "plain")
    for _ in range(2):
        assert said(capsys, "plan", "dataset=image_folder", "dataset.root=plain", *TINY) == []


def test_images_of_the_source_that_look_like_the_targets(here, capsys):
    for name, shift in (("a", 0), ("b", 5)):
        for label in range(2):
            (here / name / str(label)).mkdir(parents=True)
            for i in range(10):
                image = picture(100 * label + (i + shift) % 10, (90, 90))  # in another split
                image.putpixel((shift, shift), (255, 0, 0))
                image.save(here / name / str(label) / f"{i}.png")
    data = [f"{role}=image_folder" for role in ("source", "dataset")] + ["source.root=a", "dataset.root=b"]
    train = ["weights=pretrain", "trainer.epochs=1", "trainer.threads=1"]
    train += ["pretrain.trainer.epochs=1", "pretrain.trainer.threads=1"]
    words = [*data, *(word for word in TINY if word != "weights=none"), *train]
    full = [line for line in said(capsys, "finetune", *words, "out=one") if "the pretraining on a" in line]
    assert len(full) == 1
    again = said(capsys, "finetune", *words, "seed=1", "out=two")
    assert not set(full) & set(again)
    assert [line for line in again if "frostline leakage" in line] == [
        "frostline: note: the source caused 1 warning before; frostline leakage, with the same data sets,"
        " prints it again"
    ]
    assert full[0] in said(capsys, "leakage", *data)


def test_the_command_prepares_the_same_data(here, capsys):
    write_table(here / "it's a table.csv", plant_flat(here), ["file", "what"])
    columns = {"image": "file", "label": "what", "labels": None, "split": None, "group": "group"}
    whole = {**columns, "fold": "fold", "weight": "weight"}
    fields = {"root": None, "classes": ["dog", "cat"], "group": None, "on_bad_image": "skip"}
    config = packaged("table", file="it's a table.csv", columns=whole, test=None, **fields)
    config = Prepare.model_validate({**config.model_dump(), "channels": 5})
    words = shlex.split(prepare_command(config))
    assert words[:3] == ["frostline", "prepare", "dataset=table"]
    assert sorted(words[3:]) == [
        "dataset.classes=[dog,cat]",
        "dataset.columns.image=file",
        "dataset.columns.label=what",
        "dataset.columns.split=null",
        "dataset.file=it's a table.csv",
        "dataset.on_bad_image=skip",
        "dataset.split.test=null",
        "input.channels=5",
    ]
    assert cli.main(words[1:-1]) == 0  # with the usual channels
    assert re.search(r"12 images of 2 classes \(\d+ train, \d+ val, no test\)", capsys.readouterr().out)
