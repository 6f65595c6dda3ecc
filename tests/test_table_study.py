"""A study on tables under real DVC, in a project of its own: what a change of data re-runs."""

import csv
import json
import re

import pytest

from tests.data.trees import picture
from tests.imports import SRC
from tests.programs import write_programs
from tests.study import environment, run

SMALL = (
    ("resnet10t", "mlp"),
    ("size: 64, channels: 3", "size: 8, channels: 1"),
    ("epochs: 20", "epochs: 1"),
    ("epochs: 25", "epochs: 1"),
    ("seeds: [0, 1, 2]", "seeds: [0]"),
)


def write_images(root, name, seed, patients):
    """Two images per patient in `root/name`, and their table."""
    (root / name).mkdir(parents=True)
    rows = [("image", "label", "patient")]
    for patient in range(patients):
        for i in range(2):
            picture(seed + 10 * patient + i, (16, 16)).save(root / name / f"{patient} {i}.png")
            rows.append((f"{name}/{patient} {i}.png", "ab"[patient % 2], f"p{patient}"))
    with (root / f"{name}.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


@pytest.fixture(scope="module")
def project(shared, warm):
    """A project with three tables, and what runs a program there."""
    with shared("tables") as (folder, made):
        root, programs = folder / "my work", folder / "bin"
        variables = {"PATH": f"{programs}:{environment(root)['PATH']}", "PYTHONPATH": str(SRC)}

        def start(*words):
            return run([*words], root, warm, **variables).stdout

        if not made:
            root.mkdir(parents=True)
            for number, name in enumerate(("scans a", "scans b", "scans c")):
                write_images(root / "data", name, 1000 * number, 8)
            words = ["init", "mine", "--source"]
            data = ["data/scans a.csv", "--target", "data/scans b.csv"]
            keys = ["dataset.group=patient", "dataset.folds=2", "dataset.test_sets.c.file=data/scans c.csv"]
            (folder / ".gitconfig").write_text("[user]\nname = a\nemail = a@b\n")
            write_programs(programs, warm)
            start("git", "init", "-q")
            start(str(programs / "frostline"), *words, *data, *keys)
            experiment = root / "conf/experiment/mine.yaml"
            text = experiment.read_text()
            for old, new in SMALL:
                assert old in text
                text = text.replace(old, new)
            experiment.write_text(text)
            params = (root / "params.yaml").read_text()
            (root / "params.yaml").write_text(params.replace("freeze: gradual", "freeze: full"))
        return root, start


def ran(output):
    return set(re.findall(r"Running stage '(.+)':\n>", output))


@pytest.mark.slow
def test_a_change_of_data_reruns_what_reads_it(project):
    root, start = project

    def repro(*words):
        return ran(start("dvc", "repro", *words))

    assert repro("prepare") == {"compose", "prepare@source", "prepare@target"}
    assert repro("prepare") == set()
    picture(90, (16, 16)).save(root / "data/scans a/0 0.png")
    assert repro("prepare") == {"prepare@source"}
    picture(91, (16, 16)).save(root / "data/scans b/0 0.png")
    assert repro("prepare") == {"prepare@target"}
    picture(92, (16, 16)).save(root / "data/scans c/0 0.png")
    assert repro("prepare") == {"prepare@target"}
    table = root / "data/scans b.csv"
    table.write_text(table.read_text().replace("scans b/7 1.png,b,p7\n", ""))
    assert repro("prepare") == {"compose", "prepare@target"}
    table = root / "data/scans c.csv"
    table.write_text(table.read_text().replace("scans c/7 1.png,b,p7\n", ""))
    assert repro("prepare") == {"prepare@target"}


@pytest.mark.slow
def test_the_report_is_over_folds(project):
    root, start = project
    start("dvc", "repro")
    report = json.loads((root / "artifacts/report/report.json").read_text())
    assert report["folds"]["run"] == [0, 1]
    assert report["arms"]["full"]["gain"]["n"] == 2
    assert report["arms"]["full"]["test_sets"]["c"]["accuracy"]["n"] == 2
    assert json.loads((root / "artifacts/leakage/leakage.json").read_text()) == {"warnings": []}
