"""What the documentation rules out, the schema refuses, with advice that works."""

import json
import re

import pytest

from frostline.config import compose
from frostline.console.errors import FrostlineError
from frostline.freezing.curves import build_curve
from frostline.schema import Rate, Run
from frostline.schema.validation import validated
from tests.tiny import run_config

BALANCED = ["loss.class_weights=balanced", "trainer.sampling=balanced"]


@pytest.mark.parametrize("prefix", ["", "pretrain."])
@pytest.mark.parametrize("weights", ["balanced", "{effective: 0.99}"])
def test_classes_are_balanced_once(prefix, weights):
    overrides = [f"{prefix}loss.class_weights={weights}", f"{prefix}trainer.sampling=balanced"]
    with pytest.raises(FrostlineError) as raised:
        compose.experiment(overrides)
    sentence = str(raised.value)
    assert sentence.startswith("pretrain: loss.class_weights=" if prefix else "loss.class_weights=")
    assert "and trainer.sampling=balanced both correct for class imbalance" in sentence
    for advice in re.search(r"set (\S+) or (\S+)$", sentence).groups():
        compose.experiment([*overrides, f"{prefix}{advice}"])


@pytest.mark.parametrize("key", BALANCED)
def test_either_alone_is_fine(key):
    compose.experiment([key])


def test_a_source_may_be_balanced_otherwise_than_its_target():
    compose.experiment(["pretrain.loss.class_weights=balanced", "trainer.sampling=balanced"])


def test_a_resolved_run_is_checked_too():
    data = run_config().model_dump()
    data["loss"]["class_weights"] = "balanced"
    data["trainer"]["sampling"] = "balanced"
    with pytest.raises(FrostlineError, match=r"^finetune\.yaml: loss\.class_weights=balanced and trainer"):
        validated(Run, json.loads(json.dumps(data)), "finetune.yaml")


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "exponential", "one_cycle"])
def test_a_power_is_a_polynomials_alone(kind):
    with pytest.raises(
        FrostlineError, match=f"schedule.power: only polynomial has one, not {kind}; remove it"
    ):
        build_curve(Rate(kind=kind, warmup=0.0, final=0.1, power=2.0))
    build_curve(Rate(kind="polynomial", warmup=0.0, final=0.1, power=2.0))
