"""What other tools' users type, and that the override which the error names works."""

import re

import pytest
from omegaconf import OmegaConf

from frostline.config import compose, hints, hydra_session
from frostline.console.errors import FrostlineError

VALUES = {"dataset.root": "photos", "weights.path": "model.pth", "backbone": "mlp", "trainer.device": "cpu"}
NEEDS = {"dataset.root": ["dataset=image_folder"], "weights.path": ["weights=file"], "input.size": []}


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
    assert error_of(f"{synonym}={value}") == f"{synonym}: unknown key; write {key}={value}"
    followed = composed(*NEEDS.get(key, []), f"{key}={value}")
    found = OmegaConf.select(followed, key)
    assert found.kind == "mlp" if key == "backbone" else str(found) == value


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
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    instead = f"{key}=image_folder {key}.root=photos"
    assert error_of(f"{key}=photos").endswith(f"for a folder of images, write {instead}")
    compose.experiment(instead.split())
    assert "allowed: digits" in error_of(f"{key}=photo")


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
        ("--freeze", ["full"], "--freeze: no such option; write freeze=full"),
        ("--lr=0.1", [], "--lr=0.1: no such option; write optimizer.lr=0.1"),
        ("--batch-size", [], "--batch-size: no such option; write trainer.batch_size=…"),
        ("--seed", ["3"], "--seed: no such option; write seed=3"),
        ("--input.size", ["32"], "--input.size: no such option; write input.size=32"),
        ("--nope", [], None),
        ("-5", [], None),
        ("--../x", [], None),
    ],
)
def test_an_option_with_dashes_becomes_an_override(word, values, sentence):
    assert hints.of_flag(word, values) == sentence


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["dataset=my labels.csv"], "for a table of images, write dataset=table dataset.file=my labels.csv"),
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
