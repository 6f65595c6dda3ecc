"""A plan in numbers, on a network of three layers that can be counted by hand."""

import pytest
from torch import nn

from frostline.core import freeze, outline
from frostline.core.layers import layers_of
from frostline.core.rates import Curve
from frostline.models.mlp import Mlp
from frostline.schema import Freeze


@pytest.fixture
def network() -> nn.Module:
    """4 → 3 → 2 → 5: 15, 8 and 15 parameters."""
    return Mlp(4, [3, 2], 5)


def outlined(network, phases, epochs=10, steps=5, lr=0.1, curve=None, groups=None):
    groups = groups or {"head": "head", "rest": "*"}
    schedule = Freeze.model_validate({"groups": groups, "phases": phases})
    plan = freeze.plan(schedule, layers_of(network), curve or Curve("constant"), epochs, steps)
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    return outline.groups(plan, sizes), outline.phases(plan, sizes, lr)


def test_groups_and_what_trains(network):
    phases = [{"train": ["head"], "until": "20%"}, {"train": "all", "until": "end", "lr": {"rest": 0.5}}]
    groups, (first, second) = outlined(network, phases)
    assert [(g.name, g.parameters, g.share) for g in groups] == [("head", 15, 15 / 38), ("rest", 23, 23 / 38)]
    assert (first.trains, first.parameters, first.share) == (("head",), 15, 15 / 38)
    assert (first.first_step, first.steps, first.epochs, first.ends) == (0, 10, 2.0, "on time")
    assert (second.first_step, second.steps, second.epochs, second.parameters) == (10, 40, 8.0, 38)
    assert first.rates == {"head": ((0.1, 0.1),) * 3}
    assert second.rates == {"head": ((0.1, 0.1),) * 3, "rest": ((0.05, 0.05),) * 3}


def test_rates_follow_the_curve_and_the_depth(network):
    phases = [{"train": "all", "until": "end", "lr": {"layer_decay": 0.5}}]
    _, (phase,) = outlined(network, phases, epochs=1, steps=11, curve=Curve("linear", final=0.0))
    first, middle, last = phase.rates["rest"]
    assert first == pytest.approx((0.025, 0.05))
    assert middle == pytest.approx((0.025 * 6 / 11, 0.05 * 6 / 11))
    assert last == pytest.approx((0.025 / 11, 0.05 / 11))
    assert phase.rates["head"][0] == pytest.approx((0.1, 0.1))


def test_how_a_phase_ends_is_said(network):
    until = {"plateau": "val/loss", "patience": 1, "max": "50%"}
    phases = [{"train": ["head"], "until": until, "restore": "best"}, {"train": "all", "until": "end"}]
    _, (first, _) = outlined(network, phases)
    assert first.ends == "early if val/loss stalls for an epoch, and goes back to its best"
    assert first.steps == 25


def test_batch_norm_is_told_from_none():
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    phases = [
        {"train": ["head"], "until": "20%"},
        {"train": "all", "until": "20%"},
        {"train": "all", "until": "end", "bn": "eval"},
    ]
    _, found = outlined(network, phases)
    assert [phase.batch_norm for phase in found] == ["none", "moves", "eval"]


def test_nothing_trains(network):
    groups, phases = outlined(network, [], groups={"all": "*"})
    assert phases == []
    assert [group.parameters for group in groups] == [38]
