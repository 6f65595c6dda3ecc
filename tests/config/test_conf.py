"""Every file of conf/ composes, and begins with a command that does."""

import re
import shlex

import pytest
import yaml
from tests.imports import SRC

from frostline.config import compose
from frostline.config.overrides import PRETRAIN_GROUPS, from_hydra, to_hydra
from frostline.config.space import as_overrides
from frostline.pipeline.compose import study

CONF = SRC.parent / "conf"
BESTS = set(CONF.glob("experiment/*-best.yaml"))
"""What sweeps have left in this checkout."""
LAUNCHERS = set(CONF.glob("hydra/launcher/*.yaml"))
"""Hydra's own choice, no part of an experiment: tests/sweeps/test_launchers.py looks at them."""
FILES = sorted(path.relative_to(CONF).as_posix() for path in {*CONF.rglob("*.yaml")} - BESTS - LAUNCHERS)
OPTIONS = [name.removesuffix(".yaml") for name in FILES if name != "config.yaml"]
COUNTS = {
    "adapter": 2,
    "augment": 5,
    "averaging": 4,
    "features": 2,
    "backbone": 8,
    "dataset": 8,
    "experiment": 2,
    "freeze": 15,
    "loss": 3,
    "optimizer": 4,
    "regularizer": 3,
    "sweep": 6,
    "trainer": 1,
    "weights": 4,
}


def text(name):
    return (CONF / name).read_text(encoding="utf-8")


def mandatory(option, group):
    """Values for what the file leaves to be given, below the key `group`, and a data set for its loss."""
    values = yaml.safe_load(text(f"{option}.yaml"))
    given = [f"{group}.{key}=given" for key, value in values.items() if value == "???"]
    if option == "loss/bce":
        data = "source" if group.startswith("pretrain") else "dataset"
        given += [f"{data}=table", f"{data}.file=given", f"{data}.task=multi_label"]
    if option == "weights/pretrain":
        given.append(f"{group}.path=given")  # no other pretraining runs before
    return given


def commands(name):
    """The commands in the comment that a file begins with; words after three spaces or more are a remark."""
    header = re.match(r"(#.*\n)+", text(name))[0]
    for line in header.splitlines():
        if match := re.fullmatch(r"# (frostline|dvc) (.*)", line):
            yield match[1], shlex.split(re.split(r" {3,}", match[2])[0])


def test_the_files_are_counted():
    counts = {group: sum(option.startswith(f"{group}/") for option in OPTIONS) for group in COUNTS}
    assert counts == COUNTS
    assert len(FILES) == sum(COUNTS.values()) + 1
    assert not [p for p in CONF.rglob("*") if p.is_file() and p.suffix != ".yaml"]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes(option):
    group, name = option.split("/")
    keys = [group]
    if group == "dataset":
        keys.append("source")
    if group in PRETRAIN_GROUPS:
        keys.append(f"pretrain.{group}")
    experiment, choices = compose.experiment(
        [override for key in keys for override in (f"{key}={name}", *mandatory(option, key))]
    )
    assert [choices[key if key == group else f"{group}@{key}"] for key in keys] == [name] * len(keys)
    if group == "dataset":
        assert experiment.source == experiment.dataset
    if group in PRETRAIN_GROUPS:
        assert getattr(experiment.pretrain, group) == getattr(experiment, group)


def test_the_selection_as_it_is_composes():
    _, choices = compose.experiment([])
    assert choices["backbone"] == "resnet10t"


@pytest.mark.parametrize("name", FILES)
def test_a_file_begins_by_saying_what_it_is_and_how_to_run_it(name):
    lines = text(name).splitlines()
    if name.startswith("experiment/"):
        assert lines.pop(0) == "# @package _global_"
    assert re.match(r"# [A-Z0-9]\w*", lines[0])
    assert name == "config.yaml" or list(commands(name))


@pytest.mark.parametrize("name", [name for name in FILES if name != "config.yaml"])
def test_the_commands_in_a_files_head_compose_and_choose_it(name):
    group, option = name.removesuffix(".yaml").split("/")
    chosen = []
    for program, words in commands(name):
        if program == "dvc":
            overrides = [words[i + 1] for i, word in enumerate(words) if word == "-S"]
            assert words[0] == "repro" or words[:2] == ["exp", "run"]
        else:
            assert words[0] in ("prepare", "pretrain", "finetune")
            overrides = words[1:]
        if "-m" in overrides:
            overrides.remove("-m")
            fixed, space, _ = compose.space_of([to_hydra(word, sweep=True) for word in overrides])
            overrides = [from_hydra(text) for text in [*fixed, *as_overrides(space.first())]]
        _, choices = compose.experiment(overrides)
        chosen.append(choices.get(group))
        # `dvc repro` and `dvc exp run` take the rest from params.yaml.
    assert option in chosen or name == "experiment/mnist_to_digits.yaml"


def test_params_yaml_selects_the_default_study():
    params = study.read_selection(SRC.parent / "params.yaml")
    assert params["experiment"] == "mnist_to_digits"
    resolved = study.resolve(params, ["scratch", "full"]).resolved
    assert resolved["report"]["study"] == "mnist_to_digits"


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_code_to_be_called(name):
    assert not re.search(r"_target_|_partial_|_convert_|\$\{hydra:|oc\.", text(name))
