"""A finished run is measured on a further test set; its own results stay as they are."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.data.tables import write_table
from tests.data.trees import packaged, picture, plant, plant_splits

from frostline.base.formats import read_csv
from frostline.commands import main as cli
from frostline.pipeline.evaluate_on import name_of_test_set

CLASSES = ("cat", "dog", "fox")
TINY = [
    *("backbone=mlp", "backbone.hidden=[8]", "weights=none", "input.size=8", "freeze=full"),
    *("trainer.epochs=2", "trainer.threads=1"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with images of three classes, and a run on them."""
    folder = tmp_path_factory.mktemp("a prôject")
    plant(folder / "photos", CLASSES, images=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FROSTLINE_TRACKING", "off")
        assert cli.main(["finetune", "dataset=image_folder", "dataset.root=photos", *TINY, "out=run"]) == 0
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """A copy of it; nothing is recorded."""
    folder = tmp_path / "a prôject"
    shutil.copytree(trained, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FROSTLINE_TRACKING", "off")
    return folder


def evaluate(capsys, *words, status=0):
    """Run the command; return its output and its errors."""
    capsys.readouterr()
    assert cli.main(["evaluate", "run", *words]) == status
    return capsys.readouterr()


def content(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def test_classes_are_matched_by_name_and_may_be_missing(here, capsys):
    plant(here / "photos_b", ("dog", "fox"), seed=50_000)
    before = content("run")
    shown = evaluate(capsys, "--on", "photos_b")
    assert content("run") == before
    out = Path("run/test_sets/photos_b")
    assert sorted(content(out)) == ["metrics.json", "predictions.csv", "test_set.json"]
    rows = read_csv(out / "predictions.csv")
    assert {row["id"]: row["label"] for row in rows}["dog/0.png"] == "dog"
    right = sum(row["label"] == row["prediction"] for row in rows) / len(rows)
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["test"]["accuracy"], metrics["test"]["n"]) == (right, 12)
    balanced, f1 = metrics["test"]["balanced_accuracy"], metrics["test"]["f1_macro"]
    details = f"(balanced {balanced:.4f}, macro F1 {f1:.4f})"
    assert shown.out == f"{out}: photos_b accuracy {right:.4f} {details}, 12 images\n"
    lacking = "photos_b has images of 2 of the run's 3 classes, none of 'cat'"
    assert f"warning: {lacking}\n" in shown.err
    about = json.loads((out / "test_set.json").read_text())
    assert (about["path"], about["images"], about["warnings"]) == ("photos_b", 12, [lacking])
    assert about["weights_sha256"] == json.loads(Path("run/training.json").read_text())["weights_sha256"]


def test_the_predictions_are_those_of_predict(here, capsys):
    plant(here / "photos_b", CLASSES, seed=50_000)
    evaluate(capsys, "--on", "photos_b")
    assert cli.main(["predict", "run", "photos_b", "--out", "predicted.csv"]) == 0
    predicted = {row["image"]: row["prediction"] for row in read_csv(Path("predicted.csv"))}
    rows = read_csv(Path("run/test_sets/photos_b/predictions.csv"))
    assert {f"photos_b/{row['id']}": row["prediction"] for row in rows} == predicted


def test_unknown_classes_are_refused_with_the_nearest_known(here, capsys):
    plant(here / "other", ("Cat", "dog", "wolf"), images=2, seed=50_000)
    error = evaluate(capsys, "--on", "other", status=2).err
    assert error == (
        "frostline: error: other: has 2 classes, 'Cat', 'wolf', which the training images do not have;"
        " did you mean 'cat'? (allowed: cat, dog, fox)\n"
    )
    assert not Path("run/test_sets").exists()


def test_images_that_the_run_has_seen_are_named(here, capsys):
    plant(here / "photos_b", CLASSES, images=4, seed=50_000)
    own = {row["id"] for row in read_csv(Path("run/predictions.csv"))}
    seen = [path for path in sorted(here.glob("photos/cat/*.png")) if f"cat/{path.name}" not in own]
    for place in (0, 1):
        shutil.copy(seen[place], here / f"photos_b/cat/copy {place}.png")
    shutil.copy(here / "photos" / min(own), here / "photos_b" / min(own).partition("/")[0] / "tested.png")
    (warning,) = [
        line for line in evaluate(capsys, "--on", "photos_b").err.splitlines() if " also in " in line
    ]
    assert "2 images of photos_b are also in the run's own" in warning
    assert f"cat/{seen[0].name} (" in warning
    assert "= cat/copy 0.png" in warning
    assert "tested.png" not in warning
    about = json.loads(Path("run/test_sets/photos_b/test_set.json").read_text())
    assert [f"frostline: warning: {text}" for text in about["warnings"]] == [warning]


def test_images_of_the_pretraining_are_named_too(here, capsys):
    plant(here / "photos_a", CLASSES, images=8, seed=90_000)
    plant(here / "photos_b", CLASSES, images=4, seed=50_000)
    source = ["source=image_folder", "source.root=photos_a", "pretrain.trainer.epochs=1", "weights=pretrain"]
    words = ["dataset=image_folder", "dataset.root=photos", *source, *TINY, "out=transferred"]
    assert cli.main(["finetune", *[word for word in words if word != "weights=none"]]) == 0
    for place in range(8):
        (file,) = here.glob(f"photos_a/cat/*{place}.png")
        shutil.copy(file, here / f"photos_b/cat/copy {place}.png")
    capsys.readouterr()
    assert cli.main(["evaluate", "transferred", "--on", "photos_b"]) == 0
    error = capsys.readouterr().err
    assert re.search(r"\d images of photos_b are also in the pretraining's train split \(\d\)", error)
    assert "the run's own" not in error


def test_images_that_look_like_those_of_the_run_are_named(here, capsys):
    for name in ("photos_big", "photos_b"):
        for label in ("cat", "dog"):
            (here / name / label).mkdir(parents=True)
            for i in range(8):
                number = 1000 * (label == "dog") + i + 90_000 * (name == "photos_b")
                picture(number, (90, 90)).save(here / name / label / f"{i}.png")
    assert (
        cli.main(["finetune", "dataset=image_folder", "dataset.root=photos_big", *TINY, "out=run", "--force"])
        == 0
    )
    own = {row["id"] for row in read_csv(Path("run/predictions.csv"))}
    seen = next(i for i in range(8) if f"cat/{i}.png" not in own)
    picture(seen, (90, 90)).save(here / "photos_b/cat/alike.jpg", quality=80)
    error = evaluate(capsys, "--on", "photos_b").err
    assert "1 image of photos_b looks like one in the run's own" in error
    assert f"cat/{seen}.png (" in error
    assert "≈ cat/alike.jpg" in error


def test_without_the_runs_data_that_is_said(here, capsys):
    plant(here / "photos_b", CLASSES, seed=50_000)
    (here / "photos").rename(here / "gone")
    assert "photos_b was not compared with the images that the run was trained on, which can't be" in (
        evaluate(capsys, "--on", "photos_b").err
    )
    (here / "gone").rename(here / "photos")
    picture(70_000).save(here / "photos/cat/new.png")
    changed = evaluate(capsys, "--on", "photos_b").err
    assert "was trained on, since its data set has changed (30 images then, 31 now)" in changed


def test_other_results_are_not_overwritten(here, capsys):
    plant(here / "photos_b", CLASSES, seed=50_000)
    evaluate(capsys, "--on", "photos_b")
    before = content("run/test_sets/photos_b")
    evaluate(capsys, "--on", "photos_b")
    assert content("run/test_sets/photos_b") == before
    (here / "photos_b/cat").rename(here / "photos_b/tac")
    (here / "photos_b/dog").rename(here / "photos_b/cat")
    (here / "photos_b/tac").rename(here / "photos_b/dog")
    error = evaluate(capsys, "--on", "photos_b", status=2).err
    assert "measured now it is" in error
    assert content("run/test_sets/photos_b") == before
    evaluate(capsys, "--on", "photos_b", "--out", "elsewhere")
    evaluate(capsys, "--on", "photos_b", "--force")
    assert content("run/test_sets/photos_b") == content("elsewhere") != before


def test_another_test_set_with_the_name_of_the_runs_own_is_refused(here, capsys):
    for folder in ("night", "site/night"):
        plant(here / folder, CLASSES, seed=50_000 + len(folder))
    data = ["dataset=image_folder", "dataset.root=photos", "+dataset.test_sets.night.root=night"]
    assert cli.main(["finetune", *data, *TINY, "out=run", "--force"]) == 0
    own = json.loads(Path("run/metrics.json").read_text())["test/night"]
    shown = evaluate(capsys, "--on", "site/night", "--out", "elsewhere", status=2)
    assert "site/night: the run has another test set of this name (dataset.test_sets.night)" in shown.err
    assert not Path("elsewhere").exists()
    evaluate(capsys, "--on", "night")
    again = json.loads(Path("run/test_sets/night/metrics.json").read_text())["test"]
    assert again["accuracy"] == own["accuracy"]


def test_a_table_with_other_columns_and_a_test_split(here, capsys):
    plant(here / "scans", ("cat", "dog"), seed=50_000)
    paths = sorted(path.relative_to(here) for path in (here / "scans").rglob("*.png"))
    rows = [[str(path), path.parts[1], "test" if i % 2 else "train"] for i, path in enumerate(paths)]
    write_table(here / "site_b.csv", rows, ["file", "diagnosis", "split"])
    missing = evaluate(capsys, "--on", "site_b.csv", status=2).err
    assert missing.startswith(
        "frostline: error: site_b.csv has no column 'image' (dataset.columns.image); did"
    )
    columns = ["dataset.columns.image=file", "dataset.columns.label=diagnosis"]
    shown = evaluate(capsys, "--on", "site_b.csv", *columns)
    assert shown.out.endswith(", 6 images\n")
    shown = evaluate(capsys, "--on", "site_b.csv", *columns, "dataset.columns.split=null", "--out", "all")
    assert shown.out.endswith(", 12 images\n")


def test_tables_have_the_runs_columns(here, capsys):
    paths = sorted(path.relative_to(here) for path in (here / "photos").rglob("*.png"))
    write_table(here / "a.csv", [[str(path), path.parts[1]] for path in paths], ["file", "what"])
    plant(here / "more", ("fox",), seed=50_000)
    write_table(here / "b.csv", [[f"more/fox/{i}.png", "fox"] for i in range(5)], ["file", "what"])
    columns = ["dataset.columns.image=file", "dataset.columns.label=what"]
    data = ["dataset=table", "dataset.file=a.csv"]
    assert cli.main(["finetune", *data, *columns, *TINY, "out=run", "--force"]) == 0
    assert evaluate(capsys, "--on", "b.csv").out.endswith(", 5 images\n")


def test_arrays_and_what_their_numbers_mean(here, capsys):
    images = np.stack([np.asarray(picture(60_000 + i)) for i in range(6)])
    np.savez(here / "names.npz", images=images, labels=np.array(["dog", "fox"] * 3))
    assert evaluate(capsys, "--on", "names.npz").out.rstrip(")\n").endswith("6 images")
    np.savez(here / "numbers.npz", images=images, labels=np.array([1, 2] * 3))
    error = evaluate(capsys, "--on", "numbers.npz", status=2).err
    assert "numbers.npz: has 2 classes, '1', '2', which the training images do not have" in error
    evaluate(capsys, "--on", "numbers.npz", "dataset.classes=[cat,dog,fox]")
    names, numbers = (Path(f"run/test_sets/{name}/metrics.json") for name in ("names", "numbers"))
    assert names.read_bytes() == numbers.read_bytes()


def test_several_labels(here, capsys):
    plant(here / "more", CLASSES, seed=50_000)

    def rows(folder):
        paths = sorted(path.relative_to(here) for path in (here / folder).rglob("*.png"))
        return [
            [str(path), ";".join({path.parts[1], "cat" if i % 3 else "fox"})] for i, path in enumerate(paths)
        ]

    write_table(here / "a.csv", rows("photos"))
    write_table(here / "b.csv", rows("more"))
    several = ["dataset=table", "dataset.file=a.csv", "dataset.task=multi_label", "loss=bce"]
    assert cli.main(["finetune", *several, *TINY, "out=run", "--force"]) == 0
    shown = evaluate(capsys, "--on", "b.csv")
    metrics = json.loads(Path("run/test_sets/b/metrics.json").read_text())["test"]
    micro, macro = (f"{kind} F1 {metrics[f'f1_{kind}']:.4f}" for kind in ("micro", "macro"))
    assert shown.out == f"run/test_sets/b: b mAP {metrics['mAP']:.4f} ({micro}, {macro}), 18 images\n"
    assert Path("run/test_sets/b/per_class.csv").is_file()
    refused = evaluate(capsys, "--on", "more", status=2).err
    assert refused.startswith(
        "frostline: error: more: the run was trained with several labels per image, and a"
    )


def test_bad_images_stop_it_or_are_skipped_with_a_warning(here, capsys):
    plant(here / "photos_b", CLASSES, images=3, seed=50_000)
    (here / "photos_b/cat/broken.png").write_bytes(b"no image")
    error = evaluate(capsys, "--on", "photos_b", status=2).err
    assert "frostline: error: photos_b has a file that can't be used: cat/broken.png is truncated" in error
    shown = evaluate(capsys, "--on", "photos_b", "dataset.on_bad_image=skip")
    assert "warning: 1 file was skipped" in shown.err
    assert shown.out.endswith(", 9 images\n")


def test_test_time_augmentation(here, capsys):
    plant(here / "photos_b", CLASSES, seed=50_000)
    evaluate(capsys, "--on", "photos_b", "--tta", "flip")
    metrics = json.loads(Path("run/test_sets/photos_b/metrics.json").read_text())
    assert sorted(metrics) == ["test", "test_without_tta"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--on", "photos_c"], "--on: photos_c doesn't exist: give a folder of images, a table"),
        (["--on", "run/config.yaml"], "run/config.yaml: is not a data set; give a folder of images, a table"),
        (["--on", "photos", "freeze=full"], "freeze=full: give KEY=VALUE with a key below dataset"),
        (["--on", "photos", "dataset.classes=[cat"], "dataset.classes=[cat: the value is not valid YAML"),
        (["dataset.root=photos"], "dataset.root=photos: evaluate measures a finished run as it was trained"),
    ],
)
def test_what_is_refused(here, capsys, words, sentence):
    assert evaluate(capsys, *words, status=2).err.startswith(f"frostline: error: {sentence}")


def test_a_run_of_a_study_needs_a_folder(here, capsys):
    plant(here / "photos_b", CLASSES, seed=50_000)
    shutil.copytree("run", "artifacts/finetune/full/seed-0")
    assert cli.main(["evaluate", "artifacts/finetune/full/seed-0", "--on", "photos_b"]) == 2
    assert "is an output of the study, which DVC would find changed; name a folder" in capsys.readouterr().err


def test_names_of_splits_are_preceded_by_their_folders(tmp_path):
    plant_splits(tmp_path / "site b", ("test",))
    for root, name in (("site b", "site_b"), ("site b/test", "site_b-test"), ("site b/images", "site_b")):
        config = packaged("image_folder", root=str(tmp_path / root)).dataset
        assert name_of_test_set(config) == name
