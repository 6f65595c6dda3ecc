import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from frostline.core.layers import layers_of
from frostline.errors import FrostlineError
from frostline.models.mlp import Mlp

FAMILIES = {  # model: stages, blocks, a tensor of the head
    "resnet10t": (4, 4, "fc.weight"),
    "resnet18": (4, 8, "fc.weight"),
    "resnext26ts": (4, 8, "head.fc.weight"),
    "regnetx_002": (4, 13, "head.fc.weight"),
    "densenet121": (4, 58, "classifier.weight"),
    "tf_efficientnet_lite0": (7, 16, "classifier.weight"),
    "mobilenetv3_small_100": (6, 12, "classifier.weight"),
    "convnext_atto": (4, 12, "head.fc.weight"),
    "vit_tiny_patch16_224": (12, 12, "head.weight"),
    "deit_tiny_distilled_patch16_224": (12, 12, "head_dist.weight"),
    "swin_tiny_patch4_window7_224": (4, 12, "head.fc.weight"),
    "mixer_s32_224": (8, 8, "head.weight"),
    "dm_nfnet_f0": (4, 12, "head.fc.weight"),
}


def layers(name):
    with torch.device("meta"):
        return layers_of(timm.create_model(name, num_classes=10))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_has_one_place_from_input_to_head(name):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=10)
    found = layers_of(model)
    stages, blocks, head = FAMILIES[name]
    assert (found.stages, found.blocks) == (stages, blocks)
    assert found.parameters == {n for n, _ in model.named_parameters()}
    parts = [found.match("stem"), *(found.match(f"stage:{i}") for i in range(stages)), found.match("head")]
    assert sum(map(len, parts)) == len(found.places)
    assert frozenset().union(*parts) == found.places.keys()
    assert head in found.match("head")
    assert found.match("head") == {n for n, p in found.places.items() if p.depth == blocks + 1}


@pytest.mark.parametrize(
    ("pattern", "same_as"),
    [
        ("stage:-1", "stage:3"),
        ("stage:-2..", "stage:2..3"),
        ("block:0..1", "stage:0"),
        ("* - head", "stage:0.. "),
        ("stage:1 - norm - bias", r"re:^layer2\..*(conv\d|downsample\.0)\.weight"),
    ],
)
def test_patterns_name_the_same_tensors(pattern, same_as):
    found = layers("resnet18")
    expected = found.match(same_as.strip())
    if pattern == "* - head":
        expected |= found.match("stem")
    assert found.match(pattern) == expected
    assert expected


def test_running_statistics_lie_with_their_norm():
    found = layers("resnet18")
    assert "layer4.1.bn2.running_mean" in found.match("stage:-1") & found.match("norm")
    assert "layer4.1.bn2.running_mean" not in found.parameters


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("haed", "no layers are called 'haed'; did you mean 'head'?"),
        ("stage:4", "'stage:4': the network has 4 stages, stage:0 to stage:3"),
        ("stage:-5", "'stage:-5': the network has 4 stages"),
        ("stage:2..1", "'stage:2..1': the network has 4 stages"),
        ("stage:top", "'stage:top' is not a range of stages; write stage:2, stage:-1 or stage:1..2"),
        ("re:(", "'re:(' is not a regular expression"),
    ],
)
def test_a_wrong_pattern_is_one_sentence(pattern, message):
    with pytest.raises(FrostlineError) as caught:
        layers("resnet18").match(pattern)
    assert message in str(caught.value)


NECKS = {  # between the last block and the head: for timm the head's layer, for us the block's
    "mobilenetv3_small_100": {"conv_head.weight", "conv_head.bias"},
    "convnext_atto": {"head.norm.weight", "head.norm.bias"},
    "densenet121": {"features.norm5.weight", "features.norm5.bias"},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_layer_decay_is_timms(name):
    """timm scales the rate of layer i of n by decay to the power n − i."""
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=10)
    found = layers_of(model)
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    theirs = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    ours = {n: 0.5 ** (found.depth - found.places[n].depth) for n, _ in model.named_parameters()}
    differ = {n for n, p in model.named_parameters() if ours[n] != theirs[id(p)]}
    assert differ == NECKS.get(name, set())


def test_the_mlps_layers_are_stages():
    found = layers_of(Mlp(784, [64, 32], 10))
    assert found.match("stage:-1") == {"hidden.1.weight", "hidden.1.bias"}
    assert found.match("head") == {"head.weight", "head.bias"}
    assert found.match("stem") == frozenset()


def test_a_model_that_says_nothing_is_taken_in_its_own_order():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    )
    found = layers_of(model)
    assert found.match("head") == {"2.1.weight", "2.1.bias"}
    assert found.match("stage:0") == {"0.weight", "0.bias"}
    assert "1.running_mean" in found.match("stage:1")


def test_a_model_without_parameters_is_refused():
    with pytest.raises(FrostlineError, match="no parameters"):
        layers_of(nn.ReLU())
