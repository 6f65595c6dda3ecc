"""frostline installed from its wheel, used in a project of one's own: from `frostline init` to an upgrade."""

import re
import shlex
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.study import ROOT, copy_tracked, environment, leave_out, replace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
EXPERIMENT = """\
# @package _global_
defaults:
  - override /dataset@source: image_folder
  - override /dataset: image_folder
  - override /backbone: small
  - override /freeze: mine

study: mine
source: {root: photos_a}
dataset: {root: photos_b}
input: {size: 8, channels: 1}
pretrain:
  trainer: {epochs: 2, batch_size: 8, threads: 1}
trainer: {epochs: 3, batch_size: 8, threads: 1}
seeds: [0, 1]
"""
(EXP_SHOW,) = re.findall(r"^dvc exp show .*", (ROOT / "docs/pipeline.md").read_text(), re.MULTILINE)
BACKBONE = "kind: mlp\nhidden: [16]\nactivation: relu\ndropout: 0.0\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of what git tracks or would track."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    copy_tracked(source, lambda name: name.startswith(("src/", "conf/", "README", "LICENSE", "pyproject")))
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=source, capture_output=True, check=True)
    (path,) = folder.glob("*.whl")
    return path


class Project:
    """A git repository with two folders of images, and an environment with the wheel and its dependencies.

    `path` begins with a folder whose `frostline` and `dvc` are forks of the warm Python: they start eight
    seconds sooner than the environment's own. This `frostline` imports the wheel.
    """

    def __init__(self, folder: Path, wheel: Path, warm: Path) -> None:
        self.root, environment_folder = folder / "my work", folder / "environment"
        self.bin = environment_folder / "bin"
        self.path = f"{folder / 'warm'}:{self.bin}"
        venv.create(environment_folder, with_pip=False)
        (self.packages,) = environment_folder.glob("lib/python3*/site-packages")
        # The dependencies as they are tested; a .pth in a folder that a .pth adds is not read: no checkout.
        (self.packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        uv = Path(sys.executable).parent / "uv"
        install = [
            uv,
            "pip",
            "install",
            "--compile-bytecode",
            "--no-deps",
            "--offline",
            "--python",
            self.bin / "python",
            wheel,
        ]
        subprocess.run(install, capture_output=True, check=True)
        (folder / "warm").mkdir()
        for program, path in (("frostline", self.packages), ("dvc", "")):
            script = f"#!/bin/sh\nPYTHONPATH='{path}' exec '{warm}' -m {program} \"$@\"\n"
            (folder / "warm" / program).write_text(script)
            (folder / "warm" / program).chmod(0o755)
        rng = np.random.default_rng(0)
        for name, classes in (("photos_a", "xyz"), ("photos_b", "pq")):
            for label, letter in enumerate(classes):
                (self.root / name / letter).mkdir(parents=True)
                for number in range(24):
                    image = rng.integers(0, 100, (9, 11)) + 50 * label
                    Image.fromarray(image.astype(np.uint8)).save(self.root / name / letter / f"{number}.png")
        (folder / ".gitconfig").write_text("[user]\nname = a\nemail = a@b\n")

    def run(self, *words: str, status: int = 0) -> str:
        """Run a program; return what it prints."""
        settings = environment(self.root) | {"PATH": f"{self.path}:/usr/local/bin:/usr/bin:/bin"}
        settings.pop("FROSTLINE_PYTHON")
        done = subprocess.run(
            words,
            cwd=self.root,
            env=settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == status, f"{words}\n{done.stdout}"
        return done.stdout

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", "a step")


@pytest.fixture(scope="module")
def project(tmp_path_factory, wheel, warm):
    """A project whose study was run once."""
    made = Project(tmp_path_factory.mktemp("project"), wheel, warm)
    made.run("git", "init", "-q")
    made.run("frostline", "init", "mine", "--source", "photos_a", "--target", "photos_b")
    (made.root / "conf/experiment/mine.yaml").write_text(EXPERIMENT)
    (made.root / "conf/backbone").mkdir()
    (made.root / "conf/backbone/small.yaml").write_text(BACKBONE)
    (made.root / "conf/freeze").mkdir()
    schedule = (ROOT / "conf/freeze/linear_probe.yaml").read_text()
    (made.root / "conf/freeze/mine.yaml").write_text(schedule)
    replace(made.root / "params.yaml", "freeze: gradual", "freeze: mine")
    leave_out(made.root / "dvc.yaml", ("linear_probe", "zero_shot"))
    made.commit()
    made.run("dvc", "repro")
    made.commit()
    return made


def ran(output: str) -> set[str]:
    return {stage.partition("@")[0] for stage in re.findall(r"Running stage '([\w@]+)'", output)}


def test_the_code_is_the_wheels(project):
    code = "import frostline; print(frostline.__file__)"
    where = str(project.packages / "frostline/__init__.py")
    assert project.run("python", "-c", code).strip() == where
    warm = (project.root.parent / "warm/frostline").read_text().replace("-m frostline", f"-c '{code}'")
    assert project.run("sh", "-c", warm).strip() == where


def test_a_study_runs_and_its_own_schedule_is_an_arm(project):
    report = (project.root / "artifacts/report/report.md").read_text()
    assert "| mine" in report
    assert ran(project.run("dvc", "repro")) == set()


def test_dvc_experiments_work(project):
    output = project.run("dvc", "exp", "run", "-S", "optimizer.lr=0.02", "-n", "faster")
    assert {"compose", "finetune", "evaluate", "report"} <= ran(output)
    assert "pretrain" not in ran(output)
    shown = [
        project.run("frostline", "experiments"),
        project.run("dvc", "params", "diff"),
        project.run("dvc", "metrics", "diff", "HEAD", "faster"),
        project.run(*shlex.split(EXP_SHOW), "--md"),
    ]
    assert all(word in shown[0] for word in ("faster", "optimizer.", "scratch", "mine"))
    assert all(word in shown[3] for word in ("faster", "freeze", "full.gain", "mine.gain"))
    assert max(len(line) for text in shown for line in text.splitlines()) <= 120
    project.run("git", "checkout", "-q", ".")
    assert ran(project.run("dvc", "repro")) == set()


def test_another_clone_has_all_results_once_they_are_pulled(project, tmp_path):
    """The resolved configs, too: without them, each stage would count as changed."""
    remote = f"dvc remote add -q --local -d shared '{tmp_path}/remote'"
    project.run("sh", "-c", f"{remote} && dvc push -q && git clone -q . '{tmp_path}/clone'")
    clone = f"cd '{tmp_path}/clone' && "
    project.run("sh", "-c", f"{clone}{remote} && dvc pull -q")
    assert "up to date" in project.run("sh", "-c", f"{clone}dvc status")
    project.run("sh", "-c", f"{clone}frostline report")
    assert "up to date" in project.run("sh", "-c", f"{clone}dvc status")
    assert ran(project.run("sh", "-c", f"{clone}dvc repro")) == set()


def test_an_experiment_is_applied_with_its_resolved_configs(project):
    """So that `frostline report` writes the experiment's own page."""
    project.run("dvc", "exp", "apply", "faster")
    project.run("frostline", "report")
    assert "up to date" in project.run("dvc", "status")
    project.run("git", "checkout", "-q", ".")
    project.run("dvc", "checkout", "-q")


def test_the_line_that_a_sweep_prints_repeats_its_best_trial(project):
    run = ("experiment=mine", "weights=none", "optimizer.lr=1e-3,1e-1", "seed=0")
    output = project.run("frostline", "finetune", "-m", *run)
    (line,) = re.findall(r"to repeat the best trial: (.*)", output)
    best = (project.root / "conf/experiment").glob("*-best.yaml")
    assert f"experiment={next(best).stem}" in line
    assert "test accuracy" in project.run(*line.split())


def test_without_dvc_and_git_single_runs_work(project, tmp_path):
    elsewhere = Project.__new__(Project)
    elsewhere.root, elsewhere.path = tmp_path, str(project.bin)  # its own Python
    output = elsewhere.run(
        "frostline", "plan", "dataset=digits", "backbone=mlp", "weights=none", "freeze=full"
    )
    assert "freeze=full on mlp" in output


def test_an_upgrade_re_runs_exactly_the_stages_whose_code_changed(project):
    with (project.packages / "frostline/reporting/words.py").open("a") as file:
        file.write("# another version\n")
    note = project.run("frostline", "plan")
    assert "has other code for report; frostline upgrade accepts it" in note
    assert ran(project.run("dvc", "repro")) == set()  # the results belong to the lock's code
    replace(project.root / "params.yaml", "\noptimizer: {lr: null,", "\noptimizer: {lr: 0.03,")
    refused = project.run("dvc", "repro", status=255)
    assert "error: " in refused
    assert "has other code for report" in refused.rpartition("Running stage 'report'")[2]
    project.run("git", "checkout", "-q", ".")

    assert "dvc repro runs again: report" in project.run("frostline", "upgrade")
    assert ran(project.run("dvc", "repro")) - {"compose"} == {"report"}
    assert "nothing runs again" in project.run("frostline", "upgrade")
    assert "other code" not in project.run("frostline", "plan")
