"""Studies on folders of images, under real DVC, with classes, sizes and colours of all kinds."""

import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from frostline.models import weights
from tests.study import clone, replace, run
from tests.test_pipeline import Study, ran

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EXPERIMENT = """\
# @package _global_
defaults:
  - override /dataset@source: image_folder
  - override /dataset: image_folder
  - override /backbone: tiny

study: mine
input: {size: 12, channels: 3}
pretrain:
  trainer: {epochs: 30, batch_size: 8, threads: 1}
  optimizer: {lr: 0.01}
trainer: {epochs: 1, batch_size: 8, threads: 1}
seeds: [0]
"""
SOURCE = ("ant", "bee", "cat", "dog")
TARGET = ("elk", "fox", "gnu")
ALL = (*SOURCE, *TARGET)
PACKAGES = "requirements.lock"


def images(root: Path, classes: Sequence[str], count: int, size: int, grey: bool = False) -> None:
    """Noisy images; the classes differ by where a band is."""
    rng = np.random.default_rng(len(classes))
    for name in classes:
        place = ALL.index(name) * size // len(ALL)
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 60, (size, size, 3), dtype=np.uint8)
            pixels[place : place + size // len(ALL)] += 180
            image = Image.fromarray(pixels)
            (image.convert("L") if grey else image).save(root / name / f"{number}.png")


@pytest.fixture(scope="module")
def reproduced(shared, warm):
    """Grey images of 28 px → colour images of 224 px with other classes; and what DVC said."""
    with shared("image-studies") as (folder, made):
        study, output = Study(folder / "a clone", warm), folder / "output.txt"
        if not made:
            clone(study.root, without=("linear_probe", "full"))
            images(folder / "my source", SOURCE, 12, 28, grey=True)
            images(folder / "my target", TARGET, 12, 224)
            (study.root / "conf/experiment/mine.yaml").write_text(EXPERIMENT)
            replace(study.root / "params.yaml", "experiment: tiny", "experiment: mine")
            replace(study.root / "params.yaml", "freeze: gradual", "freeze: full")
            watch(study, "../my source", "../my target")
            output.write_text(study.dvc("repro").stdout)
            run(["git", "add", "-A"], study.root)
            run(["git", "commit", "-qm", "reproduced"], study.root)
        return study, output.read_text()


@pytest.fixture
def study(reproduced, tmp_path):
    """A copy of the reproduced study and its images."""
    first, _ = reproduced
    for name in ("a clone", "my source", "my target"):
        shutil.copytree(first.root.parent / name, tmp_path / name, symlinks=True)
    shutil.copy(first.root.parent / ".gitconfig", tmp_path)
    return Study(tmp_path / "a clone", first.python)


def watch(study: Study, source: str, target: str, weights_file: str = PACKAGES) -> None:
    params = study.root / "params.yaml"
    text = re.sub(
        r"(?m)^data: .*$",
        f"data: {{source: {source}, target: {target}, weights: {weights_file}}}",
        params.read_text(),
    )
    params.write_text(text)


def retarget(study: Study, classes: Sequence[str]) -> None:
    """Give the target other classes."""
    shutil.rmtree(study.root.parent / "my target")
    images(study.root.parent / "my target", classes, 12, 24)


def report(study: Study) -> dict:
    return json.loads((study.root / "artifacts/report/report.json").read_text())


def head(study: Study, arm: str) -> dict:
    path = study.root / f"artifacts/finetune/{arm}/seed-0/training.json"
    return json.loads(path.read_text())["head"]


def test_other_classes_reset_the_head_and_leave_out_what_would_mean_nothing(reproduced):
    study, output = reproduced
    differ = (
        "the classes differ: only the data set has 'elk', 'fox', 'gnu' and only the weights have"
        " 'ant', 'bee', 'cat', 'dog'"
    )
    assert f"zero_shot is omitted, since {differ}" in output
    assert f"\nfull: weights.head: reset, since {differ}" in output
    assert output.count("weights.head: reset") == 1
    assert head(study, "full") == {"start": "reset", "notice": f"weights.head: reset, since {differ}"}
    made = report(study)
    assert set(made["arms"]) == {"scratch", "full"}
    assert made["omitted"] == {"zero_shot": differ}
    assert made["arms"]["full"]["jumpstart"] is None
    assert made["majority"] == {"split": "test", "name": "elk", "rate": pytest.approx(1 / 3)}
    for name in ("index.html", "report.md"):
        text = (study.root / "artifacts/report" / name).read_text()
        assert "There is no arm zero_shot: the classes differ" in text
        assert "Always predicting the most frequent class of the test split, elk, is right for 33.3" in text
    assert study.dvc("plots", "show").stdout.startswith("file://")
    assert study.repro() == set()
    assert "up to date" in study.dvc("status").stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "known"),
    [(SOURCE, 4), (SOURCE[:2], 2), ((*SOURCE, "elk"), 4), (("dog", "elk", "fox"), 1)],
    ids=["the same", "source has more", "source has fewer", "one is shared"],
)
def test_shared_classes_are_matched_by_name(classes, known, study):
    retarget(study, classes)
    ran = study.repro("report")
    assert {"compose", "prepare@target", "finetune@zero_shot", "report"} <= ran
    assert "pretrain" not in ran
    same = set(classes) == set(SOURCE)
    assert head(study, "zero_shot")["start"] == ("kept" if same else "matched")
    assert head(study, "full")["start"] == ("kept" if same else "reset")
    made = report(study)
    assert made["omitted"] == {}
    # The bands are easy: the pretrained head knows the shared classes. The others are guessed.
    assert made["arms"]["zero_shot"]["test"]["accuracy"]["mean"] > known / len(classes) - 0.17
    assert made["arms"]["zero_shot"]["jumpstart"] is not None
    assert (made["arms"]["full"]["jumpstart"] is None) == (not same)


@pytest.mark.slow
def test_weights_of_a_file_whose_classes_have_another_order(study):
    state, about = weights.load(study.root / "artifacts/pretrain/weights.safetensors")
    order = [2, 0, 3, 1]
    for name in ("head.weight", "head.bias"):
        state[name] = state[name][order].clone()
    about["classes"] = [about["classes"][i] for i in order]
    weights.save(study.root.parent / "theirs.safetensors", state, about)
    retarget(study, SOURCE)
    replace(
        study.root / "params.yaml",
        "weights: {head: null}",
        "weights: file",
    )
    watch(study, "../my source", "../my target", "../theirs.safetensors")
    output = study.dvc("repro", "report").stdout
    assert "artifacts/pretrain: omitted, since the arms start from weights=file (sha256 " in output
    assert "weights.head: kept; its rows are matched to the classes by name" in output
    assert report(study)["arms"]["zero_shot"]["test"]["accuracy"]["mean"] > 0.8
    weights.save(study.root.parent / "theirs.safetensors", state, about | {"classes": SOURCE})
    assert {"compose", "pretrain", "finetune@full"} <= study.repro("finetune@full")


@pytest.mark.slow
def test_imagenet_weights_instead_of_a_pretraining(study):
    replace(study.root / "conf/experiment/mine.yaml", "/backbone: tiny", "/backbone: efficientnet_lite0")
    replace(study.root / "conf/experiment/mine.yaml", "size: 12", "size: 32")
    params = study.root / "params.yaml"
    replace(params, "weights: {head: null}", "weights: imagenet")
    output = study.dvc("repro", "report").stdout
    assert {"pretrain", "finetune@full", "evaluate@zero_shot"} <= ran(output)
    assert "artifacts/data/source: omitted" in output
    made = report(study)
    assert set(made["arms"]) == {"scratch", "full"}
    assert set(made["omitted"]) == {"zero_shot"}
    assert head(study, "full")["start"] == "reset"


@pytest.mark.slow
def test_changes_in_a_folder_of_images_are_seen(study):
    target = study.root.parent / "my target"
    shutil.copy(target / "elk/0.png", target / "elk/copy.png")
    status = study.dvc("status").stdout
    assert "prepare@target" in status
    assert "prepare@source" not in status
    assert study.repro("prepare@target") == {"compose", "prepare@target"}
    assert study.repro("prepare@target") == set()
    (target / "elk/copy.png").rename(target / "elk/renamed.png")
    assert "prepare@target" in study.repro("prepare@target")
    Image.new("RGB", (30, 30), (1, 2, 3)).save(target / "elk/renamed.png")
    assert "prepare@target" in study.repro("prepare@target")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["params.yaml", "exp run", "the experiment"])
def test_the_advice_against_keeping_a_head_of_other_classes_works(way, study):
    params, mine = study.root / "params.yaml", study.root / "conf/experiment/mine.yaml"
    if way == "exp run":  # an edit that is not committed stays, also one of the same key
        replace(params, "{head: null}", "{head: reset}")
        replace(params, "seeds: null", "seeds: [1]")
    before = params.read_text()
    if way == "the experiment":
        mine.write_text(mine.read_text() + "weights: {head: keep}\n")
        refused = study.dvc("repro", check=False)
    elif way == "params.yaml":
        replace(params, "{head: null}", "{head: keep}")
        refused = study.dvc("repro", check=False)
    else:
        # A cold Python, as users have it: a fork of the warm one is no child of DVC.
        cold = Study(study.root, Path(sys.executable))
        refused = cold.dvc("exp", "run", "-S", "weights.head=keep", check=False)
        assert params.read_text() == before
    file = "conf/experiment/mine.yaml" if way == "the experiment" else "params.yaml"
    assert refused.returncode != 0
    assert ran(refused.stdout) == {"compose"}
    assert f"frostline: error: {file}: arm zero_shot: weights.head: found keep for " in refused.stdout
    advice = re.search(r"set (weights\.head=(\w+))$", refused.stdout, re.M)
    if way == "exp run":
        output = study.dvc("exp", "run", "-S", advice[1], "compose").stdout
    else:
        path = mine if way == "the experiment" else params
        replace(path, "{head: keep}", f"{{head: {advice[2]}}}")
        output = study.dvc("repro", "compose").stdout
    assert "zero_shot is omitted, since the weights' head is not used" in output
    assert study.resolved("finetune-full")["weights"]["head"] == "reset"
    assert study.resolved("finetune-scratch")["weights"] == {"kind": "none"}


def test_a_folder_that_dvc_does_not_watch_is_refused_and_the_advice_works(study):
    mine = study.root / "conf/experiment/mine.yaml"
    mine.write_text(mine.read_text() + "dataset: {root: ../my target}\n")
    watch(study, "../my source", PACKAGES)
    said = study.dvc("repro", "compose", check=False).stdout
    assert (
        "params.yaml: data.target: found 'requirements.lock', but dataset.root is '../my target', where DVC"
        " would not see a change; set data.target: ../my target," in said
    )
    key, folder = re.search(r"set data\.(\w+): (.*?),", said).groups()
    params = yaml.safe_load((study.root / "params.yaml").read_text())
    watch(study, *({**params["data"], key: folder}.values()))
    assert "compose" in study.repro("compose")
