"""A plan in numbers, on a network of three layers that can be counted by hand."""

import pytest
import torch
from tests.tiny import total_steps
from torch import nn

from frostline.features.split_point import NetworkSplit, NoSplit
from frostline.freezing.build import RunLength, build_plan
from frostline.freezing.curves import Curve
from frostline.freezing.layers import layers_of
from frostline.models.mlp import Mlp
from frostline.planning import outline
from frostline.planning.cost import Cost
from frostline.schema import Freeze


@pytest.fixture
def network() -> nn.Module:
    """4 → 3 → 2 → 5: 15, 8 and 15 parameters."""
    return Mlp(4, [3, 2], 5)


def made(network, phases, epochs=10, steps=5, curve=None, groups=None):
    groups = groups or {"head": "head", "rest": "*"}
    schedule = Freeze.model_validate({"groups": groups, "phases": phases})
    curve = curve or Curve("constant")
    length = RunLength(epochs, steps, lambda batch: epochs * steps // batch)
    return build_plan(schedule, layers_of(network), curve, length)


def sizes(network):
    return {name: parameter.numel() for name, parameter in network.named_parameters()}


def outlined(network, phases, lr=0.1, costs=None, cuts=None, views=1, **arguments):
    plan = made(network, phases, **arguments)
    costs, cuts = costs or [None] * len(phases), cuts or [None] * len(phases)
    executions = [outline.PhaseExecution(cost, cut, views) for cost, cut in zip(costs, cuts, strict=True)]
    counts = sizes(network)
    return outline.groups(plan, counts), outline.phases(plan, counts, lr, 20, executions)


def test_groups_and_what_trains(network):
    phases = [{"train": ["head"], "until": "20%"}, {"train": "all", "until": "end", "lr": {"rest": 0.5}}]
    groups, (first, second) = outlined(network, phases)
    assert [(g.name, g.parameters, g.share) for g in groups] == [("head", 15, 15 / 38), ("rest", 23, 23 / 38)]
    assert (first.trains, first.parameters, first.share) == (("head",), 15, 15 / 38)
    assert (first.first_step, first.steps, first.first_epoch, first.epochs) == (0, 10, 0.0, 2.0)
    assert (first.ends, first.gradients, first.batch_size) == ("on time", 60, 20)
    assert (second.first_step, second.steps, second.first_epoch, second.epochs) == (10, 40, 2.0, 8.0)
    assert second.parameters == 38
    assert first.rates == {"head": ((0.1, 0.1),) * 3}
    assert second.rates == {"head": ((0.1, 0.1),) * 3, "rest": ((0.05, 0.05),) * 3}


def test_sections_go_from_the_input_to_the_head(network):
    plan = made(network, [], groups={"biases": "bias", "head": "head", "rest": "*"})
    sections = outline.sections(plan, sizes(network))
    assert [(section.name, section.groups) for section in sections] == [
        ("stage:0", {"rest": 12, "biases": 3}),
        ("stage:1", {"rest": 6, "biases": 2}),
        ("head", {"head": 10, "biases": 5}),
    ]


def test_rates_follow_the_curve_and_the_depth(network):
    phases = [{"train": "all", "until": "end", "lr": {"layer_decay": 0.5}}]
    _, (phase,) = outlined(network, phases, epochs=1, steps=11, curve=Curve("linear", final=0.0))
    first, middle, last = phase.rates["rest"]
    assert first == pytest.approx((0.025, 0.05))
    assert middle == pytest.approx((0.025 * 6 / 11, 0.05 * 6 / 11))
    assert last == pytest.approx((0.025 / 11, 0.05 / 11))
    assert phase.rates["head"][0] == pytest.approx((0.1, 0.1))


def test_the_course_of_the_rates_keeps_its_corner(network):
    phases = [{"train": ["head"], "until": "50%"}, {"train": ["head"], "until": "end"}]
    curve = Curve("linear", warmup=0.1, final=0.0)
    _, (_, second) = outlined(network, phases, epochs=20, steps=1000, curve=curve)
    steps, rates = second.course.steps, second.course.rates["head"]
    assert (steps[0], steps[-1]) == (10_000, 19_999)
    assert len(steps) == len(rates) <= 2 * outline.COURSE_POINTS
    assert max(rates) == rates[steps.index(11_000)] == (0.1, 0.1)
    assert rates[steps.index(10_999)] == (0.1, 0.1)
    _, (single,) = outlined(network, phases[1:], epochs=1, steps=1, curve=curve)
    assert single.course.steps == (0,)


def test_how_a_phase_ends_is_said(network):
    until = {"plateau": "val/loss", "patience": 1, "max": "50%"}
    phases = [{"train": ["head"], "until": until, "restore": "best"}, {"train": "all", "until": "end"}]
    _, (first, _) = outlined(network, phases)
    assert first.ends == "early if val/loss stalls for an epoch, and restores its best epoch"
    assert first.steps == 25


@pytest.mark.parametrize(
    ("before", "longest", "patience", "early"),
    [
        (None, {"epochs": 4}, 2, True),  # 1 sets the mark, 2 and 3 may miss it
        (None, {"epochs": 4}, 3, False),  # 4 misses it too, but ends the phase anyway
        (None, {"epochs": 4}, 5, False),
        (None, {"epochs": 2.4}, 1, True),
        (None, {"epochs": 2.4}, 2, False),
        (None, {"steps": 4}, 1, False),
        ({"epochs": 2}, {"epochs": 3}, 2, False),
        ({"epochs": 1.6}, {"epochs": 3}, 2, True),  # three epochs end in it
        ({"epochs": 1.6}, {"epochs": 3}, 3, False),
    ],
)
def test_a_plateau_that_is_over_no_sooner_than_its_phase_is_said(network, before, longest, patience, early):
    until = {"plateau": "val/loss", "patience": patience, "max": longest}
    phases = [{"train": ["head"], "until": until}, {"train": "all", "until": "end"}]
    if before:
        phases.insert(0, {"train": ["head"], "until": before})
    *_, said, _ = (phase.ends for phase in outlined(network, phases)[1])
    patience = "an epoch" if patience == 1 else f"{patience} epochs"
    late = f"on time, since its patience of {patience} is too long to end it early"
    assert said == (f"early if val/loss stalls for {patience}" if early else late)
    plan = made(network, phases)
    starts = of_a_run_that_learns_nothing(plan)
    assert (starts[-1] < plan.phase_end(starts[:-1])) == early


def of_a_run_that_learns_nothing(plan):
    """The steps at which its phases begin."""
    starts, losses = (), []
    for step in range(total_steps(plan)):
        rule = plan.phases[len(starts) - 1].early_stop if starts else None
        now = plan.advanced(starts, step, rule is not None and rule.reached(losses))
        if now != starts:
            starts, losses = now, []
        if (step + 1) % plan.steps_per_epoch == 0:
            losses.append(1.0)
    return starts


def test_a_phase_may_have_batches_of_its_own(network):
    phases = [{"train": ["head"], "until": "50%"}, {"train": "all", "until": "end", "batch_size": 10}]
    _, (first, second) = outlined(network, phases)
    assert (first.batch_size, first.steps, first.epochs) == (20, 25, 5.0)
    assert (second.batch_size, second.steps, second.first_epoch, second.epochs) == (10, 25, 5.0, 5.0)


def test_each_phase_has_its_cost(network):
    phases = [{"train": ["head"], "until": "20%"}, {"train": "all", "until": "end"}]
    cost = Cost(forward=1, backward=2, activations=3)
    _, (first, second) = outlined(network, phases, costs=[None, cost])
    assert (first.cost, second.cost) == (None, cost)


def test_each_phase_has_the_sections_that_run_once(network):
    phases = [{"train": ["head"], "until": "20%"}] * 2 + [{"train": "all", "until": "end"}]
    prefix = frozenset(name for name in sizes(network) if name.startswith("hidden"))
    cut = NetworkSplit(network, "head", "input", (2,), torch.float32, 36, prefix, torch.zeros(1, 4), ())
    _, (first, second, third) = outlined(network, phases, cuts=[cut, NoSplit("it trains"), None], views=4)
    assert first.features == outline.FeaturesOutline("head:input", (2,), 8, 4, ("stage:0", "stage:1"))
    assert (second.features, third.features) == (None, None)
    assert [phase.whole for phase in (first, second, third)] == [None, "it trains", None]


def test_batch_norm_is_distinguished_from_none():
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    phases = [
        {"train": ["head"], "until": "20%"},
        {"train": "all", "until": "20%"},
        {"train": "all", "until": "20%", "bn": "recalibrate"},
        {"train": "all", "until": "end", "bn": "eval"},
    ]
    _, outlines = outlined(network, phases)
    assert [phase.batch_norm for phase in outlines] == ["none", "moves", "recalibrate", "eval"]


def test_nothing_trains(network):
    groups, phases = outlined(network, [], groups={"all": "*"})
    assert phases == []
    assert [group.parameters for group in groups] == [38]
