"""Overrides without an effect are refused, and what the error says to write is read."""

import re
import shlex

import pytest

from frostline.commands import early_checks
from frostline.commands.main import parse
from frostline.config import compose, stage_configs
from frostline.config.overrides import PRETRAIN_GROUPS, options
from frostline.console.errors import FrostlineError
from frostline.pipeline import unread

COMMON = ("backbone=mlp", "source=digits", "weights=none", "out=x", "study=s", "input.size=8")


def refusal(line):
    with pytest.raises(FrostlineError) as caught:
        early_checks.check(parse(shlex.split(line)))
    return str(caught.value)


def followed(line):
    """Return the words of the command that the refusal of a line says to write."""
    instead = refusal(line).partition("; write ")[2]
    assert instead
    command = [line.split()[0], *shlex.split(instead)]
    early_checks.check(parse(command))
    return command[1:]


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("pretrain trainer.epochs=3", "pretrain.trainer.epochs=3"),
        ("pretrain epochs=3", "pretrain.trainer.epochs=3"),
        ("pretrain +trainer.epochs=3", "pretrain.trainer.epochs=3"),
        ("pretrain seed=3", "pretrain.seed=3"),
        ("pretrain dataset=digits", "source=digits"),
        (
            "pretrain optimizer=sgd optimizer.momentum=0.5",
            "pretrain.optimizer=sgd pretrain.optimizer.momentum=0.5",
        ),
        ("pretrain 'augment.scale=[0.5, 1]'", "'pretrain.augment.scale=[0.5, 1]'"),
        ("pretrain --cfg job trainer.epochs=3", "pretrain.trainer.epochs=3"),
        ("pretrain seeds=[1]", "pretrain.seed=1"),
        ("pretrain seeds=[0,1]", "-m pretrain.seed=0,1"),
        ("pretrain -m 'seeds=[0, 1]'", "pretrain.seed=0,1"),
        ("pretrain -m optimizer.lr=0.1,0.2", "pretrain.optimizer.lr=0.1,0.2"),
        ("pretrain trainer.epochs=3 pretrain.seed=1 evaluate.tta=flip", "pretrain.trainer.epochs=3"),
        ("plan --stage pretrain trainer.epochs=3", "pretrain.trainer.epochs=3"),
        ("finetune seeds=[0,1]", "-m seed=0,1"),
        ("finetune folds=[0,2]", "-m dataset.fold=0,2"),
        ("probe seeds=[0,1]", "seed=0,1"),
        ("prepare source=digits", "dataset=digits"),
    ],
)
def test_the_key_that_is_read_is_named(line, instead):
    assert refusal(line).endswith(f"key{'s' * (',' in refusal(line).partition(':')[0])}; write {instead}")
    followed(line)


@pytest.mark.parametrize("group", PRETRAIN_GROUPS)
def test_every_group_of_a_fine_tuning_is_refused_in_a_pretraining(group):
    option = next(name for name in options(group) if name != "pretrain")
    words = followed(f"pretrain {group}={option}")
    assert words == [f"pretrain.{group}={option}"]


def test_what_a_refusal_says_reaches_the_config():
    words = followed("pretrain trainer.epochs=7 optimizer=sgd lr=0.5 seeds=[4] dataset=mnist5k")
    config = stage_configs.pretrain_config(*compose.experiment(["backbone=mlp", *words]))
    assert (config.trainer.epochs, config.optimizer.name, config.optimizer.lr) == (7, "sgd", 0.5)
    assert (config.seed, config.dataset.kind) == (4, "mnist5k")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("pretrain gate.x=1", "gate.x: pretrain does not read this key; leave it out"),
        (
            "pretrain evaluate.tta=flip gate.x=1",
            "evaluate.tta, gate.x: pretrain does not read these keys; leave them out",
        ),
        ("pretrain seed=1 pretrain.seed=1", "seed: pretrain does not read this key; leave it out"),
        ("pretrain weights=pretrain", "weights: pretrain does not read this key; leave it out"),
        (
            "finetune sweep=tpe sweep.trials=3",
            "sweep, sweep.trials: finetune does not read these keys without -m; add it (in Python, call"
            " fl.sweep)",
        ),
        (
            "pretrain hydra/launcher=joblib",
            "hydra/launcher: pretrain does not read this key without -m; add it (in Python, call fl.sweep)",
        ),
        ("probe sweep=tpe", "sweep: probe does not read this key; leave it out"),
        ("plan seeds=[0,1]", "seeds: plan does not read this key; leave it out"),
        ("lr-find folds=[0]", "folds: lr-find does not read this key; leave it out"),
    ],
)
def test_what_can_only_be_left_out(line, sentence):
    assert refusal(line) == sentence


def test_a_folder_as_data_set_of_a_pretraining_is_refused_with_what_works(tmp_path, monkeypatch):
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photos/cat/1.png").touch()
    monkeypatch.chdir(tmp_path)
    instead = ["source=image_folder", "source.root=photos"]
    assert refusal("pretrain dataset=photos").endswith(f"for a folder of images, write {' '.join(instead)}")
    assert followed("pretrain data=photos") == instead
    assert followed("prepare source=image_folder source.root=photos") == [
        "dataset=image_folder",
        "dataset.root=photos",
    ]


@pytest.mark.parametrize(
    "line",
    [
        f"pretrain {' '.join(COMMON[:2])} pretrain.trainer.epochs=3 pretrain.seed=1 experiment=article_mlp",
        "pretrain optimizer@pretrain.optimizer=sgd dataset@source=digits",
        "pretrain -m pretrain.seed=0,1 sweep=random sweep.trials=2 hydra/launcher=joblib",
        "pretrain --cfg job sweep=tpe",
        f"finetune {' '.join(COMMON)} pretrain.trainer.epochs=3 evaluate.tta=flip ~experiment",
        "finetune -m sweep=random hydra/launcher=joblib",
        "plan trainer.epochs=3 pretrain.trainer.epochs=3",
        "lr-find optimizer.lr=3",
    ],
)
def test_keys_that_are_read_pass(line):
    early_checks.check(parse(shlex.split(line)))


@pytest.mark.parametrize(
    ("words", "unused"),
    [
        ("weights=none source=digits pretrain.seed=1", "source, pretrain.seed"),
        ("weights=none", ""),
        ("source=digits pretrain.seed=1", ""),
    ],
)
def test_a_pretraining_that_is_not_needed_is_named(words, unused, capsys):
    overrides = ["backbone=mlp", *words.split()]
    unread.warn_of_source(*compose.experiment(overrides), overrides)
    warning = (
        f"frostline: warning: {unused}: not used, since weights=none needs no pretraining on the source;"
        " weights=pretrain does\n"
    )
    assert capsys.readouterr().err == (warning if unused else "")


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        (["--epochs", "3"], "pretrain.trainer.epochs=3"),
        (["--lr=0.1"], "pretrain.optimizer.lr=0.1"),
        (["--data-dir", "photos"], "source=image_folder source.root=photos"),
    ],
)
def test_an_option_with_dashes_becomes_a_key_of_the_pretraining(words, instead, capsys):
    with pytest.raises(SystemExit):
        parse(["pretrain", *words])
    assert f"no such option; write {instead}; see" in capsys.readouterr().err


def test_every_command_is_one_of_the_command_line():
    for command in unread.COMMANDS:
        assert early_checks.name_of(parse(command.split())) == command


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"seed": 5}, "params.yaml: seed: a study does not read this key; set seeds: [5]"),
        ({"seed": [0, 1]}, "params.yaml: seed: a study does not read this key; set seeds: [0, 1]"),
        ({"freeze": "full", "out": "x"}, "params.yaml: out: a study does not read this key; remove it"),
        (
            {"hydra/launcher": "joblib"},
            "params.yaml: hydra/launcher: a study does not read this key; remove it",
        ),
    ],
)
def test_a_key_of_single_runs_is_refused_in_a_study(params, sentence):
    with pytest.raises(FrostlineError, match=f"^{re.escape(sentence)}$"):
        unread.check_selection(params)


def test_a_selection_may_name_a_key_of_single_runs_without_a_value():
    unread.check_selection({"seed": None, "seeds": [1], "freeze": "full"})
