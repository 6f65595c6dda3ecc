"""Bad inputs 36 to 43: weights and configs, each through the stage or door that meets it first.

tests/data/reading/test_bad_inputs.py has the images; 44 to 46, which end a running process, are in
tests/training/test_run.py. No case here trains: the sentence comes before.
"""

import pickle
from pathlib import Path

import pytest
import torch
from tests.tiny import RESNET, arm_of, files, run_config

from frostline.config import compose
from frostline.console.errors import FrostlineError
from frostline.models import weights
from frostline.models.backbones import build
from frostline.models.initial_weights import NO_WEIGHTS
from frostline.models.pretrained import input_spec, weights_metadata
from frostline.pipeline.compose.stage import check_run
from frostline.pipeline.finetune.stage import finetune
from frostline.training.services import Services


class Payload:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


def frostlines(path, classes=7):
    """Weights of the tiny network, for another number of classes."""
    config = run_config()
    spec = input_spec(config.backbone, NO_WEIGHTS, config.input)
    names = tuple(map(str, range(classes)))
    network = build(config.backbone, spec, classes, seed=0)
    weights.save(path, network.state_dict(), weights_metadata(spec, names, config.backbone))


def bare(path):
    """The same without frostline's notes."""
    config = run_config()
    spec = input_spec(config.backbone, NO_WEIGHTS, config.input)
    weights.save(path, build(config.backbone, spec, 7, seed=0).state_dict(), {})


def truncated(path):
    frostlines(path, classes=10)
    path.write_bytes(path.read_bytes()[:-100])


def headless(path):
    """A safetensors cut inside its header."""
    frostlines(path, classes=10)
    path.write_bytes(path.read_bytes()[:20])


def evil(path):
    torch.save({"w": Payload(path.with_name("executed"))}, path)


def evil_and_named_safe(path):
    path.write_bytes(pickle.dumps(Payload(path.with_name("executed"))))


def not_a_state(path):
    torch.save([1, 2, 3], path)


@pytest.mark.parametrize(
    ("number", "name", "make", "changes", "sentence"),
    [
        (
            36,
            "w.safetensors",
            frostlines,
            {},
            "but the classes differ: only the data set has '7', '8', '9'; a head can be kept for the same",
        ),
        (
            36,
            "w.safetensors",
            bare,
            {},
            "weights.head: the weights' head has 7 outputs, the data set 10 classes;",
        ),
        (37, "w.safetensors", frostlines, {"backbone": RESNET}, "none of its 4 keys is in the network"),
        (38, "w.safetensors", truncated, {}, "w.safetensors is damaged ("),
        (38, "w.safetensors", headless, {}, "w.safetensors is damaged ("),
        (39, "w.pth", evil, {}, "holds more than tensors, or is damaged, and was not executed"),
        (39, "w.safetensors", evil_and_named_safe, {}, "w.safetensors is damaged ("),
        (39, "w.pth", not_a_state, {}, "is not a state dict; save the model's state_dict()"),
    ],
)
def test_bad_weights(number, name, make, changes, sentence, digits, tmp_path):
    path = tmp_path / name
    make(path)
    head = "reset" if number == 37 else "keep"
    config = run_config({**changes, "weights": {"kind": "file", "path": str(path), "head": head}})
    with pytest.raises(FrostlineError) as caught:
        finetune(arm_of(config), digits, tmp_path / "out", Services(tmp_path / "scratch"))
    said = str(caught.value)
    assert sentence in said
    assert name in said or number == 36
    assert "\n" not in said
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "out").exists()
    assert not [f for f in files(tmp_path) if f.startswith("scratch/resume")]


def test_36_a_head_of_another_size_is_taken_when_it_is_reset(digits, tmp_path):
    frostlines(tmp_path / "w.safetensors")
    weights = {"kind": "file", "path": str(tmp_path / "w.safetensors"), "head": "reset"}
    finetune(
        arm_of(run_config({"weights": weights})), digits, tmp_path / "out", Services(tmp_path / "scratch")
    )
    assert (tmp_path / "out" / "seed-0" / "weights.safetensors").is_file()


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        (
            {"head": "heda", "rest": "*"},
            "freeze.groups.head: no layers are called 'heda'; did you mean 'head'?",
        ),
        (
            {"top": "stage:9", "rest": "*"},
            "freeze.groups.top: 'stage:9': the network has 4 stages, stage:0 to stage:3",
        ),
        ({"top": "layer4", "rest": "*"}, "freeze.groups.top: no layers are called 'layer4'"),
        (
            {"x": "re:^nothing", "rest": "*"},
            "freeze.groups.x: 're:^nothing' matches no parameter of this network",
        ),
        (
            {"x": ["head", "re:^no"], "rest": "*"},
            "freeze.groups.x: 're:^no' matches no parameter of this network",
        ),
    ],
)
def test_40_and_41_layers_that_are_not_there_are_refused_before_data_is_read(groups, sentence):
    phases = [{"train": "all", "until": "end"}]
    config = run_config({"backbone": RESNET, "arm": "mine", "freeze": {"groups": groups, "phases": phases}})
    with pytest.raises(FrostlineError) as caught:
        check_run(config)
    assert str(caught.value).startswith(sentence)  # compose says whose arm it is


@pytest.mark.parametrize("override", ["seed=range(3,3)", "seed=range(0,3,-1)", "seed=choice()"])
def test_42_an_empty_sweep_is_refused(override):
    with pytest.raises(FrostlineError) as caught:
        compose.multirun([override], lambda *job: pytest.fail("it ran"))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith((f"{override}: an empty sweep; name a value", f"'{override}' is not"))


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optimizer.lrr=1", "optimizer.lrr: unknown key; did you mean 'optimizer.lr'"),
        ("+optimizer.lrr=1", "optimizer.lrr: unknown key; did you mean 'lr'?"),
        ("trainer.epochs=ten", "trainer.epochs: found 'ten', must be a valid integer"),
        ("trainer.epochs=0", "trainer.epochs: found 0, must be greater than or equal to 1"),
    ],
)
def test_43_wrong_keys_types_and_values_are_refused(override, sentence):
    with pytest.raises(FrostlineError) as caught:
        compose.experiment([override])
    assert str(caught.value).startswith(sentence)


def test_the_loss_that_several_labels_need_is_set_as_the_error_says():
    several = ["source=table", "source.file=a.csv", "source.task=multi_label"]
    with pytest.raises(FrostlineError) as caught:
        compose.experiment(several)
    fix = str(caught.value).rpartition("; set ")[2]
    composed, _ = compose.experiment([*several, fix])
    assert composed.pretrain.loss.kind == "bce"
