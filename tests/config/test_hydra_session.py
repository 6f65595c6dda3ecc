"""Hydra under guard: nothing that a config or an override names is run, no exception of Hydra's gets out."""

import os
import shutil
import subprocess
import time
from itertools import pairwise

import pytest
from tests.imports import SRC
from tests.study import environment

from frostline.base.formats import read_yaml
from frostline.config import compose
from frostline.console.errors import FrostlineError

CONF = SRC.parent / "conf"
SECONDS = 2.0
PAIRS = tuple(pairwise("abcdefghi"))
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n" for before, after in PAIRS
)
"""Nine lists, each of nine times the one before: 387 million values in half a kilobyte."""
TOUCH = "{_target_: os.mkdir, path: executed}"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with configs of its own."""
    shutil.copytree(CONF, tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "hunter2")
    return tmp_path


def never(*arguments):
    raise AssertionError("a trial ran")


def refusal(overrides, command):
    """The error, found within two seconds of the processor; a run that was composed must be printed too."""
    begun = time.process_time()
    with pytest.raises(FrostlineError) as caught:
        command(overrides)
    assert time.process_time() - begun < SECONDS
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    return str(caught.value)


def sweep(overrides):
    compose.multirun([*overrides, "seed=0,1"], never)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optimizer.lrr=1", "optimizer.lrr: unknown key; did you mean 'optimizer.lr'"),
        ("nothing=1", "nothing: unknown key; 23 names are allowed"),
        ("~hydra=-1", "hydra: not open to configs and overrides"),
        ("~hydra", "hydra: not open to configs and overrides"),
        ("hydra=null", "hydra: not open to configs and overrides"),
        ("++hydra={callbacks:{a:{_target_:os.mkdir}}}", "hydra: not open to configs and overrides"),
        ("hydra/sweeper=[nan]", "hydra/sweeper=[nan]: takes one option; allowed: basic, frostline"),
        ("hydra/launcher=null", "hydra/launcher=null: takes one option; allowed: basic, joblib"),
        ("hydra/launcher=jobib", "hydra/launcher: no option 'jobib'; did you mean 'joblib'?"),
        ("hydra.launcher._target_=os.mkdir", "hydra.launcher._target_: not open"),
        ("+hydra.launcher.x={_target_:os.mkdir}", "hydra.launcher.x._target_: not open"),
        ("hydra.sweeper._target_=os.mkdir", "hydra.sweeper._target_: not open"),
        ("+hydra.callbacks.x={_target_:os.mkdir,path:executed}", "hydra.callbacks.x: not open"),
        ("+hydra.job_logging.handlers.x.class=os.mkdir", "hydra.job_logging.handlers.x.class: not open"),
        ("hydra.searchpath=[pkg://antigravity]", "hydra.searchpath: not open"),
        ("+hydra.job.env_set.PATH=here", "hydra.job.env_set.PATH: not open"),
        ("optimizer@hydra.sweeper=adamw", "hydra.sweeper: unknown key"),
        ("+optimizer@hydra.launcher=adamw", "In 'optimizer/adamw': ConfigKeyError"),
        ("study=${oc.env:SECRET}", "study: ${oc.env:…} is not available in configs"),
        ("study=${oc.decode:'${oc.env:SECRET}'}", "study: ${oc.decode:…} is not available"),
        ("study=${ oc.env : SECRET}", "study: ${oc.env:…} is not available in configs"),
        ("+x={a:oc.env,b:'${${x.a}:SECRET}'}", "x: ${…:…} is not available in configs"),
        ("study=${study}", "study: refers to itself"),
        ("study=" + "[" * 2000 + "]" * 2000, "study=[[["),
        ("study=" + "a" * 30_000, "study=aaa"),
    ],
)
def test_an_override_that_is_refused(override, sentence, project):
    assert refusal([override], sweep).startswith(sentence)
    assert not (project / "executed").exists()


@pytest.mark.parametrize(
    ("name", "content", "overrides", "sentence"),
    [
        (
            "hydra/launcher/own.yaml",
            "_target_: os.mkdir\npath: executed\n",
            ["hydra/launcher=own"],
            "hydra.launcher._target_: found 'os.mkdir'; choose one by name",
        ),
        (
            "hydra/launcher/own.yaml",
            f"_target_: hydra_plugins.frostline_ray.RayLauncher\nray: {TOUCH}\n",
            ["hydra/launcher=own"],
            "hydra.launcher.ray._target_: not open",
        ),
        (
            "hydra/sweeper/own.yaml",
            "_target_: os.mkdir\npath: executed\n",
            ["hydra/sweeper=own"],
            "hydra.sweeper._target_: found 'os.mkdir'",
        ),
        (
            "experiment/own.yaml",
            f"# @package _global_\nhydra: {{callbacks: {{own: {TOUCH}}}}}\n",
            ["experiment=own"],
            "hydra.callbacks.own: not open",
        ),
        (
            "experiment/own.yaml",
            "# @package _global_\nhydra: {launcher: {_target_: os.mkdir}}\n",
            ["experiment=own"],
            "hydra.launcher._target_: found 'os.mkdir'",
        ),
        (
            "experiment/own.yaml",
            "# @package _global_\nhydra: {job_logging: {formatters: {x: {(): os.mkdir}}}}\n",
            ["experiment=own"],
            "hydra.job_logging: not open",
        ),
        (
            "experiment/own.yaml",
            "# @package _global_\nhydra: {job: {env_copy: [SECRET]}}\n",
            ["experiment=own"],
            "hydra.job.env_copy: not open",
        ),
        (
            "optimizer/own.yaml",
            f"# @package hydra.callbacks.own\n{TOUCH[1:-1].replace(', ', chr(10))}\n",
            ["optimizer=own"],
            "hydra.callbacks.own: not open",
        ),
        (
            "optimizer/own.yaml",
            LAUGHS,
            ["optimizer=own"],
            "optimizer/own.yaml: line 5: expands to more than 20,000 values",
        ),
        (
            "optimizer/own.yaml",
            "name: " + "[" * 5000,
            ["optimizer=own"],
            "optimizer/own.yaml: line 1: more than 40 levels deep",
        ),
        (
            "optimizer/own.yaml",
            "name: " + "{a: " * 5000,
            ["optimizer=own"],
            "optimizer/own.yaml: line 1: more than 40 levels deep",
        ),
        (
            "optimizer/own.yaml",
            "name: " + "a" * 2_000_000,
            ["optimizer=own"],
            "optimizer/own.yaml: larger than 1 MiB",
        ),
        (
            "optimizer/own.yaml",
            "name: " + "9" * 5000,
            ["optimizer=own"],
            "optimizer/own.yaml: line 1: found a number of 5000 characters",
        ),
        (
            "optimizer/own.yaml",
            "name: !!python/object/apply:os.mkdir [executed]\n",
            ["optimizer=own"],
            "optimizer/own.yaml: line 1: found the tag !!python/object/apply:os.mkdir",
        ),
        (
            "optimizer/own.yaml",
            "name: &a [*a]\n",
            ["optimizer=own"],
            "optimizer/own.yaml: line 1: *a refers to the value that it is part of",
        ),
        (
            "optimizer/own.yaml",
            "name: adamw\nlr: ${oc.env:SECRET}\n",
            ["optimizer=own"],
            "optimizer/own.yaml: line 2: ${oc.env:…} is not available",
        ),
        (
            "optimizer/own.yaml",
            "name: adamw\nlr: \"${oc.decode:'${oc.env:SECRET}'}\"\n",
            ["optimizer=own"],
            "optimizer/own.yaml: line 2: ${oc.decode:…} is not available",
        ),
        (
            "experiment/own.yaml",
            "# @package _global_\ndefaults:\n  - override /optimizer: ${oc.env:SECRET}\n",
            ["experiment=own"],
            "experiment/own.yaml: line 3: ${oc.env:…} is not available",
        ),
        (
            "optimizer/own.yaml",
            "a: xxxxxxxxxx\n" + "".join(f"{b}: '{f'${{.{a}}}' * 9}'\n" for a, b in PAIRS),
            ["optimizer=own"],
            "optimizer",
        ),
        (
            "optimizer/own.yaml",
            "a: [x, x]\n" + "".join(f"{b}: [{', '.join([f'${{optimizer.{a}}}'] * 9)}]\n" for a, b in PAIRS),
            ["optimizer=own"],
            "optimizer",
        ),
        (
            "optimizer/own.yaml",
            "name: ${.lr}\nlr: ${.name}\n",
            ["optimizer=own"],
            "optimizer.name: refers to itself",
        ),
    ],
)
def test_a_hostile_config_is_refused(name, content, overrides, sentence, project):
    path = project / "conf" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    for command in (compose.experiment, sweep):
        assert sentence in refusal(overrides, command)
    assert not (project / "executed").exists()


def test_the_search_path_of_the_main_config_is_refused(project):
    with (project / "conf/config.yaml").open("a") as stream:
        stream.write("  searchpath: [pkg://antigravity]\n")
    assert "conf/config.yaml: hydra.searchpath: not open" in refusal([], compose.experiment)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (LAUGHS, "line 5: expands to more than 20,000 values; make it smaller"),
        ("a: " + "[" * 100_000, "line 1: more than 40 levels deep; write it flatter"),
        ("a: 0x_\n", "invalid number"),
        ("a: !!binary aGk=\n", "line 1: found the tag !!binary; configs are plain data, so remove it"),
        ("a: !x b\n", "line 1: found the tag !x; configs are plain data, so remove it"),
        ("seed: 1\n" * 100_000, "line 10000: expands to more than 20,000 values"),
    ],
)
def test_a_hostile_file_of_ours_is_refused(content, sentence, tmp_path):
    (tmp_path / "a.yaml").write_text(content)
    begun = time.process_time()
    with pytest.raises(FrostlineError) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert time.process_time() - begun < SECONDS
    assert str(caught.value).startswith(f"{tmp_path}/a.yaml: {sentence}")


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(FrostlineError, match=r"pipe\.yaml is not a regular file"):
        read_yaml(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    with pytest.raises(FrostlineError, match=r"zero\.yaml is not a regular file"):
        read_yaml(tmp_path / "zero.yaml")


def test_aliases_and_references_of_an_ordinary_size_still_work(project):
    (project / "conf/optimizer/own.yaml").write_text(
        "defaults: [adamw, _self_]\nlr: &rate 0.5\noptions: {x: *rate, y: '${optimizer.lr}', z: '${.y}'}\n"
    )
    made, _ = compose.experiment(["optimizer=own"])
    assert (made.optimizer.lr, made.optimizer.options) == (0.5, {"x": 0.5, "y": 0.5, "z": 0.5})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ("range(0,1000000000)", "seed: more than 10,000 values; give fewer, or an interval"),
        ("range(0,9999) dataset.shots=range(1,9999)", "the grid has 99,970,002 combinations"),
        ("interval(nan,1)", "seed: found an interval from nan to 1.0; give the lower first"),
        ("tag(log,interval(0,1))", "seed: found an interval from 0.0 to 1.0; give the lower first, above 0"),
        ("choice()", "is not an override"),
    ],
)
def test_a_sweep_without_an_end_is_refused(values, sentence, project):
    begun = time.process_time()
    with pytest.raises(FrostlineError) as caught:
        compose.multirun(f"seed={values}".split(), never)
    assert sentence in str(caught.value)
    assert time.process_time() - begun < SECONDS


def test_an_unknown_key_of_a_sweep_is_one_sentence_at_the_command_line(warm, project):
    command = [*("finetune", "-m", "optimizer.lrr=1", "seed=0,1")]
    done = subprocess.run(
        [warm, "-m", "frostline", *command],
        env=environment(project / "x", PYTHONPATH=str(SRC)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("frostline: error: optimizer.lrr: unknown key; did you mean 'optimizer.lr'")
    assert done.stderr.count("\n") == 1


def test_a_list_with_umlauts_is_shown_with_the_quotes_that_it_needs():
    with pytest.raises(FrostlineError) as refused:
        compose.experiment(
            ["dataset=table", "dataset.file=a.csv", "dataset.classes=[Blumen, Früchte, Houses (old)]"]
        )
    assert str(refused.value).endswith(
        "need quotes; write \"dataset.classes=[Blumen,'Früchte','Houses (old)']\""
    )
    quoted = str(refused.value).split('"')[1]
    composed, _ = compose.experiment(["dataset=table", "dataset.file=a.csv", quoted])
    assert composed.dataset.classes == ["Blumen", "Früchte", "Houses (old)"]


HEADER = "# @package _global_\n"
OVERRIDE = "defaults:\n  - override /loss: mse\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("\ufeff" + HEADER, "own.yaml: starts with a byte order mark (BOM); save it as UTF-8 without BOM"),
        (
            OVERRIDE,
            "own.yaml: lacks the header of an experiment, which sets keys of all groups; write '# @pa",
        ),
        ("# mine\n" + HEADER + OVERRIDE, "own.yaml: lacks the header of an experiment"),
        (HEADER.strip() + " # all\n", "own.yaml: '# @package _global_ # all' is not a header; write '# @pac"),
        ("seed: 3\n", "conf/experiment/own.yaml: lacks the header of an experiment"),
        (HEADER + "defaults: {loss: bce}\n", "own.yaml: defaults: must be a list of `GROUP: OPTION`"),
        (HEADER + "defaults: [1]\n", "own.yaml: defaults: must be a list of `GROUP: OPTION`"),
        (HEADER + "[a]\n", "own.yaml: found a list, must be keys with values"),
        (HEADER + "on: 1\n", "own.yaml: True is not a key; write a name, in quotes if YAML needs them"),
        (
            HEADER + "loss: bce\n",
            "own.yaml: loss: found 'bce', must be keys with values; to choose an option",
        ),
        (HEADER + "optimizer: {lr: '${'}\n", "optimizer.lr: does not compose ("),
        (HEADER + "seed: 010\n", "own.yaml: line 2: found 010, which YAML reads as an octal number or in"),
        (HEADER + "optimizer: {lr: 1:30}\n", "own.yaml: line 2: found 1:30, which YAML reads as an octal"),
        (
            HEADER + OVERRIDE + "  - backbone: mlp\n",
            "conf/experiment/own.yaml: defaults: `experiment/backbone@backbone: mlp` comes after an override;"
            " write `- override /backbone: mlp`",
        ),
        (
            HEADER + OVERRIDE + "  - article_mlp\n",
            "defaults: `experiment@_global_: article_mlp` comes after an override; put it first",
        ),
        (
            HEADER + OVERRIDE + "  - override backbone: mlp\n",
            "to override; write `- override /backbone: …`",
        ),
        (HEADER + OVERRIDE + "  - override /backbon: mlp\n", "to override; did you mean 'backbone'?"),
    ],
)
def test_an_experiment_that_hydra_reads_otherwise_than_it_is_meant_names_its_fix(content, sentence, project):
    (project / "conf/experiment/own.yaml").write_text(content)
    assert sentence in refusal(["experiment=own"], compose.experiment)


@pytest.mark.parametrize("header", [HEADER, "", f"# of mine\n{HEADER}", "# of mine\n# @author Jane Doe\n"])
def test_an_experiment_that_another_includes_needs_no_header(header, project):
    (project / "conf/experiment/common.yaml").write_text(f"{header}{OVERRIDE}seed: 3\n")
    (project / "conf/experiment/own.yaml").write_text(f"{HEADER}defaults: [common, _self_]\nseeds: [5]\n")
    made, _ = compose.experiment(["experiment=own"])
    assert (made.loss.kind, made.seed, made.seeds) == ("mse", 3, [5])


def test_a_byte_order_mark_hides_nothing_but_a_header(project):
    (project / "conf/loss/own.yaml").write_text("\ufeff# of mine\nkind: mse\n")
    made, _ = compose.experiment(["loss=own"])
    assert made.loss.kind == "mse"


def test_the_fix_for_an_option_after_an_override_works(project):
    (project / "conf/experiment/own.yaml").write_text(f"{HEADER}{OVERRIDE}  - override /backbone: mlp\n")
    made, _ = compose.experiment(["experiment=own"])
    assert (made.loss.kind, made.backbone.kind) == ("mse", "mlp")


@pytest.mark.parametrize("text", ["'010'", "0", "0.5", "1e-3", "10", "-1", "0x1F", '"1:30"', "a:1", "00a"])
def test_text_and_decimal_numbers_are_read_as_written(text, tmp_path):
    (tmp_path / "a.yaml").write_text(f"a: {text}\n")
    read_yaml(tmp_path / "a.yaml")
