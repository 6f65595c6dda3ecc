"""The ready freeze schedules: each fits the ready backbones, and is what its source says."""

import itertools
from functools import cache

import pytest
import timm
import torch

from frostline.freezing.build import RunLength, build_plan
from frostline.freezing.curves import Curve
from frostline.freezing.layers import layers_of
from frostline.models.mlp import Mlp
from frostline.training.schedules import load
from tests.imports import SRC
from tests.tiny import total_steps

NAMES = sorted(path.stem for path in (SRC.parent / "conf" / "freeze").glob("*.yaml"))
MODELS = [
    "resnet10t",
    "resnet18",
    "tf_efficientnet_lite0",
    "vit_tiny_patch16_224",
    "convnext_atto",
    "swin_tiny_patch4_window7_224",
]
EPOCHS, STEPS = 20, 10


@cache
def layers(name):
    with torch.device("meta"):
        return layers_of(timm.create_model(name, num_classes=3))


def planned(schedule, model="resnet18"):
    return build_plan(load(schedule), layers(model), Curve("constant"), RunLength(EPOCHS, STEPS))


def trained(plan, step):
    """What trains at `step` if every phase takes its budget, and the rates of stem, stages and head."""
    starts = ()
    for now in range(step + 1):
        starts = plan.advanced(starts, now)
    group_of = plan.group_of()
    return {
        name: plan.lr_factor(starts, step, group_of[name], place.depth)
        for name, place in plan.layers.places.items()
        if name in plan.trained(len(starts) - 1)
    }


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", NAMES)
def test_every_schedule_fits_every_family(name, model):
    plan = planned(name, model)
    assert not plan.phases or total_steps(plan) == EPOCHS * STEPS
    heads = plan.layers.match("head")
    assert name == "zero_shot" or any(heads & plan.trained(i) for i in range(len(plan.phases)))


@pytest.mark.parametrize("name", sorted({*NAMES} - {"fastai_fine_tune", "norm_only"}))
def test_most_fit_a_network_without_norms(name):
    build_plan(load(name), layers_of(Mlp(8, [6, 5, 4, 3], 2)), Curve("constant"), RunLength(EPOCHS, STEPS))


def test_lp_ft_probes_then_tunes_at_a_tenth():
    plan = planned("lp_ft")
    assert trained(plan, 0) == {"fc.weight": 1.0, "fc.bias": 1.0}
    assert plan.phases[0].restore
    assert set(trained(plan, 199).values()) == {0.1}
    assert trained(plan, 199).keys() == plan.layers.parameters


def test_fastais_fine_tune_has_its_rates_and_momenta():
    plan = planned("fastai_fine_tune")
    first, last = trained(plan, 0), trained(plan, 10)
    norms = plan.layers.match("norm") & plan.layers.parameters
    assert first.keys() == {"fc.weight", "fc.bias"} | norms
    assert first["fc.weight"] == pytest.approx(1 / 25)
    assert first["bn1.weight"] == pytest.approx(1 / 250)
    # base_lr / 2, over div = 5 at the start; the body at a hundredth.
    assert last["fc.weight"] == pytest.approx(1 / 2 / 5)
    assert last["conv1.weight"] == last["bn1.weight"] == pytest.approx(1 / 2 / 5 / 100)
    at_the_top = trained(plan, 10 + int(0.3 * 190))
    assert at_the_top["fc.weight"] == pytest.approx(1 / 2)
    assert plan.momentum((0, 10), 10) == 0.95
    assert plan.momentum((0, 10), 10 + int(0.3 * 190)) == pytest.approx(0.85)


def test_chain_thaw_trains_one_part_after_the_other():
    plan = planned("chain_thaw")
    parts = [phase.train for phase in plan.phases]
    assert parts[0] == ("head",)
    assert list(parts[1:-1]) == [("input",), ("early",), ("middle",), ("last",)]
    assert set(parts[-1]) == set(plan.groups)
    assert "conv1.weight" in trained(plan, 45)
    assert not any("layer2" in name for name in trained(plan, 45))


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("surgical", "stage:0"),
        ("bitfit", "bias"),
        ("norm_only", "norm"),
        ("top_k", "stage:-2.."),
    ],
)
def test_one_part_beside_the_head(name, pattern):
    plan = planned(name)
    expected = plan.layers.match("head") | plan.layers.match(pattern)
    assert plan.trained(0) == expected & plan.layers.parameters
    assert len(plan.phases) == 1


def test_layer_decay_counts_layers_from_the_head():
    plan = planned("layer_decay")
    rates = trained(plan, 20)
    assert rates["fc.weight"] == pytest.approx(1.0)
    assert rates["layer4.1.conv1.weight"] == pytest.approx(0.75)
    assert rates["conv1.weight"] == pytest.approx(0.75**9)


def test_bits_rate_falls_tenfold_at_40_60_and_80_per_cent():
    plan = planned("bit_hyperrule")
    rate = [set(trained(plan, step).values()).pop() for step in range(200)]
    assert rate[0] == pytest.approx(1 / 40)
    assert [rate[step] for step in (39, 79, 80, 119, 120, 159, 160, 199)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )


def test_discriminative_rates_fall_by_ulmfits_factor():
    rates = trained(planned("discriminative"), 19)
    parts = [
        rates[name]
        for name in ("fc.weight", "layer4.0.conv1.weight", "layer3.0.conv1.weight", "conv1.weight")
    ]
    assert [a / b for a, b in itertools.pairwise(parts)] == pytest.approx([2.6] * 3, rel=0.01)
