"""Keyword arguments mean what overrides on the command line do."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline.api.calls import in_python
from frostline.api.options import COMMON, DATA, PLAIN, ListOptions, Options, overrides_of
from frostline.base import project
from frostline.config import compose, hydra_session
from frostline.config.overrides import to_hydra
from frostline.console.errors import FrostlineError


@pytest.mark.parametrize(
    ("dataset", "options", "expected"),
    [
        ("digits", {}, ["dataset=digits"]),
        (None, {"source": "mnist5k"}, ["source=mnist5k"]),
        (None, {"backbone": "mlp", "freeze": "full"}, ["backbone=mlp", "freeze=full"]),
        (None, {"epochs": 3, "lr": 1e-5}, ["trainer.epochs=3", "optimizer.lr=1e-05"]),
        (None, {"batch_size": 8}, ["trainer.batch_size=8"]),
        (None, {"seed": np.int64(2), "lr": np.float32(0.5)}, ["seed=2", "optimizer.lr=0.5"]),
        (None, {"epochs": None}, []),
        (None, {"out": Path("a b")}, ["out='a b'"]),
        (None, {"overrides": ["seed=1", "+x=2"]}, ["seed=1", "+x=2"]),
        (None, {"overrides": {"optimizer.momentum": None}}, ["optimizer.momentum=null"]),
        (None, {"overrides": {"trainer.compile": True}}, ["trainer.compile=true"]),
        (None, {"overrides": {"backbone.hidden": (16, 8)}}, ["backbone.hidden=[16,8]"]),
        ("digits", {"out": "x"}, ["dataset=digits", "out='x'"]),
    ],
)
def test_overrides(dataset, options, expected):
    assert overrides_of(dataset, options, Options) == expected


def test_hyperparameters_of_a_pretraining():
    options = {"backbone": "mlp", "optimizer": "sgd", "epochs": 3, "seed": 1, "out": "x", "weights": "none"}
    assert overrides_of("digits", options, Options, command="pretrain") == [
        *("source=digits", "backbone=mlp", "pretrain.optimizer=sgd", "pretrain.trainer.epochs=3"),
        *("pretrain.seed=1", "out='x'", "pretrain.weights=none"),
    ]


def test_lists_of_a_sweep():
    options = {"freeze": ["full", "gradual"], "lr": (1e-3, 1e-2), "seed": range(3), "sweep": "grid"}
    overrides = {"backbone.hidden": [[16], [8, 8]], "weights.path": ["a b", "c"]}
    assert overrides_of(["digits", "mnist5k"], {**options, "overrides": overrides}, ListOptions) == [
        *("dataset=digits,mnist5k", "freeze=full,gradual", "optimizer.lr=0.001,0.01", "seed=0,1,2"),
        *("sweep=grid", "backbone.hidden=[16],[8,8]", "weights.path='a b','c'"),
    ]


def test_a_folder_of_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "it's here, in [brackets]").mkdir()
    (tmp_path / "digits").mkdir()
    for dataset in ("it's here, in [brackets]", Path("it's here, in [brackets]"), tmp_path / "digits"):
        composed, _ = compose.experiment(overrides_of(dataset, {}, Options))
        assert composed.dataset.root == str(dataset)
    # A name of conf/dataset comes first; a path means the folder.
    assert overrides_of("digits", {}, Options) == ["dataset=digits"]
    assert overrides_of(Path("digits"), {}, Options)[0] == "dataset=image_folder"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a b.csv", ["dataset=table", "dataset.file='a b.csv'"]),
        ("a.parquet", ["dataset=table", "dataset.file=a.parquet"]),
        ("a.npz", ["dataset=npz", "dataset.file=a.npz"]),
        ("saved/dataset_info.json", ["dataset=huggingface", "dataset.path='saved'"]),
    ],
)
def test_files_of_images(tmp_path, monkeypatch, name, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    given = name.partition("/")[0]
    assert [text.replace("'", "") for text in overrides_of(given, {}, Options)] == [
        text.replace("'", "") for text in expected
    ]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30))
def test_any_path_reaches_the_config(name):
    (text,) = overrides_of(None, {"out": f"/x{name}"}, Options)
    (override,) = hydra_session.parse_overrides([to_hydra(text)])
    assert override.value() == f"/x{name}"


def test_every_config_group_is_an_argument():
    groups = {path.name for path in project.packaged_conf().iterdir() if path.is_dir()} - {"hydra", "dataset"}
    known = {*COMMON, *PLAIN, *DATA, "overrides"} - {"dataset"}
    assert set(ListOptions.__annotations__) == groups | known
    assert set(Options.__annotations__) == (groups - {"sweep"}) | known


def test_further_test_sets_are_a_dictionary_of_names():
    sets = {"other_site": {"root": "b's photos"}}
    (override,) = overrides_of(None, {"overrides": {"dataset.test_sets": sets}}, Options)
    composed, _ = compose.experiment(["dataset=image_folder", "dataset.root=a", override])
    assert composed.dataset.test_sets["other_site"].root == "b's photos"


def test_a_misspelt_folder_or_table_is_compared_with_those_here(tmp_path, monkeypatch):
    (tmp_path / "Größe & Stempel").mkdir()
    (tmp_path / "labels.csv").touch()
    (tmp_path / "lables.txt").touch()
    monkeypatch.chdir(tmp_path)
    for text, meant in (("Größe & Stempl", "Größe & Stempel"), ("lables.csv", "labels.csv")):
        with pytest.raises(FrostlineError, match=f"did you mean '{meant}'\\?"):
            overrides_of(text, {}, Options)


def test_a_misspelt_folder_elsewhere_is_compared_with_those_there(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "My Stamps/cat").mkdir(parents=True)
    (tmp_path / "My Stamps/cat/1.png").touch()
    monkeypatch.chdir(tmp_path / "here")
    meant = r"My Stamp doesn't exist: give .*; did you mean \.\./My Stamps\?$"
    with pytest.raises(FrostlineError, match=r"^dataset: \.\./" + meant):
        overrides_of("../My Stamp", {}, Options)
    with pytest.raises(FrostlineError, match=r"^source: \.\./" + meant):
        overrides_of("digits", {"source": Path("../My Stamp")}, Options)
    keys = {"dataset": "image_folder", "dataset.root": "../My Stamp"}
    with pytest.raises(FrostlineError, match=r"^dataset\.root: \.\./" + meant):
        overrides_of(None, {"overrides": keys}, Options)
    assert overrides_of("../My Stamp", {}, Options, command="plan", reads_data=False)


@pytest.mark.parametrize(
    ("sentence", "python"),
    [
        ("has no column 'image'; set dataset.columns.image=x", 'set overrides=["dataset.columns.image=x"]'),
        ("set 'source.root=a b', or leave", 'set overrides=["source.root=a b"], or leave'),
        ("set dataset.classes=[a,b]; x", 'set overrides=["dataset.classes=[a,b]"]; x'),
        ("set trainer.threads=1", 'set overrides=["trainer.threads=1"]'),
        ("set input.fit and dataset.root", "set input.fit and dataset.root"),
        ("read that: dataset=table dataset.file=a/x.csv", "read that: 'a/x.csv'"),
    ],
)
def test_an_error_names_keys_as_python_takes_them(sentence, python):
    assert in_python(sentence).endswith(python)


@pytest.mark.parametrize(
    ("dataset", "options", "sentence"),
    [
        (None, {"bakbone": "mlp"}, "bakbone: no such argument; did you mean 'backbone'?"),
        (None, {"optimizer.lr": 1}, "optimizer.lr: no such argument; .*config keys go to overrides="),
        ("digitz", {}, "there is no folder or file 'digitz', and no such data set; did you mean 'digits'?"),
        (Path("digits"), {}, r"no folder or file 'digits'; for the data set of this name, give a str$"),
        (3, {}, "dataset: found 3; give a folder of images, or one of digits"),
        (None, {"overrides": "seed=1"}, r"overrides: found a text; give a list, such as \['seed=1'\]"),
        (None, {"overrides": 3}, r"overrides: found 3; give a dictionary, or a list such as \['seed=1'\]"),
        (None, {"overrides": {"optimizer": {"lr": 1}}}, r"optimizer: found .*write keys with dots"),
        (None, {"sweep": "tpe"}, "sweep: no such argument"),
        (None, {"overrides": ["sweep=tpe"]}, r"sweep: .*without -m; add it \(in Python, call fl\.sweep\)"),
        (None, {"overrides": {"seeds": [0, 1]}}, "seeds: finetune does not read this key; write -m seed=0,1"),
    ],
)
def test_mistakes(dataset, options, sentence):
    with pytest.raises(FrostlineError, match=sentence):
        overrides_of(dataset, options, Options)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("freez", "did you mean 'freeze'?"),
        ("datset", "did you mean 'dataset' or"),
        ("learning_rate", "write lr=;"),
    ],
)
def test_a_misspelt_argument_is_named_with_the_nearest(name, sentence):
    with pytest.raises(FrostlineError, match=rf"^{name}: no such argument; ") as caught:
        overrides_of(None, {name: 1}, Options)
    assert sentence in str(caught.value)


def test_a_list_where_a_run_has_one_value_names_the_sweep():
    with pytest.raises(FrostlineError, match=r"^lr: found several values, \[0\.1, 0\.2\]; fl\.sweep trains"):
        overrides_of("digits", {"lr": [0.1, 0.2]}, Options)
    assert overrides_of("digits", {"lr": [0.1, 0.2]}, ListOptions) == [
        "dataset=digits",
        "optimizer.lr=0.1,0.2",
    ]
