import timm
import torch

from frostline.core import freeze
from frostline.core.layers import layers_of
from frostline.core.param_groups import param_groups
from frostline.core.rates import Curve
from frostline.schema import Freeze


def test_every_parameter_is_in_one_named_group_and_vectors_do_not_decay():
    with torch.device("meta"):
        model = timm.create_model("resnet10t", num_classes=3)
    schedule = Freeze.model_validate(
        {"groups": {"head": "head", "rest": "*"}, "phases": [{"train": "all", "until": "end"}]}
    )
    plan = freeze.plan(schedule, layers_of(model), Curve("constant"), 1, 10)
    slots, groups = param_groups(plan, model.named_parameters(), 0.1)
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    assert len({id(p) for g in groups for p in g["params"]}) == len(list(model.parameters()))
    assert [g["name"] for g in groups] == [s.name for s in slots]
    assert len({s.name for s in slots}) == len(slots)
    for group in groups:
        assert all((p.ndim > 1) == (group["weight_decay"] == 0.1) for p in group["params"])
    assert {"head/5", "head/5/no_decay", "rest/0"} <= {s.name for s in slots}
