"""Runs from Python are those of the commands, however often and wherever they are called."""

import asyncio
import json
import os
import shutil
import signal
import threading
import time
import warnings

import numpy as np
import pytest
from PIL import Image
from tests.tiny import files

import frostline as fl
from frostline.base.formats import read_csv
from frostline.commands import main as cli

TINY = {
    "backbone": "mlp",
    "weights": "none",
    "epochs": 2,
    "overrides": {"backbone.hidden": [8], "input.size": 8, "trainer.threads": 1},
}
WORDS = [
    *("dataset=digits", "backbone=mlp", "weights=none", "trainer.epochs=2", "backbone.hidden=[8]"),
    *("input.size=8", "trainer.threads=1"),
]


def test_a_run_is_that_of_the_command(here):
    run = fl.finetune("digits", **TINY, out="by python")
    assert cli.main(["finetune", *WORDS, "out=by a command"]) == 0
    assert files(here / "by python") == files(here / "by a command")
    assert run.folder == here / "by python"
    assert f"test accuracy {run.metrics['test']['accuracy']:.4f}" in repr(run)
    assert run.config["trainer"]["epochs"] == 2
    assert run.classes == tuple("0123456789")
    assert sum(parameter.numel() for parameter in run.network.parameters()) == 64 * 8 + 8 + 8 * 10 + 10
    assert fl.load("by python").metrics == run.metrics == fl.load(run).metrics


def test_a_pretraining(here):
    options = {**TINY, "overrides": {"backbone.hidden": [8], "input.size": 8, "pretrain.trainer.threads": 1}}
    run = fl.pretrain("digits", **options, out="source")
    assert len(run.history) == 3
    assert run.config["stage"] == "pretrain"
    with pytest.raises(fl.FrostlineError, match=r"not read this key; write pretrain\.trainer\.epochs=3$"):
        fl.pretrain("digits", overrides=["trainer.epochs=3"])


def test_the_history(here):
    run = fl.finetune("digits", **{**TINY, "epochs": 4}, freeze="lp_ft")
    history = run.history
    assert [row["epoch"] for row in history] == history["epoch"] == [0, 1, 2, 3, 4]
    assert history[0]["train/loss"] is None
    frame = history.to_pandas()
    assert frame["val/accuracy"].tolist() == history["val/accuracy"]
    assert history.svg().startswith(b"<?xml")
    assert 'src="data:image/svg+xml;base64,' in history._repr_html_()
    assert history.trained == ("head", "all")  # of its phases
    saved = json.loads((run.folder / "training.json").read_text())["best_epoch"]
    value = history["val/accuracy"][saved]
    assert repr(history) == f"History(4 epochs, saved: epoch {saved} with val/accuracy {value:.4f})"
    assert "selection/accuracy" not in frame  # there is no label budget


def test_from_another_folder_and_again(here, tmp_path, monkeypatch):
    """A run is where it was written; the next one belongs to the folder of its call."""
    first = fl.finetune("digits", **TINY)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    second = fl.finetune("digits", **TINY)
    assert files(first.folder) == files(second.folder)
    assert first.folder.is_relative_to(here)
    assert second.folder.is_relative_to(tmp_path / "other")
    assert first.mistakes(3).sheet().cards
    assert first.predict(np.zeros((8, 8), np.uint8))[0].label in first.classes


def test_inside_a_running_event_loop(here):
    async def notebook():
        return fl.finetune("digits", **TINY).metrics

    assert asyncio.run(notebook())["test"]["accuracy"] > 0


def test_after_ctrl_c_the_next_call_resumes(here):
    options = {**TINY, "epochs": 3000}

    def interrupt():
        while not list(here.glob(".frostline/locks/run-*.lock")):
            time.sleep(0.01)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        fl.finetune("digits", **options, out="long")
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    assert not (here / "long").exists()
    assert fl.finetune("digits", **TINY, out="long").metrics["test"]


def test_mistakes_of_arguments_are_the_errors_of_the_command(here, capsys):
    for word, options in (("freeze=fulll", {"freeze": "fulll"}), ("trainer.epochs=0", {"epochs": 0})):
        assert cli.main(["finetune", word]) == 2
        printed = capsys.readouterr().err.removeprefix("frostline: error: ").strip()
        with pytest.raises(fl.FrostlineError) as raised:
            fl.finetune(**options)
        assert str(raised.value) == printed
    fl.finetune("digits", **TINY, out="taken")
    with pytest.raises(fl.FrostlineError, match="out: taken contains a run with another config"):
        fl.finetune("digits", **{**TINY, "epochs": 1}, out="taken")
    assert fl.finetune("digits", **{**TINY, "epochs": 1}, out="taken", force=True).history[-1]["epoch"] == 1
    with pytest.raises(fl.FrostlineError, match="run: found 3; give a run's folder, id or name"):
        fl.load(3)
    with pytest.raises(fl.FrostlineError, match="nowhere: no such folder"):
        fl.load("nowhere")
    with pytest.raises(fl.TrainingFailed, match=r"lower optimizer\.lr"):
        fl.finetune("digits", **TINY, lr=1e30)


@pytest.fixture(scope="module")
def run(photo_run):
    return fl.load(photo_run)


def test_predictions_are_those_of_the_run(run, photo_run, here, request):
    photos = photo_run.parents[1] / "photos"
    measured = read_csv(photo_run / "predictions.csv")
    paths = [photos / row["id"] for row in measured]
    predictions = run.predict(paths)
    assert predictions.labels == [row["prediction"] for row in measured]
    for prediction, row in zip(predictions, measured, strict=True):
        assert prediction.confidence == pytest.approx(float(row["confidence"]), abs=1e-6)
        assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert next(iter(prediction.probabilities)) == prediction.label
    images = [Image.open(path) for path in paths]
    request.addfinalizer(lambda: [image.close() for image in images])
    in_memory = run.predict(images)
    assert [row.probabilities for row in in_memory] == [row.probabilities for row in predictions]
    assert [row.image for row in in_memory][:2] == ["image 0", "image 1"]
    is_plain = [image.mode == "RGB" and not image.getexif() for image in images]
    arrays = [np.asarray(image) for image, good in zip(images, is_plain, strict=True) if good]
    plain = [row for row, good in zip(predictions, is_plain, strict=True) if good]
    assert len(arrays) > 1
    assert [row.probabilities for row in run.predict(arrays)] == [row.probabilities for row in plain]
    assert len(run.predict(photos)) == 40


def test_arrays_of_several_images(run, here):
    batch = np.random.default_rng(0).integers(0, 256, (5, 20, 20, 3), dtype=np.uint8)
    one_by_one = [run.predict(image)[0].probabilities for image in batch]
    assert [row.probabilities for row in run.predict(batch)] == one_by_one
    grey = batch[..., 0]
    assert len(run.predict(grey)) == len(run.predict(batch[..., :1])) == len(run.predict(list(grey))) == 5
    empty = np.zeros((2, 2, 2, 2, 3), np.uint8)
    for wrong in (batch / 255, batch[0].transpose(2, 0, 1), empty, empty[0, 0, 0, 0]):
        with pytest.raises(fl.FrostlineError, match="images: found an array of"):
            run.predict(wrong)
    for wrong in ([], 3):
        with pytest.raises(fl.FrostlineError, match="images: found"):
            run.predict(wrong)


def test_images_of_pillow_that_cannot_be_used_have_an_error(run, here):
    good = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    good.save(here / "good.jpg")
    whole = (here / "good.jpg").read_bytes()
    (here / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    closed = Image.open(here / "good.jpg")
    closed.close()
    with Image.open(here / "cut.jpg") as cut:
        found = run.predict([good, cut, closed, Image.new("HSV", (20, 20)), good])
    assert [bool(row.error) for row in found] == [False, True, True, True, False]
    assert found[0].probabilities == found[4].probabilities
    assert "truncated" in found[1].error
    with pytest.raises(fl.FrostlineError, match=r"^batch_size: found 2\.5; give a whole number above 0"):
        run.predict(good, batch_size=2.5)
    with pytest.raises(fl.FrostlineError, match=r"^batch_size: found 0; "):
        run.predict(good, batch_size=0)


def test_a_transparent_colour_counts_as_in_the_file(run, here):
    picture = Image.new("RGB", (20, 20), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 0, 20, 12))
    picture.save(here / "t.png", transparency=(0, 0, 255))
    with Image.open(here / "t.png") as opened:
        assert opened.mode == "RGB"
        in_memory, from_file = run.predict(opened), run.predict(here / "t.png")
    assert in_memory[0].probabilities == from_file[0].probabilities
    assert run.predict(picture)[0].probabilities != from_file[0].probabilities


def test_a_picture_with_transparency_has_four_channels(here):
    for number in range(40):
        (here / "rgba" / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9, 4), dtype=np.uint8)
        Image.fromarray(pixels).save(here / f"rgba/{number % 2}/{number}.png")
    bands = {"backbone.hidden": [4], "input.size": 9, "input.channels": 4, "trainer.threads": 1}
    run = fl.finetune("rgba", **{**TINY, "overrides": bands}, out="run")
    file = here / "rgba/0/0.png"
    with Image.open(file) as picture:
        assert run.predict(picture)[0].probabilities == run.predict(file)[0].probabilities


@pytest.mark.parametrize(("channels", "depth"), [(5, 8), (2, 16), (1, 16)])
def test_arrays_of_other_channels_and_bits(here, channels, depth):
    draw = np.random.default_rng(0)
    for number in range(40):
        image = draw.integers(0, 100 << depth - 8, (9, 9, channels)) << number % 2
        (here / "bands" / f"class {number % 2}").mkdir(parents=True, exist_ok=True)
        kind = np.uint8 if depth == 8 else np.uint16
        np.save(here / "bands" / f"class {number % 2}" / f"{number}.npy", image.astype(kind))
    bands = {"backbone.hidden": [4], "input.size": 9, "input.channels": channels, "input.depth": depth}
    run = fl.finetune("bands", **{**TINY, "overrides": {**bands, "trainer.threads": 1}}, out="run")
    rows = read_csv(here / "run" / "predictions.csv")
    arrays = [np.load(here / "bands" / row["id"]) for row in rows]
    for predictions in (run.predict(arrays), run.predict(np.stack(arrays))):
        assert predictions.labels == [row["prediction"] for row in rows]
        for prediction, row in zip(predictions, rows, strict=True):
            assert prediction.confidence == pytest.approx(float(row["confidence"]), abs=1e-6)
    assert predictions._repr_html_().count("<img") == len(rows)
    if channels == 1:
        pictures = run.predict([Image.fromarray(array[..., 0]) for array in arrays])
        assert [row.probabilities for row in pictures] == [row.probabilities for row in predictions]
    grey = run.predict(Image.new("L", (9, 9)))[0]
    assert bool(grey.error) == (channels != 1)


def test_an_image_that_can_not_be_read(run, here):
    (here / "no.png").write_text("text")
    predictions = run.predict([here / "no.png", np.zeros((9, 9), np.uint8)])
    assert [bool(row.error) for row in predictions] == [True, False]
    assert predictions[0].label is None
    frame = predictions.to_pandas()
    assert list(frame)[:4] == ["image", "prediction", "confidence", "error"]
    assert frame["prediction"].tolist()[1] == predictions[1].label
    assert frame["error"].astype(bool).tolist() == [True, False]
    assert "no.png" in predictions._repr_html_()
    with pytest.raises(fl.FrostlineError, match=r"none\.png doesn't exist"):
        run.predict([here / "no.png", here / "none.png"])


def test_a_further_test_set(run, photo_run, here, monkeypatch):
    photos = photo_run.parents[1] / "photos"
    classes = sorted(folder.name for folder in photos.iterdir() if folder.is_dir())
    shutil.copytree(photos / classes[0], here / "photos_b" / classes[0])
    shutil.copytree(photo_run, here / "run")
    measured = fl.load("run").evaluate("photos_b")
    written = json.loads((here / "run/test_sets/photos_b/metrics.json").read_text())
    assert dict(measured) == measured.metrics == written["test"]
    assert (measured.name, measured.folder) == ("photos_b", here / "run/test_sets/photos_b")
    assert any("also in the run's own train split" in text for text in measured.warnings)
    assert f"accuracy {measured['accuracy']:.4f}" in repr(measured)
    html = measured._repr_html_()
    assert f"{measured['accuracy']:.4f}" in html
    assert "also in the run&#39;s own" in html
    wrong = round(measured["n"] * (1 - measured["accuracy"]))
    assert len(measured.mistakes(100)) == wrong
    monkeypatch.chdir("/")
    again = run.evaluate(here / "photos_b", out=here / "again", tta="flip", force=True)
    assert sorted(path.name for path in again.folder.iterdir()) == [
        "metrics.json",
        "predictions.csv",
        "test_set.json",
    ]
    for wrong in (3, None):
        with pytest.raises(fl.FrostlineError, match=r"^data: found .*; give a folder of images, a table"):
            run.evaluate(wrong)
    with pytest.raises(fl.FrostlineError, match=r"^freeze=full: give KEY=VALUE with a key below dataset"):
        run.evaluate(here / "photos_b", overrides={"freeze": "full"})


def test_mistakes_are_sorted_and_survive_a_lost_image(photo_run, tmp_path, monkeypatch):
    shutil.copytree(photo_run.parents[1] / "photos", tmp_path / "photos")
    shutil.copytree(photo_run, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(photo_run.parents[1] / "photos"), "photos"))
    wrong = [row for row in read_csv(photo_run / "predictions.csv") if row["label"] != row["prediction"]]
    wrong.sort(key=lambda row: -float(row["confidence"]))
    assert len(wrong) > 2
    (tmp_path / "photos" / wrong[1]["id"]).unlink()
    monkeypatch.chdir(tmp_path)
    run = fl.load("run")
    monkeypatch.chdir("/")
    with warnings.catch_warnings():
        mistakes = run.mistakes()
        sheet = mistakes.sheet()
    assert [card.title for card in sheet.cards] == [row["label"] for row in wrong]
    assert [card.bars[0].share for card in sheet.cards] == [float(row["confidence"]) for row in wrong]
    assert [len(card.pictures) for card in sheet.cards] == [i != 1 for i in range(len(wrong))]
    assert "missing or damaged" in sheet.cards[1].note
    assert (
        [row.image for row in mistakes] == list(mistakes.to_pandas()["image"]) == [row["id"] for row in wrong]
    )
    assert list(mistakes.to_pandas().columns) == ["image", "label", "prediction", "confidence"]
    assert (mistakes[0].prediction, mistakes[0].confidence) == (
        wrong[0]["prediction"],
        float(wrong[0]["confidence"]),
    )
    assert repr(run.mistakes(1)) == f"Mistakes(1 of {len(wrong)}; 16 images measured)"
    assert len(run.mistakes(1)) == len(run.mistakes(1).to_pandas()) == 1
    assert list(run.mistakes(None)) == list(mistakes)
    assert list(run.mistakes(0).to_pandas().columns) == ["image", "label", "prediction", "confidence"]


def test_a_studys_run_has_its_measurements(photo_run, tmp_path, monkeypatch):
    """They are in a folder beside the networks; paths in its config are relative to the project."""
    trained, measured = (tmp_path / "artifacts" / stage / "full/seed-0" for stage in ("finetune", "evaluate"))
    shutil.copytree(photo_run, trained)
    measured.mkdir(parents=True)
    for name in ("metrics.json", "predictions.csv"):
        (trained / name).rename(measured / name)
    shutil.copytree(photo_run.parents[1] / "photos", tmp_path / "photos")
    config = trained / "config.yaml"
    config.write_text(config.read_text().replace(str(photo_run.parents[1] / "photos"), "photos"))
    (tmp_path / "conf/freeze").mkdir(parents=True)  # makes it a project
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    run, original = fl.load(trained), fl.load(photo_run)
    assert run.metrics == original.metrics
    assert run.mistakes()._repr_html_() == original.mistakes()._repr_html_()


def test_what_a_notebook_shows(run, here, photo_run):
    html = "".join(part._repr_html_() for part in (run, run.history, run.mistakes()))
    assert "dog &amp; más" in html
    assert "dog & más" not in html
    assert "<script" not in html
    assert html.count("data:image/svg+xml") == 2


def test_export_takes_the_format_from_the_suffix(run, here):
    path = run.export("exported/weights.safetensors")
    assert path.read_bytes()[-1000:] == (run.folder / "weights.safetensors").read_bytes()[-1000:]
    with pytest.raises(fl.FrostlineError, match=r"name a file that ends in \.onnx, \.pt2 or \.safetensors$"):
        run.export("model.pt")
    assert sorted(entry.name for entry in (here / "exported").iterdir()) == ["weights.safetensors"]
