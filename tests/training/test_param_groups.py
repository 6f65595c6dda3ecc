import pytest
import timm
import torch
from torch import nn

from frostline.console.errors import FrostlineError
from frostline.freezing.build import RunLength, build_plan
from frostline.freezing.curves import Curve
from frostline.freezing.layers import layers_of
from frostline.schema import Freeze
from frostline.training.param_groups import by_decay, check_options, split


def planned(model, **phase):
    schedule = {
        "groups": {"head": "head", "rest": "*"},
        "phases": [{"train": "all", "until": "end", **phase}],
    }
    return build_plan(Freeze.model_validate(schedule), layers_of(model), Curve("constant"), RunLength(1, 10))


@pytest.fixture(scope="module")
def model():
    with torch.device("meta"):
        return timm.create_model("resnet10t", num_classes=3)


def test_every_parameter_is_in_one_named_group_and_vectors_do_not_decay(model):
    plan = planned(model, lr={"rest": 0.1})
    optimizer = torch.optim.AdamW(by_decay(plan.layers, model, 0.1), lr=0.5)
    slots, groups = split(plan, model, optimizer.param_groups)
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    assert len({id(p) for g in groups for p in g["params"]}) == len(list(model.parameters()))
    assert [g["name"] for g in groups] == [s.name for s in slots]
    assert len({s.name for s in slots}) == len(slots)
    for slot, group in zip(slots, groups, strict=True):
        assert all(
            (p.ndim > 1) == (group["weight_decay"] == 0.1) == slot.has_weight_decay for p in group["params"]
        )
        assert (group["lr"], group["betas"]) == (0.5, (0.9, 0.999))
    assert {s.name for s in slots} == {"head", "head/no_decay", "rest", "rest/no_decay"}


@pytest.mark.parametrize(
    ("phases", "decay", "groups"),
    [
        ([{"train": "all"}], 0.0, 1),
        ([{"train": "all"}], 0.1, 2),
        ([{"train": "all", "weight_decay": 0.1}], 0.0, 2),
        ([{"train": "all", "optimizer": {"head": {"eps": 1e-6}}}], 0.0, 2),
        ([{"train": "all"}, {"train": ["head"]}], 0.0, 2),
        ([{"train": "all", "lr": {"head": 2.0}}, {"train": "all"}], 0.1, 4),
    ],
)
def test_what_no_phase_tells_apart_is_one_group(phases, decay, groups, model):
    ends = [{"steps": 1}] * (len(phases) - 1) + ["end"]
    schedule = {
        "groups": {"head": "head", "rest": "*"},
        "phases": [{**phase, "until": end} for phase, end in zip(phases, ends, strict=True)],
    }
    plan = build_plan(Freeze.model_validate(schedule), layers_of(model), Curve("constant"), RunLength(1, 10))
    optimizer = torch.optim.AdamW(by_decay(plan.layers, model, decay))
    slots, found = split(plan, model, optimizer.param_groups)
    assert len(slots) == len(found) == groups
    assert sum(len(group["params"]) for group in found) == len(list(model.parameters()))


def test_each_layer_is_in_a_group_of_its_own_where_rates_fall_from_layer_to_layer(model):
    plan = planned(model, lr={"layer_decay": 0.5})
    slots, groups = split(plan, model, by_decay(plan.layers, model, 0.1))
    assert {"head/5", "head/5/no_decay", "rest/0", "rest/4"} <= {group["name"] for group in groups}
    places = plan.layers.places
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for slot, group in zip(slots, groups, strict=True):
        assert {places[names[id(p)]].depth for p in group["params"]} == {slot.depth}


def test_what_the_network_names_does_not_decay_either():
    with torch.device("meta"):
        vit = timm.create_model("test_vit", num_classes=3)
    plan = planned(vit)
    slots, groups = split(plan, vit, by_decay(plan.layers, vit, 0.1))
    still = set()
    for slot, group in zip(slots, groups, strict=True):
        assert slot.has_weight_decay == (group["weight_decay"] == 0.1)
        still |= {id(p) for p in group["params"] if not slot.has_weight_decay}
    assert {id(vit.pos_embed), id(vit.cls_token)} <= still
    assert id(vit.head.weight) not in still


def test_what_the_user_set_apart_stays_apart(model):
    """Two groups of an optimizer with rates of their own, in the same layer."""
    plan = planned(model)
    weight, bias = model.fc.weight, model.fc.bias
    rest = [p for p in model.parameters() if p is not weight and p is not bias]
    extra = nn.Parameter(torch.zeros(2))
    given = [
        {"params": [weight], "lr": 1.0},
        {"params": [bias, *rest], "lr": 2.0},
        {"params": [extra], "lr": 3.0},
    ]
    slots, groups = split(plan, model, given)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert (rates[id(weight)], rates[id(bias)], rates[id(extra)]) == (1.0, 2.0, 3.0)
    assert slots[-1] is None
    assert len({group["name"] for group in groups}) == len(groups)


def test_an_optimizer_of_less_than_all_is_refused(model):
    with pytest.raises(
        FrostlineError, match=r"the optimizer lacks \d+ of the network's parameters, such as conv1\.0\.weight"
    ):
        split(planned(model), model, [{"params": list(model.fc.parameters())}])


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        (
            {"optimizer": {"head": {"momentun": 0.1}}},
            r"0\.optimizer\.head: the optimizer has no 'momentun'; did you",
        ),
        (
            {"optimizer": {"head": {"momentum": "x"}}},
            r"0\.optimizer\.head\.momentum: found 'x'; give something like",
        ),
        ({"optimizer": {"haed": {}}}, r"0\.optimizer: no group 'haed'; did you mean 'head'"),
        (
            {"optimizer": {"head": {"lr": 1.0}}},
            r"0\.optimizer\.head\.lr: not an option of an optimizer group; set it in the phase's lr",
        ),
        (
            {"schedule": {"kind": "cosine", "warmup": 0.0, "final": 0.0, "momentum": [0.9, 0.8]}},
            "only one_cycle changes it, not cosine",
        ),
    ],
)
def test_settings_that_the_optimizer_does_not_have_are_refused(model, phase, message):
    group = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9).param_groups[0]
    with pytest.raises(FrostlineError, match=message):
        check_options(planned(model, **phase), group)


def test_settings_that_it_has_are_taken(model):
    phase = {"optimizer": {"head": {"betas": [0.8, 0.99], "amsgrad": True, "eps": 1}}, "weight_decay": 0.1}
    check_options(planned(model, **phase), torch.optim.AdamW(model.parameters()).param_groups[0])
