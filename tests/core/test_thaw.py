import pytest
import timm
import torch
from torch import nn

from frostline.core import freeze, thaw
from frostline.core.layers import layers_of
from frostline.core.rates import Curve
from frostline.schema import Freeze

GROUPS = {"head": "head", "top": "stage:-1", "rest": "*"}


def planned(model, *phases, groups=GROUPS):
    phases = [{**phase, "until": {"steps": 1}} for phase in phases[:-1]] + [{**phases[-1], "until": "end"}]
    schedule = Freeze.model_validate({"groups": groups, "phases": phases})
    return freeze.plan(schedule, layers_of(model), Curve("constant"), 10, 10)


def statistics_that_move(model):
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        model(torch.rand(4, 3, 32, 32))
    return {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}


@pytest.mark.parametrize(
    ("phase", "moves"),
    [
        ({"train": ["head"]}, ""),
        ({"train": ["head", "top"]}, "layer4"),
        ({"train": ["head", "top"], "bn": "eval"}, ""),
        ({"train": ["rest"]}, "bn1 layer1 layer2 layer3 conv1"),
        ({"train": "all"}, "bn1 layer1 layer2 layer3 layer4 conv1"),
    ],
)
def test_statistics_move_in_the_groups_that_train(phase, moves):
    model = timm.create_model("test_resnet")
    plan = planned(model, phase)
    thaw.enter(model, plan, 0)
    expected = {n for n, _ in model.named_buffers() if n.split(".")[0] in moves.split()}
    assert statistics_that_move(model) == expected
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == plan.trained(0)


def test_a_later_phase_freezes_again_and_forgets_the_gradients():
    model = timm.create_model("test_resnet")
    plan = planned(model, {"train": "all"}, {"train": ["head"]})
    thaw.enter(model, plan, 0)
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    thaw.enter(model, plan, 1)
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"fc.weight", "fc.bias"}
    assert statistics_that_move(model) == set()


def test_what_is_not_a_norm_stays_in_training_mode():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(2, 2)
    )
    plan = planned(model, {"train": ["head"]}, groups={"head": "head", "rest": "*"})
    thaw.enter(model, plan, 0)
    assert [module.training for module in model] == [True, False, True, True, True]


def test_all_is_frozen():
    model = timm.create_model("test_resnet")
    thaw.freeze_all(model)
    assert not any(p.requires_grad for p in model.parameters())
    assert statistics_that_move(model) == set()
