"""The pipeline under real DVC, in a clone whose study takes seconds: what runs, and what is left."""

import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import yaml

from tests.imports import SRC
from tests.study import clone, environment, replace, run

ARMS = ("scratch", "full", "gradual")
DOWNSTREAM = {"report", "gate"}
TRAINED = {f"{stage}@{arm}" for stage in ("finetune", "evaluate") for arm in ARMS}
GRADUAL = Path("conf/freeze/gradual.yaml")
TINY = Path("conf/experiment/tiny.yaml")


class Study:
    """A copy of the reproduced clone that a test may change."""

    def __init__(self, root: Path, python: Path) -> None:
        self.root, self.python = root, python

    def dvc(self, *words: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        return run(["dvc", *words], self.root, self.python, check, **variables)

    def repro(self, *words: str) -> set[str]:
        """Reproduce; return the stages whose commands ran."""
        return ran(self.dvc("repro", *words).stdout)

    def outs(self) -> dict[str, bytes]:
        """All that the pipeline made, less what a clock measured."""
        return {name: content for name, content in self.artifacts().items() if not name.startswith("timing/")}

    def artifacts(self) -> dict[str, bytes]:
        artifacts = self.root / "artifacts"
        paths = sorted(path for path in artifacts.rglob("*") if path.is_file())
        return {path.relative_to(artifacts).as_posix(): path.read_bytes() for path in paths}

    def resolved(self, stage: str) -> dict:
        return yaml.safe_load((self.root / f"artifacts/resolved/{stage}.yaml").read_text())


def ran(output: str) -> set[str]:
    """The stages that DVC ran; those that came from its cache say so and have no command line."""
    return set(re.findall(r"Running stage '(.+)':\n>", output))


@pytest.fixture(scope="module")
def reproduced(shared, warm):
    """The study, reproduced once; its output. Nobody changes it."""
    with shared("pipeline") as (folder, made):
        study, output = Study(folder / "first", warm), folder / "output.txt"
        if not made:
            clone(study.root)
            output.write_text(study.dvc("repro").stdout)
            run(["git", "add", "-A"], study.root)
            run(["git", "commit", "-qm", "reproduced"], study.root)
        return study, output.read_text()


@pytest.fixture
def study(reproduced, tmp_path):
    """A copy of the reproduced study."""
    first, _ = reproduced
    shutil.copytree(first.root, tmp_path / "a study", symlinks=True)
    shutil.copy(first.root.parent / ".gitconfig", tmp_path)
    return Study(tmp_path / "a study", first.python)


def test_the_whole_study_runs_once(reproduced):
    study, output = reproduced
    stages = {"compose", "prepare@source", "prepare@target", "leakage", "pretrain", *TRAINED, *DOWNSTREAM}
    assert ran(output) == stages
    assert study.repro() == set()
    assert "up to date" in study.dvc("status").stdout
    assert (study.root / "artifacts/report/index.html").is_file()
    # Some numbers are for `dvc metrics show`, the curves for `dvc plots show`.
    metrics = json.loads(study.dvc("metrics", "show", "--json").stdout)[""]["data"]
    values = metrics["artifacts/report/metrics.json"]["data"]
    assert {f"{arm}.accuracy" for arm in ARMS} <= set(values)
    assert 0 <= values["full.accuracy"] <= 1
    assert study.dvc("plots", "show").stdout.startswith("file://")
    page = (study.root / "dvc_plots/index.html").read_text()
    assert "validation accuracy by epoch" in page
    assert all(f'"{arm}"' in page for arm in ARMS)


@pytest.mark.slow
def test_a_changed_freeze_schedule_reruns_its_arm_and_going_back_trains_nothing(study):
    before = study.artifacts()
    schedule = (study.root / GRADUAL).read_text()
    replace(study.root / GRADUAL, "until: 20%", "until: 50%")
    assert study.repro() == {"compose", "finetune@gradual", "evaluate@gradual", *DOWNSTREAM}
    assert study.outs() != before
    (study.root / GRADUAL).write_text(schedule)
    # The gate leaves nothing that a cache could keep, so it looks again.
    assert study.repro() == {"gate"}
    assert study.artifacts() == before


def test_a_comment_reruns_compose_alone(study):
    (study.root / TINY).write_text((study.root / TINY).read_text() + "# a comment\n")
    assert study.repro() == {"compose"}
    assert "up to date" in study.dvc("status").stdout


def touched(study: Study, *modules: str) -> set[str]:
    """Change modules without changing what they do; return the stages whose commands then ran."""
    for module in modules:
        path = study.root / "src/frostline" / module
        path.write_text(path.read_text() + "# another line\n")
    return study.repro()


@pytest.mark.slow
def test_code_that_only_shows_reruns_nothing_and_code_that_computes_does(study):
    before = study.artifacts()
    shows = [
        "console/progress.py",
        "commands/main.py",
        "planning/text.py",
        "schema/stages.py",
        "tracking/store.py",
    ]
    assert touched(study, *shows) == {"compose"}  # which alone reads the schema
    assert touched(study, "reporting/words.py") == {"report"}
    assert study.artifacts() == before
    # The report shows the seconds that were measured anew.
    assert touched(study, "freezing/curves.py") == {"compose", "pretrain", *TRAINED, *DOWNSTREAM}
    after = study.outs()
    assert {name for name in after if after[name] != before[name]} <= {
        f"report/{name}"
        for name in ("index.html", "report.json", "report.md", "transfer.png", "metrics.json")
    }
    assert touched(study, "preparation/stage.py") == {"prepare@source", "prepare@target"}
    assert touched(study, "leakage/stage.py") == {"leakage"}


def test_experiments_are_listed_by_what_was_selected(study):
    columns = study.dvc("exp", "show", "--csv").stdout.splitlines()[0].split(",")
    assert "experiment" in columns
    assert not [name for name in columns if ".yaml:" in name]  # a key of a resolved config


@pytest.mark.slow
def test_experiments_change_what_they_name(study):
    output = study.dvc(
        "exp", "run", "-S", "pretrain.optimizer.lr=0.02", "-S", "pretrain.trainer.epochs=3"
    ).stdout
    # The baseline is trained again, since a matrix shares its dependencies; its results stay the same.
    assert ran(output) == {"compose", "pretrain", *TRAINED, *DOWNSTREAM} - {"evaluate@scratch"}
    assert study.resolved("pretrain")["optimizer"]["lr"] == 0.02
    assert study.resolved("pretrain")["trainer"]["epochs"] == 3
    assert study.resolved("finetune-full")["optimizer"]["lr"] == 0.01
    # Another schedule, and another rate: all arms again, one of them new.
    output = study.dvc("exp", "run", "-S", "freeze=linear_probe", "-S", "optimizer.lr=0.03").stdout
    assert {"compose", "finetune@linear_probe", "evaluate@linear_probe", "finetune@full"} <= ran(output)
    assert not ran(output) & {"pretrain", "prepare@source", "finetune@gradual"}
    assert study.resolved("finetune-linear_probe")["optimizer"]["lr"] == 0.03
    assert "linear_probe" in (study.root / "artifacts/report/report.md").read_text()
    shown = [
        run([str(study.python), "-m", "frostline", "experiments"], study.root, PYTHONPATH=str(SRC)).stdout,
        study.dvc("params", "diff").stdout,
        study.dvc("metrics", "diff").stdout,
    ]
    assert " freeze " in shown[0]
    assert max(len(line) for text in shown for line in text.splitlines()) <= 120
    # The plot has both revisions, though an arm of each is unknown to the other.
    assert "WARNING" not in study.dvc("plots", "diff").stdout
    page = (study.root / "dvc_plots/index.html").read_text()
    assert all(f'"rev": "{revision}"' in page for revision in ("HEAD", "workspace"))


def test_an_experiment_that_does_not_exist_is_refused(study):
    before = (study.root / "params.yaml").read_bytes()
    cold = Study(study.root, sys.executable)  # a warm Python is no child of dvc, whose words are looked up
    result = cold.dvc("exp", "run", "-S", "experiment=nope", check=False)
    assert result.returncode != 0
    assert "experiment: no option 'nope'; allowed: article_mlp, mnist_to_digits, tiny" in result.stdout
    assert (study.root / "params.yaml").read_bytes() == before


@pytest.mark.slow
def test_a_queue_of_two_backbones_works_from_a_plain_shell(study):
    study.dvc("exp", "run", "--queue", "-S", "backbone=tiny,tinier", "-S", "pretrain.trainer.epochs=3")
    study.dvc("queue", "start")
    give_up, asked = time.monotonic() + 200, time.monotonic()
    while True:
        # To ask DVC takes two seconds of a core, which the queue needs.
        done = len(list(study.root.glob(".git/refs/exps/??/*/*"))) == 2
        if done or time.monotonic() > asked + 20:
            status, asked = study.dvc("queue", "status").stdout, time.monotonic()
            if status.count("Success") == 2:
                break
            assert time.monotonic() < give_up, status
            assert "Failed" not in status, study.dvc(
                "queue", "logs", re.findall(r"^(\w{7})", status, re.M)[0]
            ).stdout
        time.sleep(0.5)
    shown = json.loads(study.dvc("exp", "show", "--json").stdout)
    experiments = [e["revs"][0]["data"] for rev in shown for e in rev["experiments"] or []]
    backbones = [e["params"]["params.yaml"]["data"]["backbone"] for e in experiments]
    assert sorted(backbones) == ["tinier", "tiny"]
    assert all(e["metrics"]["artifacts/report/metrics.json"]["data"] for e in experiments)


@pytest.mark.slow
def test_a_copy_that_dvc_runs_in_records_in_the_project(study):
    study.dvc("exp", "run", "--temp", "-S", "pretrain.optimizer.lr=0.02", "pretrain", FROSTLINE_TRACKING="on")
    with closing(sqlite3.connect(study.root / "mlflow.db")) as store:
        runs = dict(store.execute("SELECT name, run_uuid FROM runs WHERE status = 'FINISHED'"))
        tags = dict(
            store.execute("SELECT key, value FROM tags WHERE run_uuid = ?", [runs["pretrain·mlp·digits·s0"]])
        )
    assert tags["dvc.experiment"] in study.dvc("exp", "list", "--name-only").stdout.split()
    assert tags["study"] == "tiny"
    assert "tiny" in runs


def test_a_gate_that_fails_says_by_how_much_and_leaves_the_report(study):
    replace(study.root / TINY, "accuracy.mean: 0.2", "accuracy.mean: 0.999")
    result = study.dvc("repro", check=False)
    assert result.returncode != 0
    assert ran(result.stdout) == {"compose", *DOWNSTREAM}
    value = json.loads((study.root / "artifacts/report/report.json").read_text())
    mean = value["arms"]["full"]["test"]["accuracy"]["mean"]
    assert (
        f"arms.full.test.accuracy.mean is {mean:.6g}, {0.999 - mean:.3g} below its bound 0.999"
        in result.stdout
    )
    assert "0.999" in (study.root / "artifacts/report/index.html").read_text()
    assert study.dvc("repro", check=False).returncode != 0


@pytest.mark.slow
def test_results_repeat_byte_for_byte(study):
    """All but what a clock measured: timing/, and the report's columns of seconds."""
    before = study.outs()
    # The stages are forks, no children of DVC, and can't see that it was told --force.
    shutil.rmtree(study.root / ".frostline/earlier-runs")
    assert "finetune@full" in study.repro("--force")
    after = study.outs()
    assert before.keys() == after.keys()
    differ = {name for name in after if before[name] != after[name]}
    assert differ <= {"report/index.html", "report/report.md", "report/report.json"}
    assert without_seconds(before["report/report.json"]) == without_seconds(after["report/report.json"])


def without_seconds(report: bytes) -> object:
    def cut(node: object) -> object:
        if isinstance(node, dict):
            return {key: cut(value) for key, value in node.items() if "seconds" not in key}
        return [cut(value) for value in node] if isinstance(node, list) else node

    return cut(json.loads(report))


@pytest.mark.slow
def test_a_killed_repro_takes_its_training_along_and_the_next_one_goes_on(study, tmp_path):
    replace(study.root / TINY, "trainer: {epochs: 4,", "trainer: {epochs: 600,")
    reference = tmp_path / "whole"
    shutil.copytree(study.root, reference, symlinks=True)
    out, arm = study.root / "artifacts/finetune/scratch", "finetune@scratch"
    # A cold Python, as users have it: a fork of the warm one is no child of DVC.
    with (tmp_path / "log").open("w") as log:
        dvc = subprocess.Popen(
            ["dvc", "repro", arm], cwd=study.root, env=environment(study.root), stdout=log, stderr=log
        )
    try:
        wait_for(
            lambda: list(study.root.glob(".frostline/resume/*/done")), "the first seed", tmp_path / "log"
        )
        (training,) = (
            p for p in psutil.Process(dvc.pid).children(recursive=True) if "frostline" in p.cmdline()
        )
        source = {"PYTHONPATH": str(study.root / "src")}
        beside = run([str(study.python), *training.cmdline()[1:]], study.root, check=False, **source)
        assert training.is_running()
        assert beside.returncode == 2
        assert beside.stdout == (
            "frostline: error: out: another run is writing to artifacts/finetune/scratch;"
            " wait for it, or name another folder\n"
        )
    finally:
        dvc.send_signal(signal.SIGKILL)
        dvc.wait()
    wait_for(lambda: not training.is_running() or training.status() == psutil.STATUS_ZOMBIE, "its end")
    assert not out.exists()
    # The seed that was done is not trained again.
    output = study.dvc("repro", arm).stdout
    assert "finetune scratch · seed 1 (2/2)" in output
    assert output.count("finetune scratch · seed 0 (1/2)") == 1
    assert "finetune scratch · seed 0 (1/2): trained before, val/accuracy " in output
    whole = Study(reference, study.python)
    whole.dvc("repro", arm)
    assert study.outs() == whole.outs()


def test_a_second_repro_beside_the_first_gets_a_sentence(study):
    replace(study.root / TINY, "trainer: {epochs: 4,", "trainer: {epochs: 100,")
    log = study.root.parent / "log"
    with log.open("w") as stream:
        first = subprocess.Popen(
            ["dvc", "repro", "finetune@scratch"],
            cwd=study.root,
            env=environment(study.root, study.python),
            stdout=stream,
            stderr=stream,
        )
    wait_for(lambda: "> scripts/stage finetune" in log.read_text(), "the training", log)
    second = study.dvc("repro", "finetune@scratch", check=False)
    assert first.wait(60) == 0
    assert second.returncode != 0
    assert "is busy, it is being blocked by" in second.stdout


def wait_for(condition, what: str, log: Path | None = None) -> None:
    give_up = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < give_up, f"{what} did not come\n{log.read_text() if log else ''}"
        time.sleep(0.05)


def test_without_a_terminal_long_work_says_lines(reproduced):
    _, output = reproduced
    assert re.search(
        r"^finetune full · seed 0 \(1/2\): 4/4 val/accuracy 0\.\d+ after epoch \d, \d+\.\d s$", output, re.M
    )
    assert "\r" not in output
    assert "\x1b" not in output


def test_no_path_of_this_machine_is_in_the_results(reproduced):
    study, _ = reproduced
    for content in [*study.outs().values(), (study.root / "dvc.lock").read_bytes()]:
        assert str(study.root).encode() not in content
