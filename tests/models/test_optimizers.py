import pytest
import torch
from tests.tiny import SGD, run_config
from timm.optim import get_optimizer_info, list_optimizers
from torch import nn

from frostline.console.errors import FrostlineError
from frostline.models.mlp import Mlp
from frostline.models.optimizers import make_optimizer


def optimizer(**changes):
    return run_config({"optimizer": changes}).optimizer


def made(config):
    network = nn.Linear(3, 2)
    return make_optimizer(
        config, [{"params": list(network.parameters()), "name": "all", "weight_decay": 0.0}]
    )


@pytest.mark.parametrize(
    ("changes", "kind", "settings"),
    [
        ({"name": "adam"}, torch.optim.Adam, {"betas": (0.9, 0.999), "weight_decay": 0.0}),
        ({"name": "adamw", "options": {"betas": [0.8, 0.9]}}, torch.optim.AdamW, {"betas": (0.8, 0.9)}),
        (SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ({"name": "rmsprop", "options": {"alpha": 0.5}}, torch.optim.RMSprop, {"alpha": 0.5}),
    ],
)
def test_an_optimizer_is_torchs_with_its_settings(changes, kind, settings):
    optimizer_ = made(optimizer(**changes))
    assert isinstance(optimizer_, kind)
    group = optimizer_.param_groups[0]
    assert {name: group[name] for name in settings} == settings
    assert group["lr"] == 0.01
    assert group["name"] == "all"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "adamq"}, "optimizer.name: no optimizer 'adamq'; did you mean 'adam"),
        ({"name": "adahessian"}, "optimizer.name: adahessian needs second derivatives; choose another"),
        ({"momentum": 0.9}, "optimizer.momentum: adamw has none; set optimizer.momentum=null"),
        (
            {"options": {"beta": 1}},
            "optimizer: adamw can't be made with the options {'beta': 1} (",
        ),
    ],
)
def test_an_optimizer_that_can_not_be_made_is_one_sentence(changes, message):
    with pytest.raises(FrostlineError) as caught:
        made(optimizer(**changes))
    assert str(caught.value).startswith(message)


NOT_HERE = ("bnb", "fused", "kron")
"""Those of a GPU, and one that takes seconds to import a compiler."""


@pytest.mark.parametrize(
    "name",
    [n for n in list_optimizers() if not n.startswith(NOT_HERE) and not get_optimizer_info(n).second_order],
)
def test_every_optimizer_of_timm_moves_what_trains_and_nothing_else(name):
    torch.manual_seed(0)
    network = Mlp(8, [6, 5], 3)
    network.hidden[0].requires_grad_(False)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    groups = [
        {"params": list(network.hidden[0].parameters()), "weight_decay": 0.1},
        {"params": [*network.hidden[1].parameters(), *network.head.parameters()], "weight_decay": 0.1},
    ]
    optimizer_ = make_optimizer(optimizer(name=name), groups)
    for _ in range(2):
        optimizer_.zero_grad()
        network(torch.randn(5, 1, 2, 4)).square().sum().backward()
        optimizer_.step()
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"hidden.1.weight", "hidden.1.bias", "head.weight", "head.bias"}
