import json

import pytest
import yaml
from tests.tiny import ALL, PROBE, arm_of, files, run_config, tensors

from frostline.console.errors import FrostlineError
from frostline.models import weights
from frostline.models.backbones import build
from frostline.models.initial_weights import NO_WEIGHTS
from frostline.models.pretrained import input_spec
from frostline.pipeline.finetune.stage import finetune
from frostline.training.services import Services


@pytest.fixture(scope="module")
def arm(digits, tmp_path_factory):
    """An arm of three seeds."""
    folder = tmp_path_factory.mktemp("arm")
    config = run_config({"arm": "full"})
    finetune(
        arm_of(config, (0, 1, 7)),
        digits,
        folder / "out",
        Services(folder / "scratch"),
        folder / "timing.json",
    )
    return folder


def test_an_arm_leaves_a_folder_a_seed(arm):
    names = ("config.yaml", "history.csv", "training.json", "weights.safetensors")
    assert list(files(arm / "out")) == [f"seed-{seed}/{name}" for seed in (0, 1, 7) for name in names]
    assert list(json.loads((arm / "timing.json").read_text())["seeds"]) == ["0", "1", "7"]
    assert not files(arm / "scratch" / "resume")
    config = yaml.safe_load((arm / "out" / "seed-7" / "config.yaml").read_text())
    assert config == {**run_config({"arm": "full"}).model_dump(), "seed": 7}


def test_each_seed_draws_its_own_weights_images_and_order(arm):
    outs = files(arm / "out")
    assert len({outs[f"seed-{seed}/history.csv"] for seed in (0, 1, 7)}) == 3


def test_a_seed_does_not_depend_on_the_others(arm, digits, tmp_path):
    finetune(arm_of(run_config({"arm": "full"}), [7]), digits, tmp_path / "out", Services(tmp_path))
    alone = files(tmp_path / "out")
    assert alone == {name: content for name, content in files(arm / "out").items() if name in alone}


def test_a_linear_probe_leaves_the_body_as_it_was(digits, tmp_path):
    config = run_config({"freeze": PROBE})
    finetune(arm_of(config), digits, tmp_path / "out", Services(tmp_path))
    spec = input_spec(config.backbone, NO_WEIGHTS, config.input)
    start = tensors(build(config.backbone, spec, 10, seed=0))
    trained, _ = weights.load(tmp_path / "out" / "seed-0" / "weights.safetensors")
    moved = {name for name in start if not (trained[name] == start[name]).all()}
    assert moved == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"freeze": {**ALL, "groups": {"head": "haed", "rest": "*"}}},
            "freeze.groups.head: no layers are called 'haed'; did you mean 'head'?",
        ),
        (
            {"freeze": {**ALL, "groups": {"stem": "stem", "rest": "*"}}},
            "freeze.groups.stem: 'stem' matches no parameter of this network",
        ),
        ({"dataset": {"shots": 500}}, "dataset.shots=500: class '8' has only 104 training images"),
        (
            {"weights": {"kind": "pretrain", "path": None, "head": "keep"}},
            "weights.path: give the weights.safetensors",
        ),
        (
            {"weights": {"kind": "file", "path": "no.pth", "head": "keep"}},
            "weights.path: no.pth is not a file",
        ),
        ({"optimizer": {"name": "adamx"}}, "optimizer.name: no optimizer 'adamx'"),
        (
            {"optimizer": {"options": {"betas": [2.0, 2.0]}}},
            "optimizer: adamw can't be made with the options",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence_before_any_training(changes, message, digits, tmp_path):
    with pytest.raises(FrostlineError) as caught:
        finetune(arm_of(run_config(changes)), digits, tmp_path / "out", Services(tmp_path))
    assert str(caught.value).startswith(message)
    assert not files(tmp_path / "resume")
    assert not (tmp_path / "out").exists()
