"""A trained network says of pictures what its run's predictions.csv says, whatever surrounds them."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch
from tests.data.tiffs import tiff
from tests.tiny import RESNET, run_config

from frostline.base.formats import read_csv
from frostline.commands import main as cli
from frostline.commands.main import parse
from frostline.config import compose
from frostline.console.errors import FrostlineError
from frostline.runs.trained_run import TrainedRun
from frostline.serving import prediction
from frostline.serving.image_files import image_files


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def photos(photo_run):
    return photo_run.parents[1] / "photos"


@pytest.fixture
def tested(photo_run):
    """The test images as evaluate measured them: path below photos/ → row."""
    rows_of_test = {row["id"]: row for row in read_csv(photo_run / "predictions.csv")}
    assert len(rows_of_test) == 16
    assert {name.rpartition(".")[2] for name in rows_of_test} == {"png", "jpeg", "gif", "webp"}
    return rows_of_test


def test_test_images_get_what_the_run_measured(photo_run, photos, tested, capsys):
    paths = [str(photos / name) for name in tested]
    assert cli.main(["predict", str(photo_run), *paths]) == 0
    predictions = rows(capsys.readouterr().out)
    assert [row["image"] for row in predictions] == paths
    for row, measured in zip(predictions, tested.values(), strict=True):
        assert row["prediction"] == measured["prediction"]
        assert float(row["confidence"]) == pytest.approx(float(measured["confidence"]), abs=1e-6)
        assert row["error"] == ""


def test_prediction_uses_the_runs_threads_and_names_its_batches(photo_run, photos, capsys):
    before, own = torch.get_num_threads(), TrainedRun.read(photo_run).run.trainer.threads
    try:
        torch.set_num_threads(own + 1)
        assert cli.main(["predict", str(photo_run), str(photos), "--batch-size", "3"]) == 0
        assert torch.get_num_threads() == own
    finally:
        torch.set_num_threads(before)
    assert "in batches of 3, " in capsys.readouterr().err


def test_a_folder_stands_for_its_images_and_the_batch_size_changes_nothing(
    photo_run, photos, tested, tmp_path
):
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    words = ["predict", str(photo_run), str(photos), "--format", "json", "--top-k", "2", "--out"]
    assert cli.main([*words, str(one)]) == 0
    assert cli.main([*words, str(other), "--batch-size", "3"]) == 0
    rows_of_one, rows_of_other = json.loads(one.read_text()), json.loads(other.read_text())
    assert [row["image"] for row in rows_of_one] == sorted(str(path) for path in photos.rglob("*.*"))
    for row, other_row in zip(rows_of_one, rows_of_other, strict=True):
        (first, second), again = row["predictions"], other_row["predictions"]
        assert {first["class"], second["class"]} == {"cat", "dog & más"}
        assert first["confidence"] + second["confidence"] == pytest.approx(1)
        assert first["confidence"] == pytest.approx(again[0]["confidence"], abs=1e-6)
        if measured := tested.get(row["image"].removeprefix(f"{photos}/")):
            assert first["class"] == measured["prediction"]


def test_a_table_stands_for_the_images_that_it_lists(photo_run, photos, tested, tmp_path, capsys):
    names = list(tested)[:3]
    table = photos.parent / "new images.csv"
    table.write_text("\n".join(["id;image", *(f"{i};photos/{name}" for i, name in enumerate(names))]))
    assert cli.main(["predict", str(photo_run), str(table)]) == 0
    assert [row["prediction"] for row in rows(capsys.readouterr().out)] == [
        tested[name]["prediction"] for name in names
    ]
    table.write_text("img,x\na.png,1\n")
    assert cli.main(["predict", str(photo_run), str(table)]) == 2
    assert "new images.csv: has no column 'image'; did you mean 'img'?" in capsys.readouterr().err
    table.unlink()


def test_the_column_of_images_is_that_of_the_models_table(tmp_path):
    table = tmp_path / "new.csv"
    table.write_text("image,scan\na.png,b.png\n")
    overrides = ["dataset=table", "dataset.file=x.csv", "dataset.columns.image=scan"]
    dataset = compose.experiment(overrides)[0].dataset
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    assert image_files([str(table)], dataset) == [tmp_path / "b.png"]
    table.write_text("image\na.png\n")
    assert image_files([str(table)], dataset) == [tmp_path / "a.png"]
    table.write_text("scan\nc.png\nd.png\n")
    with pytest.raises(FrostlineError, match=r"c\.png doesn't exist; paths in a table are relative to"):
        image_files([str(table)], dataset)
    table.write_text("scans\na.png\n")
    with pytest.raises(FrostlineError, match="has no column 'scan' or 'image'; did you mean 'scans'"):
        image_files([str(table)], dataset)


def test_conversions_of_pixels_are_warned_about(photo_run, tmp_path, capsys):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 65536, (20, 20, 4), dtype=np.uint16)
    files = {
        "colour.tif": tiff(values[..., :3], 2),
        "grey.tif": tiff(values[..., 0], 1),
        "dim.tif": tiff(values[..., 0] >> 4, 1),
        "infrared.tif": tiff(values, 2),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert cli.main(["predict", str(photo_run), str(tmp_path)]) == cli.EXIT_USER
    out, err = capsys.readouterr()
    errors = {row["image"].rpartition("/")[2]: row["error"] for row in rows(out)}
    assert {name: error[:14] for name, error in errors.items() if error} == {"infrared.tif": "has 4 channels"}
    assert "warning: 3 images have more than 8 bits per channel, scaled to 8" in err
    assert "warning: 1 16-bit image uses less than an eighth of its range" in err


def test_images_that_cannot_be_used_are_named_and_the_rest_is_predicted(photo_run, photos, tmp_path, capsys):
    bad = tmp_path / "pictures"
    (bad / "more").mkdir(parents=True)
    shutil.copy(photos / "cat" / "00.png", bad / "more" / 'good, "quoted".png')
    (bad / "empty.png").touch()
    (bad / "page.jpg").write_text("<!doctype html>")
    (bad / "cut.png").write_bytes((photos / "cat" / "00.png").read_bytes()[:-20])
    (bad / "notes.txt").write_text("no picture")
    (bad / ".hidden.png").write_text("no picture")
    table = tmp_path / "listed.csv"
    table.write_text("id;image\n1;nowhere.png\n")
    words = ["predict", str(photo_run), str(bad), str(bad / "notes.txt"), str(table), "--top-k", "2"]
    assert cli.main(words) == cli.EXIT_USER
    out, err = capsys.readouterr()
    said = {row["image"].rpartition("/")[2]: row for row in rows(out)}
    assert list(said) == [
        "cut.png",
        "empty.png",
        'good, "quoted".png',
        "page.jpg",
        "notes.txt",
        "nowhere.png",
    ]
    reasons = {
        "cut.png": "is truncated: copy or download it again",
        "empty.png": "is empty (0 bytes): copy or download it again",
        "page.jpg": "is an HTML page, not an image (a failed download?): download it again",
        "notes.txt": "is truncated (10 bytes): copy or download it again",
        "nowhere.png": "is missing: restore it",
    }
    for name, reason in reasons.items():
        assert said[name]["error"] == reason
        assert said[name]["prediction"] == said[name]["confidence_2"] == ""
        assert f"{name} {reason}\n" in err
    good = said['good, "quoted".png']
    assert good["error"] == ""
    assert float(good["confidence"]) + float(good["confidence_2"]) == pytest.approx(1)
    sentence = "5 images could not be used; their error says why, the others are classified"
    assert err.splitlines()[-1] == f"frostline: error: predict: {sentence}"


def test_a_network_measured_in_two_precisions_predicts_in_them(digits, tmp_path, monkeypatch):
    """Frozen layers in bfloat16, the head in float32: the whole network in either gives other numbers."""
    from tests.tiny import PROBE

    from frostline.features import execution
    from frostline.pipeline.pretrain.stage import train_once
    from frostline.training.services import Services

    monkeypatch.setattr(execution, "has_bf16", lambda device: True)
    trainer = {"precision": "auto", "epochs": 5}
    changes = {"backbone": RESNET, "input.size": 32, "freeze": PROBE, "optimizer.lr": 1.0}
    config = run_config({**changes, "trainer": trainer})
    config = config.model_copy(update={"freeze_name": "linear_probe"})
    train_once(config, digits, tmp_path / "run", Services(tmp_path / "scratch"))
    trained = TrainedRun.read(tmp_path / "run")
    measured = [float(row["confidence"]) for row in read_csv(tmp_path / "run" / "predictions.csv")]
    monkeypatch.setattr(prediction, "scratch", lambda: tmp_path / "other")
    pixels, _ = trained.images(10_000)
    assert len(pixels) == len(measured)
    in_two = prediction.Network(trained).probabilities([pixels]).max(1).values.tolist()
    assert in_two == pytest.approx(measured, abs=1e-6)
    in_one = trained.serving_model()(pixels).max(1).values.tolist()
    assert in_one != pytest.approx(measured, abs=1e-3)


def test_too_many_classes_and_an_empty_folder_are_refused_before_loading(photo_run, tmp_path, monkeypatch):
    (tmp_path / "x.png").touch()
    monkeypatch.setattr(TrainedRun, "read", lambda folder: pytest.fail("loaded"))
    arguments = parse(["predict", str(photo_run), str(tmp_path / "x.png"), "--top-k", "3"])
    with pytest.raises(FrostlineError) as caught:
        arguments.command(arguments)
    assert str(caught.value) == "--top-k: found 3, and the model knows 2 classes; give at most 2"
    (tmp_path / "empty").mkdir()
    arguments = parse(["predict", str(photo_run), str(tmp_path / "empty")])
    with pytest.raises(FrostlineError, match=r"empty: holds no file; name another folder, or the files$"):
        arguments.command(arguments)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["{run}", "{empty}"],
            r"empty: holds no (image file but .*|file); name another folder, or the files$",
        ),
        (["{run}", "emptie"], r"^images: emptie doesn't exist: give .*; did you mean empty\?$"),
        (["{run}e", "x.png"], r"runs/onee: there is no such folder; did you mean 'one'\? \(allowed: one\)$"),
        (
            ["{empty}", "x.png"],
            r"empty: no finished run, config.yaml is missing; name another folder, a run ",
        ),
        (
            ["{run}/..", "x.png"],
            r"no finished run, config.yaml is missing; name another folder, such as .*/one$",
        ),
        (
            ["{run}/config.yaml", "x.png"],
            r"config.yaml is a file; name the run's folder, .*/one, or models:/NAME@ALIAS",
        ),
    ],
)
def test_mistakes_are_one_sentence(photo_run, tmp_path, words, sentence, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.png").touch()
    words = [word.format(run=photo_run, empty=tmp_path / "empty") for word in words]
    assert cli.main(["predict", *words]) == cli.EXIT_USER
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    with pytest.raises(FrostlineError, match=sentence):
        raise FrostlineError(line.removeprefix("frostline: error: "))


def test_a_sheet_shows_the_images_with_their_classes(photo_run, photos, tmp_path, capsys):
    (tmp_path / "no picture.png").write_text("text")
    page, table = tmp_path / "sheet.html", tmp_path / "rows.csv"
    words = ["predict", str(photo_run), str(photos / "cat"), str(tmp_path / "no picture.png")]
    assert cli.main([*words, "--html", str(page), "--out", str(table)]) == 2
    html = page.read_text()
    assert html.count("<img") == 20
    assert html.count('class="bar') == 2 * 20  # two classes
    assert "dog &amp; más" in html
    assert "no picture.png" in html
    assert "dog & más" not in html
    # The rows are the same as without a sheet.
    assert str(page) in capsys.readouterr().err
    with_sheet = table.read_text()
    assert cli.main([*words, "--out", str(table)]) == 2
    assert table.read_text() == with_sheet


def test_a_sheet_has_a_limited_number_of_images(photo_run, photos, tmp_path, monkeypatch):
    from frostline.sheets import predictions

    monkeypatch.setattr(predictions, "MOST_IMAGES", 3)
    words = ["predict", str(photo_run), str(photos), "--html", str(tmp_path / "s.html")]
    assert cli.main([*words, "--out", str(tmp_path / "rows.csv")]) == 0
    html = (tmp_path / "s.html").read_text()
    assert html.count("<img") == 3
    assert "the first 3 of 40 images" in html
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 41
