"""`frostline show`: the images are those that a run trains on, and nothing else changes."""

import re
import shutil

import numpy as np
import pytest
import torch
from tests.imports import SRC
from tests.photos import plant

from frostline.commands import main as cli
from frostline.config import compose, stage_configs
from frostline.data.loading.pixels import load_pixels, normalize
from frostline.data.prepared.index import PreparedData
from frostline.models.initial_weights import NO_WEIGHTS
from frostline.models.pretrained import input_spec
from frostline.pipeline import standalone
from frostline.planning.training_images import VIEWS, _denormalized
from frostline.sheets.training_images import pixels_of, show

DIGITS = ["dataset=digits", "weights=none", "backbone=mlp", "input.size=8"]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return plant(tmp_path / "my photos")


def folder_of(photos, *more):
    return [
        *("dataset=image_folder", f"dataset.root={photos}", "weights=none", "backbone=resnet10t"),
        *("input.size=16", *more),
    ]


def sheet_of(words, count):
    composed, choices = compose.experiment(words)
    return show(composed, choices, count, standalone.prepared(composed, "target")[1]).sheet


def test_the_pixels_are_those_of_a_run(photos):
    composed, choices = compose.experiment(folder_of(photos))
    run = stage_configs.finetune_config(composed, choices)
    _, folder = standalone.prepared(composed, "target")
    data = PreparedData.read(run.dataset, folder)
    spec = input_spec(run.backbone, NO_WEIGHTS, run.input)
    rows = data.index.rows("train")[::3]
    assert torch.equal(pixels_of(data, rows, spec), load_pixels(data, rows, spec))


def test_denormalized_is_what_was_normalized(photos):
    composed, _ = compose.experiment(folder_of(photos, "input.mean=[0.1,0.5,0.9]", "input.std=[0.2,0.3,1]"))
    spec = input_spec(composed.backbone, NO_WEIGHTS, composed.input)
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    assert torch.equal(_denormalized(normalize(pixels, spec), spec), pixels)


def test_without_augmentation_each_image_is_shown_once(photos):
    sheet = sheet_of(folder_of(photos), count=6)
    assert [len(card.pictures) for card in sheet.cards] == [1] * 6
    assert [card.title for card in sheet.cards] == ["cat"] * 3 + ["dog & más"] * 3
    assert "6 of 24 training images, 2 classes" in sheet.title
    assert "16×16 px, RGB" in sheet.subtitle
    assert all(re.fullmatch(r"original: \d+×\d+ px", card.note) for card in sheet.cards)


@pytest.mark.parametrize(
    ("option", "box", "scale"), [("augment=none", 148, "shown at 46 % of it"), ("augment=light", 96, "30 %")]
)
def test_images_that_are_shown_smaller_are_shown_whole_and_that_is_said(photos, option, box, scale):
    sheet = sheet_of(folder_of(photos, "input.size=[96,320]", option), count=2)
    assert "320×96 px (shown at " in sheet.subtitle
    assert scale in sheet.subtitle
    page = sheet.page()
    assert f"width: {box}px; height: {box}px" in page
    assert "object-fit: cover" not in page  # which would cut off the ends of wide images


def test_augmented_views_follow_the_plain_image(photos):
    sheet = sheet_of(folder_of(photos, "augment=photo"), count=2)
    for card in sheet.cards:
        plain, *views = card.pictures
        assert len(views) == VIEWS
        assert all(not np.array_equal(plain, view) for view in views)
    assert "augment=photo" in sheet.subtitle


def test_mixed_images_have_the_shares_of_their_labels(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    sheet = sheet_of([*DIGITS, "augment=mixed"], count=4)
    shares = [re.findall(r"(\d+) %", caption) for card in sheet.cards for caption in card.captions[1:]]
    assert all(sum(map(int, parts)) in (99, 100, 101) for parts in shares)
    assert any(len(parts) == 2 for parts in shares)


def test_more_images_than_there_are(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    sheet = sheet_of([*DIGITS, "dataset.shots=3"], count=500)
    assert len(sheet) == 20  # the third chooses the epoch


def test_the_command_writes_the_same_page_again_and_no_run(photos, tmp_path, capsys):
    words = ["show", *folder_of(photos.name, "augment=light"), "--count", "4"]
    assert cli.main(words) == 0
    path = tmp_path / capsys.readouterr().out.strip()
    first = path.read_bytes()
    assert path.parent == tmp_path / "runs" / "show"
    shutil.rmtree(tmp_path / "runs")
    assert cli.main(words) == 0
    assert path.read_bytes() == first
    assert [file.name for file in (tmp_path / "runs").rglob("*.*")] == [path.name]
    assert b"dog &amp; m\xc3\xa1s" in first


def test_what_can_not_be_shown_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["show", "dataset=image_folder", "dataset.root=nowhere"]) == 2
    assert "dataset.root: nowhere doesn't exist" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main(["show", "--out", "sheet.jpg"])
    assert "--out: found sheet.jpg; name a file that ends in .html" in capsys.readouterr().err


def test_the_guides_command(photos, tmp_path):
    guide = (SRC.parent / "docs" / "data.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^frostline (show .*)$", guide, re.MULTILINE)
    photos.rename(tmp_path / "photos")
    assert cli.main(line.split()) == 0
    assert (tmp_path / "photos.html").is_file()
