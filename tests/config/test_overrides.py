"""What people type, spelled for Hydra."""

import doctest

import pytest
from tests.imports import SRC

from frostline.config import compose, overrides
from frostline.config.overrides import from_hydra, to_hydra, to_overrides
from frostline.console.errors import FrostlineError

CONF = SRC.parent / "conf"


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
        ("experiment=null", "~experiment"),
        ("study=a study", "study=a study"),
        ("study=straße (1)", "study='straße (1)'"),
        ("out=null", "out=null"),
        ("out=/a b/c,d", "out='/a b/c,d'"),
        ("out='/a b'", "out='/a b'"),
        ("dataset.root=it's", r"dataset.root='it\'s'"),
        ("weights.path=/a=b(c).pt", "weights.path='/a=b(c).pt'"),
        ("dataset.root=[old] images (1)", "dataset.root='[old] images (1)'"),
        ("dataset.root={a,b}", "dataset.root='{a,b}'"),
        ("dataset.root=photos(1)/x", "dataset.root='photos(1)/x'"),
        ("dataset.root=$HOME/50%/a=b~c", "dataset.root='$HOME/50%/a=b~c'"),
        ("dataset.root=~nobody-has-this-name/x", "dataset.root='~nobody-has-this-name/x'"),
        ('out="quoted" twice', "out='\"quoted\" twice'"),
        ("out=a\\", r"out='a\\'"),
        (r"out=a\'b", r"out='a\\\'b'"),
        ("out=ünï", "out='ünï'"),
        ("study=[draft] one", "study='[draft] one'"),
        ("study=f(x) and g(x)", "study='f(x) and g(x)'"),
        ("+dataset.shots=3", "+dataset.shots=3"),
        ("~gate", "~gate"),
    ],
)
def test_spelling(typed, spelling):
    assert to_hydra(typed) == spelling


def test_a_sweep_keeps_its_commas():
    assert to_hydra("freeze=full,gradual", sweep=True) == "freeze=full,gradual"
    assert to_hydra("dataset.root=/a b,/c", sweep=True) == "dataset.root='/a b','/c'"
    assert to_hydra("seed=range(0,3)", sweep=True) == "seed=range(0,3)"


@pytest.mark.parametrize(
    ("typed", "spelling"),
    [
        ("loss.class_weights=balanced,{effective: 0.99}", "loss.class_weights=balanced,{effective: 0.99}"),
        ("loss.class_weights={effective: 0.99},balanced", "loss.class_weights={effective: 0.99},balanced"),
        ("backbone.hidden=[16],[16,8],null", "backbone.hidden=[16],[16,8],null"),
        ("study=a (b),{c: d},'e,f',[g],straße", "study='a (b)',{c: d},'e,f',[g],'straße'"),
        ("dataset.root=[a],b c,'d,e',{f}", "dataset.root='[a]','b c','d,e','{f}'"),
        ("dataset.root=choice(a,b)", "dataset.root=choice(a,b)"),
        ("out=it's,that's", r"out='it\'s','that\'s'"),
        ("freeze='full',gradual", "freeze='full',gradual"),
        ("optimizer.lr=tag(log,interval(1,2))", "optimizer.lr=tag(log,interval(1,2))"),
    ],
)
def test_a_sweeps_values_are_spelled_one_by_one(typed, spelling):
    assert to_hydra(typed, sweep=True) == spelling


ODD = [
    "[a] b",
    "~x",
    "a,b",
    "a=b",
    "a b",
    "it's",
    'a "q"',
    "$HOME",
    "50%",
    "ünï",
    "(1)",
    "{x}",
    "a\\",
    "#1",
    "-x",
]


@pytest.mark.parametrize("name", ODD)
def test_any_path_arrives_as_it_was_given(name, monkeypatch):
    monkeypatch.chdir(CONF.parent)
    name = f"x{name}" if name.startswith("~") else name  # no user's home
    words = ["backbone=mlp", "dataset=image_folder", "weights=file"]
    paths = [f"dataset.root=/x/{name}", f"weights.path={name}", f"out=runs/{name}"]
    made, _ = compose.experiment([*words, *paths])
    assert (made.dataset.root, made.weights.path, made.out) == (f"/x/{name}", name, f"runs/{name}")
    table, _ = compose.experiment(["backbone=mlp", "dataset=table", "weights=none", f"dataset.file={name}"])
    assert table.dataset.file == name
    params = {"dataset": "image_folder", "study": name, "out": f"runs/{name}"}
    made, _ = compose.experiment(
        [*to_overrides(params), *words, *to_overrides({"dataset": {"root": name}}), paths[1]]
    )
    assert (made.dataset.root, made.study, made.out) == (name, name, f"runs/{name}")


def test_words_of_a_params_file_stay_words():
    made, _ = compose.experiment(
        list(to_overrides({"study": "2024", "optimizer": {"options": {"a b": "null"}}}))
    )
    assert made.study == "2024"
    assert made.optimizer.options == {"a b": "null"}


def test_unpaired_brackets_take_no_time():
    assert to_hydra(f"study={'[' * 10_000}") == f"study='{'[' * 10_000}'"


def test_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert to_hydra("dataset.root=~/my pictures") == "dataset.root='/home/me/my pictures'"


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
        to_hydra(typed)


def test_what_was_typed_comes_back():
    for typed in ("source=digits", "pretrain.loss=mse", "seed=1", "freeze=full"):
        assert from_hydra(to_hydra(typed)) == typed


def test_a_selection_omits_nulls():
    params = {
        "experiment": "x",
        "backbone": None,
        "flag": True,
        "seeds": [0, 1],
        "a": {"b": {"c": 1e-3, "d": None}},
        "text": "it's a test",
        "optimizer": {"options": {"eps": None, "nesterov": True}},
        "gate": {"arms.full.gain.mean": 0.1},
    }
    assert list(to_overrides(params)) == [
        "experiment=x",
        "flag=true",
        "seeds=[0,1]",
        "a.b.c=0.001",
        r"text='it\'s a test'",
        "++optimizer.options={nesterov:true}",
        "++gate={arms.full.gain.mean:0.1}",
    ]
