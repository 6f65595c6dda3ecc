"""A sweep's workers through each launcher, and what becomes of a sweep that loses some of them."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from tests.imports import SRC
from tests.study import environment
from tests.sweeps.test_sweeper import WORDS, trials

from frostline.config import compose
from frostline.config.overrides import to_hydra

CONF = SRC.parent / "conf"
GUIDE = (SRC.parent / "docs/scale.md").read_text(encoding="utf-8")
LAUNCHERS = sorted(path.stem for path in (CONF / "hydra/launcher").glob("*.yaml"))


def head(name):
    return (CONF / f"hydra/launcher/{name}.yaml").read_text(encoding="utf-8")


def commands(name):
    return [shlex.split(line[2:]) for line in head(name).splitlines() if line.startswith("# frostline ")]


def composed(words, conf=CONF):
    """Hydra's own part of the config that a sweep's words compose."""
    fixed = [word for word in words if not re.search(r"=\S+,\S", word)]
    with initialize_config_dir(str(conf), version_base="1.3"):
        return hydra_compose("config", fixed, return_hydra_config=True).hydra


def test_there_is_a_ready_config_for_each_launcher():
    assert LAUNCHERS == ["joblib", "ray", "submitit_local", "submitit_slurm"]


@pytest.mark.filterwarnings(r"ignore:\s.*validated against ConfigStore schema")
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launchers_file_says_what_to_expect_and_its_commands_choose_it(name):
    from hydra.core.plugins import Plugins
    from hydra.plugins.launcher import Launcher

    assert re.match(r"# [A-Z]\w*", head(name))
    assert commands(name)
    known = {
        f"{launcher.__module__}.{launcher.__qualname__}" for launcher in Plugins.instance().discover(Launcher)
    }
    for command in commands(name):
        assert command[:3] == ["frostline", "finetune", "-m"]
        overrides = [to_hydra(word, sweep=True) for word in command[3:]]
        _, space, settings = compose.space_of(overrides)
        hydra = composed(overrides)
        assert hydra.runtime.choices["hydra/launcher"] == name
        assert hydra.launcher._target_ in known
        assert settings.workers > 1
        assert len(space.combinations()) >= settings.workers
    if name == "joblib":
        assert hydra.launcher.n_jobs == settings.workers


@pytest.mark.filterwarnings(r"ignore:\s.*validated against ConfigStore schema")
def test_the_guides_commands_compose():
    commands = re.findall(r"frostline finetune -m (.+)", GUIDE)
    assert len(commands) == 3
    for command in commands:
        overrides = [to_hydra(word, sweep=True) for word in shlex.split(command)]
        _, space, settings = compose.space_of(overrides)
        assert len(space.combinations()) == 8
        assert settings.store
        assert composed(overrides).launcher._target_
    assert set(re.findall(r"^\| `(\w+)` \|", GUIDE, flags=re.MULTILINE)) == set(LAUNCHERS)


@pytest.mark.filterwarnings(r"ignore:\s.*validated against ConfigStore schema")
def test_the_guides_cluster_is_a_file_of_a_project(tmp_path):
    conf = shutil.copytree(CONF, tmp_path / "conf")
    (text,) = re.findall(r"```yaml\n(.*?)```", GUIDE, flags=re.DOTALL)
    (tmp_path / text.splitlines()[0].removeprefix("# ")).write_text(text)
    launcher = composed(["hydra/launcher=ours"], conf).launcher
    assert launcher._target_.endswith(".SlurmLauncher")
    assert (launcher.account, launcher.gpus_per_node, launcher.max_num_timeout) == ("vision", 1, 100)


def test_without_its_package_a_launcher_is_one_sentence(shell):
    """A fresh process: in this one the packages may have been imported."""
    packages = {
        "ray": "ray",
        "submitit_local": "hydra-submitit-launcher",
        "submitit_slurm": "hydra-submitit-launcher",
    }
    words = [["finetune", *WORDS, "seed=0,1", f"hydra/launcher={name}"] for name in packages]
    code = "import sys; sys.modules['ray'] = sys.modules['submitit'] = None; "
    code += f"from frostline.commands.main import main; print([main(words) for words in {words}])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=shell.folder, capture_output=True, text=True, check=True)
    assert done.stdout == "[2, 2, 2]\n"
    assert done.stderr.splitlines() == [
        f"frostline: error: hydra/launcher: {name} needs the package {package};"
        f" pip install {package}, or choose another, such as joblib"
        for name, package in packages.items()
    ]


def test_slurm_gets_the_options_and_a_queue_that_refuses_jobs_is_an_error_of_one_sentence(shell):
    """`sbatch` stands in for a cluster's: it keeps the script that it is given, and refuses it."""
    programs = shell.folder / "bin"
    programs.mkdir()
    sbatch = 'cp "$1" "$PWD/script"; echo no such partition; exit 1'
    for name, does in {"srun": "exit 0", "sbatch": sbatch}.items():
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)
    settings = ["hydra/launcher=submitit_slurm", "sweep.workers=3"]
    settings += [
        f"hydra.launcher.{option}" for option in ("partition=gpu", "gpus_per_node=2", "timeout_min=90")
    ]
    path = f"{programs}:{environment(shell.folder)['PATH']}"
    with shell.start("finetune", *WORDS, "seed=0,1,2", *settings, PATH=path) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert "frostline: error: hydra/launcher: no worker could start (" in err.splitlines()[-1]
    directives = (shell.folder / "script").read_text()
    wanted = ("partition=gpu", "gpus-per-node=2", "time=90", "array=0-2%3", "job-name=frostline", "mem=16GB")
    for directive in wanted:
        assert f"#SBATCH --{directive}\n" in directives


def check_each_point_ran_once(trials, count, killed=0):
    """Every point has one trial that is complete; the others' processes were killed."""
    states = [trial.state.name for trial in trials]
    assert (states.count("COMPLETE"), states.count("FAIL"), len(states)) == (count, killed, count + killed)
    points = {json.dumps(trial.params) for trial in trials if trial.state.name == "COMPLETE"}
    assert len(points) == count
    dead = [trial for trial in trials if trial.state.name == "FAIL"]
    again = [trial.user_attrs["again"] for trial in trials if "again" in trial.user_attrs]
    assert sorted(again) == [trial.number for trial in dead]


def light(folder, *words, within=(), **variables):
    """Start a sweep whose trials are a formula."""
    command = [*within, sys.executable, "-m", "tests.sweeps.light", *words]
    settings = environment(folder / "x", PYTHONPATH=f"{SRC}:{SRC.parent}", **variables)
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=settings, stdout=pipe, stderr=pipe, text=True)


def test_two_jobs_of_submitit_on_this_machine_share_the_trials(tmp_path):
    words = ["hydra/launcher=submitit_local", "sweep.workers=2", "seed=range(8)"]
    out, err = (process := light(tmp_path, *words)).communicate(timeout=100)
    assert process.returncode == 0, err
    assert re.fullmatch(r"to repeat the best trial: .+\ntable and plots: runs/sweeps/\S+\n", err)
    assert out.splitlines()[-8:] == [f"seed={seed} {seed / 10}" for seed in range(8)]
    stored = trials(tmp_path)
    check_each_point_ran_once(stored, 8)
    assert len({trial.user_attrs["process"] for trial in stored}) == 2
    assert len(list((tmp_path / ".frostline/multirun/submitit").glob("*/*_result.pkl"))) == 2
