"""The data sets of `frostline init`: kinds, columns, and what DVC watches."""

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from tests.data.tables import write_table

from frostline.config import compose
from frostline.console.errors import FrostlineError
from frostline.pipeline.compose.watched import check_watched
from frostline.pipeline.data_places import parsed_keys
from frostline.projects.data_sets import DataSet
from frostline.projects.study import GROUPS, Study, begin
from frostline.schema.data import TestSet


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project with tables; nothing reads their images, which are empty."""
    root = tmp_path / "my work"
    for image in ("data/scans, old/1.png", "data/scans, old/sub/2.png", "data/more/1.png"):
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        (root / image).touch()
    rows = [["scans, old/1.png", "a", "x"], ["scans, old/sub/2.png", "b", "y"]]
    write_table(root / "data/labels.csv", rows, ["image", "label", "patient"])
    write_table(root / "data/other.tsv", [["./more/1.png", "a", "x"]], ["image", "label", "patient"])
    write_table(root / "flat.csv", [["1.png", "a"]], ["image", "label"])
    (root / "empty/cat").mkdir(parents=True)
    pyarrow.parquet.write_table(
        pyarrow.table({"path": ["scans, old/1.png"], "label": ["a"]}), root / "data/labels.parquet"
    )
    np.savez(root / "data.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.arange(2))
    monkeypatch.chdir(root)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    return root


def of(place, **keys):
    return DataSet("--source", Path(place), keys)


def test_which_tables_have_photographs(folder):
    write_table(folder / "data/photos.csv", [["1.jpg", "a"], ["2.JPEG", "b"], ["3.png", "b"]])
    assert of("data/photos.csv").has_photographs()
    assert not of("data/labels.csv").has_photographs()
    assert not of("data.npz").has_photographs()


def test_what_is_watched_beside_the_data_set_itself(folder):
    assert of("data/labels.csv").watched() == ["data/scans, old"]
    assert of("data/other.tsv").watched() == ["data/more"]
    assert of("data/labels.parquet", columns={"image": "path"}).watched() == ["data/scans, old"]
    assert of("data.npz").watched() == of("data").watched() == []
    tests = {"b": {"file": "data/other.tsv"}, "c": {"file": "data/labels.csv"}}
    assert of("data/labels.csv", test_sets=tests).watched() == [
        "data/scans, old",
        "data/other.tsv",
        "data/more",
        "data/labels.csv",
    ]
    assert of("data", test_sets={"b": {"root": "elsewhere"}}).watched() == ["elsewhere"]
    many = [[f"{i}/1.png", "a"] for i in range(9)]
    write_table(folder / "data/many.csv", many)
    assert of("data/many.csv").watched() == ["data"]


@pytest.mark.parametrize(
    ("place", "keys", "message"),
    [
        ("data/label.csv", {}, r"^--source: there is no file data/label\.csv; did you mean 'labels\.csv'\?"),
        ("datas", {}, r"^--source: there is no folder datas; did you mean 'data'\?"),
        ("empty", {}, r"^--source: empty is empty; give a folder with images$"),
        (
            "data/labels.parquet",
            {},
            r"^--source: data/labels\.parquet has no column 'image' \(source\.columns\.image\); .*label.*; "
            r"set source\.columns\.image=path$",
        ),
        (
            "data/labels.csv",
            {"group": "pateint"},
            r"^--source: data/labels\.csv has no column 'pateint' \(source\.group\); did you mean 'patient'",
        ),
        (
            "data/labels.csv",
            {"colums": {}},
            r"^--source: source\.colums: unknown key; did you mean 'columns'\?",
        ),
        ("data.npz", {"columns": {"image": "x"}}, r"^--source: data\.npz has no column 'x'"),
        (
            "data/labels.csv",
            {"columns": {"labels": "patient"}},
            r"^--source: source\.columns\.labels: found 'patient', must be a list of columns of 0 and 1; for "
            r"a column of class names, set source\.columns\.label=patient$",
        ),
    ],
)
def test_mistakes_are_one_sentence(folder, place, keys, message):
    with pytest.raises(FrostlineError, match=message):
        of(place, **keys).check()


def test_a_table_whose_images_are_elsewhere_is_refused_with_their_folder(folder):
    (folder / "clothes data/imgs/sub").mkdir(parents=True)
    write_table(folder / "clothes data/labels.csv", [["sub/1.jpg", "a"], ["sub/2.jpg", "b"]])
    none = r"^--source: clothes data/labels\.csv: none of its 2 images is in clothes data \(sub/1\.jpg,.*\): "
    with pytest.raises(FrostlineError, match=none + "set source.root to the folder that the paths start"):
        of("clothes data/labels.csv").check()
    (folder / "clothes data/imgs/sub/1.jpg").touch()
    with pytest.raises(FrostlineError, match=none + "set 'source.root=clothes data/imgs'$"):
        of("clothes data/labels.csv").check()
    of("clothes data/labels.csv", root="clothes data/imgs").check()
    with pytest.raises(FrostlineError, match=r"has only one class, 'imgs'") as raised:
        of("clothes data").check()
    tail = "; if labels.csv lists the images, read that: --source 'clothes data/labels.csv'"
    assert str(raised.value).endswith(tail)


def test_two_columns_of_one_name_are_refused(folder):
    write_table(folder / "twice.csv", [["1.png", "2.png", "a"]], ["image", "image", "label"])
    with pytest.raises(FrostlineError, match=r"^--source: twice\.csv has two columns 'image': rename one$"):
        of("twice.csv").check()


def test_images_in_the_projects_own_folder_can_not_be_watched(folder):
    with pytest.raises(FrostlineError, match=r"images of flat\.csv are in .*my work itself, which contains"):
        of("flat.csv").watched()


@pytest.mark.parametrize("image", ["/elsewhere/a.png", "../a.png"])
def test_images_outside_the_tables_folder_need_a_root(folder, image):
    (folder / "away.csv").write_text(f"image,label\n{image},cat\n")
    sentence = rf"^--source: away\.csv: {image} is not below .*: move it there, or set dataset\.root$"
    with pytest.raises(FrostlineError, match=sentence):
        of("away.csv").watched()


def test_another_file_is_no_data_set(folder):
    (folder / "notes.txt").write_text("")
    with pytest.raises(FrostlineError, match=r"^--source: notes\.txt is not a data set; give a folder of"):
        of("notes.txt").check()


@pytest.mark.parametrize("word", ["patient", "dataset=x", "freeze=full", "dataset..a=1", "source.=1"])
def test_keys_of_other_things_are_refused(word):
    with pytest.raises(FrostlineError, match="give KEY=VALUE with a key below source or dataset"):
        parsed_keys([word], GROUPS, "others can be set")


@pytest.mark.parametrize(
    ("keys", "losses"),
    [
        (("dataset.task=multi_label", "source.task=multi_label"), ("bce", "bce")),
        (("source.task=multi_label",), ("cross_entropy", "bce")),
        (("dataset.columns.labels=[sea, forest]", "dataset.task=multi_label"), ("bce", "cross_entropy")),
    ],
)
def test_a_study_with_several_labels_has_their_loss(folder, keys, losses):
    write_table(folder / "data/marks.csv", [["scans, old/1.png", 1, 0]], ["image", "sea", "forest"])
    columns = any("columns" in key for key in keys)
    target = Path("data/marks.csv" if columns else "data/labels.csv")
    begin(Study("mine", Path("data/other.tsv"), target, keys=keys), folder)
    composed, _ = compose.experiment(["experiment=mine"])
    assert (composed.loss.kind, composed.pretrain.loss.kind) == losses
    assert composed.trainer.monitor == ("val/mAP" if losses[0] == "bce" else "val/accuracy")


def test_labels_that_look_like_lists_are_pointed_out(folder):
    write_table(folder / "data/lists.csv", [["scans, old/1.png", "sea;people"], ["scans, old/2.png", "sea"]])
    study = Study("mine", Path("data/labels.csv"), Path("data/lists.csv"))
    assert begin(study, folder).notes[0] == (
        "frostline init … dataset.task=multi_label --force    (if images have several labels: 'sea;people' "
        "is one class now)"
    )


def test_a_study_on_tables(folder):
    keys = ("dataset.group=patient", "dataset.test_sets.b.file=data/other.tsv", "dataset.folds=2")
    begin(Study("mine", Path("data/other.tsv"), Path("data/labels.csv"), keys=keys), folder)
    experiment = yaml.safe_load((folder / "conf/experiment/mine.yaml").read_text())
    assert experiment["source"] == {"file": "data/other.tsv"}
    assert experiment["dataset"] == {
        "file": "data/labels.csv",
        "group": "patient",
        "test_sets": {"b": {"file": "data/other.tsv"}},
        "folds": 2,
    }
    assert (
        "frostline finetune experiment=mine dataset.fold=0 freeze=lp_ft "
        in (folder / "README.md").read_text()
    )
    assert (
        "override /dataset: table" in experiment["defaults"]
        or {"override /dataset": "table"} in (experiment["defaults"])
    )
    prepare = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]["prepare"]
    assert prepare["foreach"] == {
        "source": {
            "path": "${data.source}",
            "also_1": "data/more",
            "also_2": "frostline.lock/packages",
            "also_3": "frostline.lock/packages",
        },
        "target": {
            "path": "${data.target}",
            "also_1": "data/scans, old",
            "also_2": "data/other.tsv",
            "also_3": "data/more",
        },
    }
    also = [f"${{item.also_{number}}}" for number in (1, 2, 3)]
    assert prepare["do"]["deps"][1:5] == ["${item.path}", *also]


def test_what_dvc_does_not_watch_is_refused(folder):
    keys = ("dataset.group=patient", "dataset.test_sets.b.file=data/other.tsv")
    begin(Study("mine", Path("data/other.tsv"), Path("data/labels.csv"), keys=keys), folder)
    data = {"source": "data/other.tsv", "target": "data/labels.csv"}
    dataset = DataSet("--target", Path("data/labels.csv"), parsed_keys(keys, GROUPS, "")["dataset"]).dataset()
    check_watched(dataset, data, folder)
    more = dataset.model_copy(update={"test_sets": {"c": TestSet(file="data/labels.parquet")}})
    with pytest.raises(FrostlineError) as raised:
        check_watched(more, data, folder)
    assert str(raised.value) == (
        "dataset.test_sets.c.file: found data/labels.parquet, which DVC does not watch, so that it "
        "would miss changes; add the line `- data/labels.parquet` to the deps of prepare in dvc.yaml"
    )
    pipeline = folder / "dvc.yaml"
    deps = "        - ${item.path}\n"
    pipeline.write_text(pipeline.read_text().replace(deps, f"{deps}        - data/labels.parquet\n"))
    check_watched(more, data, folder)
    pipeline.unlink()
    check_watched(more, {}, folder)


def test_a_path_that_dvc_would_interpolate_is_refused(tmp_path):
    place = tmp_path / "photos ${y}"
    place.mkdir()
    with pytest.raises(FrostlineError, match=r"^--target: .*photos \$\{y\} contains \$\{, .*; rename it$"):
        DataSet("--target", place).check()
