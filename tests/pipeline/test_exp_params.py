"""What `dvc exp run` sets in params.yaml, and that a run that fails or is interrupted undoes it."""

import os
import subprocess
import sys

import pytest

from frostline.pipeline.exp_params import _set_params

PARAMS = "optimizer: {lr: null}\n"
# As DVC does: it writes the value and starts the command. Its own words are those of `dvc exp run`.
DVC = f"""\
import subprocess, sys
from pathlib import Path
Path("params.yaml").write_text({PARAMS.replace("null", "0.1")!r})
sys.exit(subprocess.run([sys.executable, "stage.py"]).returncode)
"""
STAGE = """\
import os, signal, sys
from frostline.commands import main
from frostline.console import signals
from frostline.console.errors import FrostlineError

def fail(arguments):
    raise FrostlineError("it fails")

def interrupt(arguments):
    with signals.interruptible():
        os.kill(os.getpid(), signal.SIGINT)

signals.install()
arguments = main.parse(["gate"])
arguments.command, arguments.command_name = {command}, "init"
main.parse = lambda argv: arguments
sys.exit(main.main([]))
"""


@pytest.mark.parametrize(
    "words",
    [
        ["-S", "optimizer.lr=0.1"],
        ["-Soptimizer.lr=0.1"],
        ["-S=optimizer.lr=0.1"],
        ["-fS", "optimizer.lr=0.1"],
        ["--set-param", "optimizer.lr=0.1"],
        ["--set-param=optimizer.lr=0.1"],
        ["--set", "optimizer.lr=0.1"],  # argparse takes abbreviations
        ["--set-par=optimizer.lr=0.1"],
        ["-n", "name", "-S", "params.yaml:optimizer.lr=0.1"],
        ["-S", "other.yaml:key=1", "-S", "optimizer.lr=0.1"],
    ],
)
def test_a_value_is_recognized_in_every_spelling_of_the_option(words):
    assert _set_params([*words, "--single-item", "compose"]) == ["optimizer.lr=0.1"]


@pytest.mark.parametrize(("command", "status"), [("fail", 2), ("interrupt", 130)])
@pytest.mark.parametrize("name", ["exp", "experiments"])
def test_a_run_that_does_not_complete_leaves_params_yaml_as_it_was(tmp_path, name, command, status):
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "program.py").write_text(DVC)
    (tmp_path / "stage.py").write_text(STAGE.replace("{command}", command))
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "params.yaml"], [*author, "commit", "-q", "-m", "begin"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    done = subprocess.run(
        [sys.executable, "program.py", name, "run", "-S", "optimizer.lr=0.1"],
        cwd=tmp_path,
        env={**os.environ, "DVC_EXP_NAME": "guest-clay"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "frostline: params.yaml is as it was before -S optimizer.lr=0.1" in done.stderr
    assert (tmp_path / "params.yaml").read_text() == PARAMS
