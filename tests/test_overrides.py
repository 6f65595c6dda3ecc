"""What people type, spelled for Hydra."""

import doctest

import pytest

from frostline import overrides
from frostline.errors import FrostlineError
from frostline.overrides import as_typed, selection, spelled


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(overrides).failed == 0


@pytest.mark.parametrize(
    ("typed", "spelling"),
    [
        ("seed=1", "seed=1"),
        ("optimizer.lr=1e-3", "optimizer.lr=1e-3"),
        ("seeds=[0,1]", "seeds=[0,1]"),
        ("optimizer.options={a:1}", "optimizer.options={a:1}"),
        ("trainer={epochs:3}", "trainer={epochs:3}"),
        ("source=digits", "dataset@source=digits"),
        ("source.shots=3", "source.shots=3"),
        ("pretrain.trainer=default", "trainer@pretrain.trainer=default"),
        ("pretrain.trainer.epochs=3", "pretrain.trainer.epochs=3"),
        ("experiment=null", "experiment=null"),
        ("study=a study", "study=a study"),
        ("study=straße (1)", "study='straße (1)'"),
        ("out=null", "out=null"),
        ("out=/a b/c,d", "out='/a b/c,d'"),
        ("out='/a b'", "out='/a b'"),
        ("dataset.root=it's", r"dataset.root='it\'s'"),
        ("weights.path=/a=b(c).pt", "weights.path='/a=b(c).pt'"),
        ("+dataset.shots=3", "+dataset.shots=3"),
        ("~gate", "~gate"),
    ],
)
def test_spelling(typed, spelling):
    assert spelled(typed) == spelling


def test_a_sweep_keeps_its_commas():
    assert spelled("freeze=full,gradual", sweep=True) == "freeze=full,gradual"
    assert spelled("dataset.root=/a b,/c", sweep=True) == "dataset.root='/a b','/c'"
    assert spelled("seed=range(0,3)", sweep=True) == "seed=range(0,3)"


def test_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert spelled("dataset.root=~/my pictures") == "dataset.root='/home/me/my pictures'"


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("freeze=3", "freeze: no option '3'; allowed: bit_hyperrule, bitfit"),
        ("freeze=null", "freeze: no option 'null'; did you mean 'full'?"),
        ("freeze=full,gradual", "freeze: no option 'full,gradual'; .*; to run several, add -m"),
        (
            "freeze=[full,gradual]",
            "freeze: takes one option; to run several, add -m and write freeze=full,gradual",
        ),
        ("pretrain.freeze=x", "pretrain.freeze: no option 'x'; allowed: bit_hyperrule, bitfit"),
        ("source=nothing", "source: no option 'nothing'; allowed: digits"),
        ("=3", "'=3' is not an override; write key=value"),
    ],
)
def test_a_wrong_choice_is_named_as_it_was_typed(typed, sentence):
    with pytest.raises(FrostlineError, match="^" + sentence.replace("[", r"\[").replace("?", r"\?")):
        spelled(typed)


def test_what_was_typed_comes_back():
    for typed in ("source=digits", "pretrain.loss=mse", "seed=1", "freeze=full"):
        assert as_typed(spelled(typed)) == typed


def test_a_selection_leaves_nulls_out():
    params = {
        "experiment": "x",
        "backbone": None,
        "flag": True,
        "seeds": [0, 1],
        "a": {"b": {"c": 1e-3, "d": None}},
        "text": "it's a test",
        "gate": {"arms.full.gain.mean": 0.1},
    }
    assert list(selection(params)) == [
        "experiment=x",
        "flag=true",
        "seeds=[0,1]",
        "a.b.c=0.001",
        r"text='it\'s a test'",
        "++gate={arms.full.gain.mean:0.1}",
    ]
