import copy

import pytest
import timm
import torch
from torch import nn

from frostline.console.errors import FrostlineError
from frostline.freezing.build import RunLength, build_plan
from frostline.freezing.curves import Curve
from frostline.freezing.layers import layers_of
from frostline.models.mlp import Mlp
from frostline.schema import Freeze
from frostline.training import trainable

GROUPS = {"head": "head", "top": "stage:-1", "rest": "*"}


def planned(model, *phases, groups=GROUPS):
    phases = [{**phase, "until": {"steps": 1}} for phase in phases[:-1]] + [{**phases[-1], "until": "end"}]
    schedule = Freeze.model_validate({"groups": groups, "phases": phases})
    return build_plan(schedule, layers_of(model), Curve("constant"), RunLength(10, 10))


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
    trainable.apply_phase(model, plan, 0)
    expected = {n for n, _ in model.named_buffers() if n.split(".")[0] in moves.split()}
    assert statistics_that_move(model) == expected
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == plan.trained(0)


def test_a_frozen_block_does_not_drop_if_it_shares_a_layer():
    model = timm.create_model("coat_lite_tiny", drop_path_rate=0.5, img_size=32)
    trainable.apply_phase(model, planned(model, {"train": ["head"]}), 0)
    modes = {name: module.training for name, module in model.named_modules() if "drop_path" in name}
    assert len(modes) > 4
    assert not any(modes.values())


def test_a_later_phase_freezes_again_and_forgets_the_gradients():
    model = timm.create_model("test_resnet")
    plan = planned(model, {"train": "all"}, {"train": ["head"]})
    trainable.apply_phase(model, plan, 0)
    model(torch.rand(2, 3, 32, 32)).sum().backward()
    trainable.apply_phase(model, plan, 1)
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"fc.weight", "fc.bias"}
    assert statistics_that_move(model) == set()


def test_what_trains_or_lies_between_frozen_and_trained_layers_is_in_training_mode():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(2, 2)
    )
    plan = planned(model, {"train": ["head"]}, groups={"head": "head", "rest": "*"})
    trainable.apply_phase(model, plan, 0)
    assert [module.training for module in model] == [False, False, True, True, True]


def test_frozen_statistics_stand_still_whoever_calls_train():
    model = timm.create_model("test_resnet")
    plan = planned(model, {"train": ["head"]}, {"train": "all"})
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    trainable.apply_phase(model, plan, 0)
    for call in (model.train, model.eval, model.layer4.train, copy.deepcopy(model).train, model.train):
        call()
        assert not any(norm.training for norm in norms)
    assert model.fc.training
    assert statistics_that_move(copy.deepcopy(model).train()) == set()
    trainable.apply_phase(model, plan, 1)
    assert all(norm.training for norm in norms)
    trainable.apply_phase(model, plan, 0)
    trainable.release(model)
    model.train()
    assert all(norm.training for norm in norms)


def test_recalibrated_statistics_are_those_of_the_images():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3))
    plan = planned(model, {"train": "all", "bn": "recalibrate"}, groups={"all": "*"})
    images = 3 + 2 * torch.randn(64, 2, 4, 4)
    trainable.recalibrate(model, plan, 0, images.split(16))
    norm = model[0]
    assert torch.allclose(norm.running_mean, images.mean((0, 2, 3)), atol=1e-5)
    expected = torch.stack([part.var((0, 2, 3)) for part in images.split(16)]).mean(0)
    assert torch.allclose(norm.running_var, expected, atol=1e-4)
    assert norm.momentum == 0.1
    trainable.apply_phase(model, plan, 0)
    before = norm.running_mean.clone()
    model(images)
    assert torch.equal(norm.running_mean, before)


def test_statistics_of_what_is_frozen_are_not_recalibrated():
    model = timm.create_model("test_resnet")
    plan = planned(model, {"train": ["top"], "bn": "recalibrate"})
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    trainable.recalibrate(model, plan, 0, [torch.rand(4, 3, 32, 32)])
    moved = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert moved == {name for name in before if name.startswith("layer4")}


# ── dropout ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "mlp"])
def test_dropout_before_the_head_can_be_set_and_goes_back(name):
    torch.manual_seed(0)
    model = Mlp(3 * 32**2, [8], 10, dropout=0.1) if name == "mlp" else timm.create_model(name, drop_rate=0.1)
    model.train()
    dropout = trainable.Dropout(model)
    images = torch.rand(2, 3, 32, 32) if name != "test_vit" else torch.rand(2, 3, 160, 160)

    def draws():
        return len({tuple(model(images)[0].tolist()[:3]) for _ in range(3)})

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    dropout.set(0.0, None)
    assert draws() == 1
    dropout.set(0.7, None)
    assert draws() > 1
    dropout.set(None, None)
    rates = {m.p for m in model.modules() if isinstance(m, nn.Dropout)} - {0.0}
    rates |= {model.drop_rate} if isinstance(getattr(model, "drop_rate", None), float) else set()
    assert rates == {0.1}


def test_stochastic_depth_keeps_its_slope():
    model = timm.create_model("resnet18", drop_path_rate=0.2)
    paths = [m for m in model.modules() if type(m).__name__ == "DropPath"]
    before = [m.drop_prob for m in paths]
    dropout = trainable.Dropout(model)
    dropout.set(None, 0.1)
    assert [m.drop_prob for m in paths] == pytest.approx([p / 2 for p in before])
    dropout.set(None, 0.0)
    assert {m.drop_prob for m in paths} == {0.0}
    dropout.set(None, None)
    assert [m.drop_prob for m in paths] == before


def test_what_a_network_lacks_is_refused_by_name():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with pytest.raises(
        FrostlineError, match=r"freeze\.phases\.0\.dropout: this network has none before its head"
    ):
        trainable.Dropout(model).check(planned(model, {"train": "all", "dropout": 0.1}, groups={"a": "*"}))
    model = timm.create_model("test_resnet")
    with pytest.raises(
        FrostlineError, match=r"phases\.0\.drop_path: .* set backbone\.drop_path_rate above 0"
    ):
        trainable.Dropout(model).check(planned(model, {"train": "all", "drop_path": 0.1}))


def test_all_is_frozen():
    model = timm.create_model("test_resnet")
    trainable.freeze_all(model)
    assert not any(p.requires_grad for p in model.parameters())
    assert statistics_that_move(model) == set()
