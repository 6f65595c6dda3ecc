"""What other tools' users type, and that the override which the error names works."""

import os
import re
import shlex
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from frostline.config import compose, hints, hydra_session
from frostline.console.errors import FrostlineError

VALUES = {"dataset.root": "photos", "weights.path": "model.pth", "backbone": "mlp", "trainer.device": "cpu"}


def error_of(*overrides):
    with pytest.raises(FrostlineError) as caught:
        compose.experiment(overrides)
    return str(caught.value)


def composed(*overrides):
    with hydra_session.session():
        return hydra_session.compose_config(overrides)


@pytest.mark.parametrize("synonym", hints.KEYS)
def test_a_key_of_another_tool_names_frostlines(synonym):
    key = hints.KEYS[synonym]
    value = VALUES.get(key, "3")
    sentence = error_of(f"{synonym}={value}")
    assert sentence.startswith(f"{synonym}: unknown key; write ")
    instead = shlex.split(sentence.partition("write ")[2])
    assert instead[-1] == f"{key}={value}"
    followed = composed(*instead)
    found = OmegaConf.select(followed, key)
    assert found.kind == "mlp" if key == "backbone" else str(found) == value


def test_a_known_key_of_another_option_names_the_option_or_the_allowed_keys():
    assert error_of("dataset=digits", "dataset.root=photos") == (
        "dataset.root: the chosen dataset has no such key; choose dataset=image_folder"
    )
    assert error_of("loss=mse", "loss.label_smoothing=0.1").startswith(
        "loss.label_smoothing: unknown key; allowed: loss."
    )


def test_a_plus_before_a_key_that_exists_is_refused_as_such():
    assert error_of("+seed=1") == "seed: already in the config; remove the plus"
    assert error_of("+optimizer.lr=1") == "optimizer.lr: already in the config; remove the plus"


@pytest.mark.parametrize("closed", [".", "a"])
def test_a_folder_that_cannot_be_read_is_not_called_empty(closed):
    with tempfile.TemporaryDirectory() as place:  # tmp_path is closed to others than root
        Path(place).chmod(0o755)
        root = Path(place, "photos")
        (root / "a").mkdir(parents=True)
        assert hints.is_empty(root)
        (root / closed).chmod(0)
        with as_nobody():
            assert not hints.is_empty(root)
        (root / closed).chmod(0o755)


@contextmanager
def as_nobody():
    """For root, who may read every folder."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_model_of_timm_is_a_name_of_the_backbone_timm():
    assert error_of("backbone=resnet50") == (
        "backbone: no option 'resnet50'; write backbone=timm backbone.name=resnet50"
    )
    assert compose.experiment(["backbone=timm", "backbone.name=resnet50"])[0].backbone.name == "resnet50"
    assert "did you mean 'resnet10t'" in error_of("backbone=resnet10")
    assert error_of("backbone=resnet5O") == (
        "backbone: no option 'resnet5O'; did you mean timm's 'resnet50'?"
        " write backbone=timm backbone.name=resnet50"
    )


@pytest.mark.parametrize("key", ["dataset", "source"])
def test_a_folder_is_the_root_of_an_image_folder(tmp_path, monkeypatch, key):
    (tmp_path / "my photos").mkdir()
    monkeypatch.chdir(tmp_path)
    instead = f"{key}=image_folder '{key}.root=my photos'"
    assert error_of(f"{key}=my photos").endswith(f"for a folder of images, write {instead}")
    compose.experiment(shlex.split(instead))
    assert "allowed: digits" in error_of(f"{key}=photo")


def test_where_a_study_sets_what_an_error_proposes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sentence = "dataset.folds=5: without fold 0 there is none (in dataset.root=a/b); set dataset.folds=2"
    assert hints.of_study(sentence) is None  # there is no study
    (tmp_path / "params.yaml").write_text("experiment: mine\n")
    assert hints.of_study(sentence) == (
        "a study sets its keys in the experiment that params.yaml selects: dataset: {folds: 2}"
    )
    for proposes_none in (
        "dataset.folds=5: without fold 0 there is none",
        "name them train, or use one of them alone: dataset.root=data/photos",
        "rename one, or write 'dataset.columns.label=my label'",
    ):
        assert hints.of_study(proposes_none) is None
    (tmp_path / "params.yaml").write_text("a: [1\n")
    assert hints.of_study(sentence) is None


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    """A finished run in `my runs/one`, as far as its name goes, and a checkpoint beside it."""
    (tmp_path / "my runs/one").mkdir(parents=True)
    (tmp_path / "my runs/one/weights.safetensors").touch()
    (tmp_path / "model.pth").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("run_folder")
@pytest.mark.parametrize(
    ("typed", "instead"),
    [
        ("weights=my runs/one", "weights=file 'weights.path=my runs/one/weights.safetensors'"),
        ("weights=my runs", "weights=file 'weights.path=my runs/one/weights.safetensors'"),
        ("weights=model.pth", "weights=file weights.path=model.pth"),
        ("checkpoint=my runs/one", "weights=file 'weights.path=my runs/one/weights.safetensors'"),
        (
            "pretrain.weights=my runs/one",
            "pretrain.weights=file 'pretrain.weights.path=my runs/one/weights.safetensors'",
        ),
    ],
)
def test_a_run_or_a_file_as_weights_becomes_the_path_of_its_weights(typed, instead):
    assert error_of(typed).endswith(f"write {instead}")
    weights = compose.experiment(shlex.split(instead))[0]
    weights = weights.pretrain.weights if typed.startswith("pretrain") else weights.weights
    assert weights.kind == "file"
    assert weights.path == shlex.split(instead)[1].partition("=")[2]


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("my photos", "for a folder of images, write dataset=image_folder 'dataset.root=my photos'"),
        ("labels.csv", "for a table of images, write dataset=table dataset.file=labels.csv"),
        ("model.pth", "for weights in a file, write weights=file weights.path=model.pth"),
        (
            "my runs/one",
            "for weights in a file, write weights=file 'weights.path=my runs/one/weights.safetensors'",
        ),
        ("resnet50", "write backbone=timm backbone.name=resnet50"),
        ("gradual", "write freeze=gradual"),
        ("digits", "write dataset=digits"),
    ],
)
@pytest.mark.usefixtures("run_folder")
def test_a_word_alone_becomes_an_override(word, instead):
    Path("my photos").mkdir()
    assert error_of(word) == f"{word!r} is not an override; {instead}"
    followed = instead.partition("write ")[2]
    with hydra_session.session():
        hydra_session.compose_config(shlex.split(followed))


@pytest.mark.parametrize("word", ["photos", "seed", "3"])
def test_a_word_that_means_nothing_is_told_the_form(word):
    assert error_of(word) == f"{word!r} is not an override; write key=value, such as seed=1"


@pytest.mark.parametrize("name", hints.INTERVALS)
def test_a_distribution_of_another_tool_becomes_hydras(name):
    sentence = error_of(f"optimizer.lr={name}(1e-4, 1e-1)")
    followed = re.search(r"write '(.*)', with -m", sentence)[1]
    _, space, _ = compose.space_of(["sweep=tpe", followed])
    (parameter,) = space.parameters
    assert (parameter.domain.low, parameter.domain.high) == (1e-4, 1e-1)
    assert parameter.domain.log == ("log" in name)


@pytest.mark.parametrize(
    ("word", "values", "sentence"),
    [
        ("--freeze", ["full"], "freeze=full"),
        ("--lr=0.1", [], "optimizer.lr=0.1"),
        ("--batch-size", [], "trainer.batch_size=…"),
        ("--seed", ["3"], "seed=3"),
        ("--input.size", ["32"], "input.size=32"),
        ("--data-dir", ["my photos"], "dataset=image_folder 'dataset.root=my photos'"),
        ("--root", ["x", "dataset=table"], "dataset.root=x"),
        ("--ckpt", ["model.pth"], "weights=file weights.path=model.pth"),
        ("--nope", [], None),
        ("-5", [], None),
        ("--../x", [], None),
    ],
)
def test_an_option_with_dashes_becomes_an_override(word, values, sentence):
    expected = None if sentence is None else f"{word}: no such option; write {sentence}"
    assert hints.of_flag(word, values) == expected


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["dataset=my labels.csv"],
            "for a table of images, write dataset=table 'dataset.file=my labels.csv'",
        ),
        (
            ["dataset=image_folder", "dataset.root=x", "dataset.group=patient"],
            "dataset.group: this kind of data set has no groups, which are a column of a table; write "
            "dataset=table dataset.file=FILE dataset.group=COLUMN",
        ),
    ],
)
def test_tables_and_groups_are_hinted_at(words, sentence):
    with pytest.raises(FrostlineError) as raised:
        compose.experiment(words)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["optimizer.lr=[0.01, 0.001]"],
            "optimizer.lr: found [0.01, 0.001], must be a valid number; to run each, write"
            " optimizer.lr=0.01,0.001",
        ),
        (
            ["seed=[0,1]", "optimizer=adam,sgd"],
            "seed: found [0, 1], must be a valid integer; to run each, write seed=0,1",
        ),
        (
            ["backbone=mlp", "backbone.hidden=[8,x]", "seed=0,1"],
            "backbone.hidden.1: found 'x', must be a valid integer",
        ),
    ],
)
def test_a_list_in_a_sweep_is_written_without_brackets(words, sentence):
    with pytest.raises(FrostlineError) as raised:
        compose.multirun(["weights=none", *words], lambda *job: pytest.fail("it ran"))
    assert str(raised.value).startswith(sentence)
