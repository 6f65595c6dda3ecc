import pytest
import timm
import torch
from torch import nn

from frostline.features.split_point import (
    NetworkSplit,
    NoSplit,
    candidate_splits,
    worthwhile_splits,
)
from frostline.features.verification import first_verified
from frostline.freezing.build import RunLength, build_plan
from frostline.freezing.curves import Curve
from frostline.freezing.layers import layers_of
from frostline.models.mlp import Mlp
from frostline.schema import Freeze
from frostline.training import trainable

PROBE = {"groups": {"head": "head", "rest": "*"}, "phases": [{"train": ["head"], "until": "end"}]}
TOP = {
    "groups": {"head": "head", "top": "stage:-1", "rest": "*"},
    "phases": [{"train": ["head", "top"], "until": "end"}],
}


def planned(network, schedule):
    return build_plan(
        Freeze.model_validate(schedule), layers_of(network), Curve("constant"), RunLength(1, 10)
    )


def pictures(count=3, size=64, channels=3):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def cut(network, schedule=PROBE, images=None, phase=0):
    plan = planned(network, schedule)
    trainable.apply_phase(network, plan, phase)
    images = pictures() if images is None else images
    cuts = worthwhile_splits(network, plan, phase, images[:1])
    return cuts if isinstance(cuts, NoSplit) else first_verified(cuts, images)


def parts_equal_the_whole(found):
    """On images that the cut was not proven on, training and not; and gradients, for what trains."""
    network = found.network
    images = pictures(5, found.example.shape[-1], found.example.shape[1]) * 2
    for training in (False, True):
        network.train(training)
        results = []
        for run in (lambda: network(images), lambda: found.rest(found.features(images))):
            torch.manual_seed(3)
            network.zero_grad()
            state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            logits = run()
            logits.square().sum().backward()
            gradients = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
            results.append((logits.detach(), gradients))
            network.load_state_dict(state)
        (whole, expected), (parts, found_gradients) = results
        scale = whole.abs().max()
        torch.testing.assert_close(parts / scale, whole / scale, atol=1e-5, rtol=0)
        assert found_gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            size = gradient.abs().max().clamp(min=1e-3)
            torch.testing.assert_close(found_gradients[name] / size, gradient / size, atol=1e-3, rtol=0)


FAMILIES = {
    "resnet10t": ("fc:input", "layer3:output"),
    "efficientnet_lite0": ("classifier:input", "blocks.6.0.conv_pw:input"),
    "convnext_atto": ("head.fc:input", "stages.3.downsample.0:input"),
    "test_vit": ("head:input", "blocks.4:output"),
    "mobilenetv3_small_050": ("classifier:input", "blocks.5.0.conv:input"),
    "regnetx_002": ("head.fc:input", "s3:output"),
    "ghostnet_050": ("flatten:output", "blocks.9.0.conv:input"),  # its dropout is a function, not a layer
    "repvgg_a0": ("head.fc:input", "stages.3.0.conv_1x1.conv:input"),
    "edgenext_xx_small": ("head.fc:input", "stages.3.downsample.0:input"),
    "pvt_v2_b0": ("head:input", "stages.3.downsample.proj:input"),
    "mobilevit_xxs": ("head.fc:input", "stages.4.0.conv1_1x1.conv:input"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_is_cut_at_the_head_and_before_its_last_stage(name):
    network = timm.create_model(name, num_classes=5)
    size = 160 if name == "test_vit" else 64
    for schedule, expected in zip((PROBE, TOP), FAMILIES[name], strict=True):
        found = cut(network, schedule, pictures(size=size))
        assert isinstance(found, NetworkSplit), found
        assert f"{found.module}:{found.side}" == expected
        parts_equal_the_whole(found)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_of_zeros_hides_no_fault(name):
    """With it, as a new head starts, the logits are equal whatever the layers below it compute."""
    network = timm.create_model(name, num_classes=5)
    places = layers_of(network).places
    head = [parameter for n, parameter in network.named_parameters() if places[n].head]
    with torch.no_grad():
        for parameter in head:
            parameter.zero_()
    before = {n: tensor.clone() for n, tensor in network.state_dict().items()}
    found = cut(network, TOP, pictures(size=160 if name == "test_vit" else 64))
    assert isinstance(found, NetworkSplit), found
    assert f"{found.module}:{found.side}" == FAMILIES[name][1]
    assert all(torch.equal(tensor, before[n]) for n, tensor in network.state_dict().items())
    with torch.no_grad():
        for parameter in head:
            parameter.normal_()
    parts_equal_the_whole(found)


SWIN = {"img_size": 64, "window_size": 2, "embed_dim": 24, "depths": (1, 1, 2, 1), "num_heads": (2, 2, 4, 4)}


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("swin_tiny_patch4_window7_224", SWIN, ("head.fc:input", "layers.3.downsample.norm:input")),
        (
            "vit_tiny_patch16_224",
            {"img_size": 64, "depth": 3, "drop_rate": 0.5},
            ("head_drop:input", "blocks.1:output"),
        ),
        ("resnet10t", {"drop_rate": 0.5}, ("global_pool:output", "layer3:output")),
        ("maxvit_pico_rw_256", {"img_size": 64}, ("head.fc:input", "stages.2:output")),
    ],
)
def test_networks_that_drop_at_random_are_cut_before_they_do(name, arguments, expected):
    # Swin drops paths in all its blocks unless told otherwise; those that are frozen don't.
    network = timm.create_model(name, num_classes=5, **arguments)
    found = [cut(network, schedule) for schedule in (PROBE, TOP)]
    assert [f"{each.module}:{each.side}" for each in found] == list(expected)
    for each, schedule in zip(found, (PROBE, TOP), strict=True):
        trainable.apply_phase(network, planned(network, schedule), 0)
        parts_equal_the_whole(each)


def test_the_prefix_is_not_run_again():
    network = timm.create_model("test_resnet", num_classes=5)
    found = cut(network, TOP)
    features = found.features(pictures())
    ran = []
    for name, module in network.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, i, o, name=name: ran.append((name, len(o))))
    found.rest(features)
    computed = {name for name, count in ran if count == 3}
    assert computed
    assert all(name.startswith(("layer4", "global_pool", "fc")) for name in computed)


def test_a_cut_says_what_its_features_depend_on():
    network = timm.create_model("test_resnet", num_classes=5)
    found = cut(network, TOP)
    before = found.fingerprint()
    assert {name.split(".")[0] for name in found.dependencies} == {
        "conv1",
        "bn1",
        "layer1",
        "layer2",
        "layer3",
    }
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for name, tensor in network.state_dict().items():
        tensor.add_(1)
        assert (found.fingerprint() != before) == (name in found.dependencies)
        tensor.copy_(state[name])
    assert found.fingerprint() == before


def test_class_tokens_and_position_embeddings_belong_to_the_prefix():
    found = cut(timm.create_model("test_vit", num_classes=5), TOP, pictures(size=160))
    assert {"cls_token", "pos_embed"} <= found.dependencies
    assert not any(name.startswith(("blocks.5", "norm", "head")) for name in found.dependencies)


class Lists(nn.Module):
    """Layers in a list, which is never called itself, and one whose weight is used without a call."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.ModuleList([nn.Linear(256, 32), nn.Linear(32, 32)])
        self.scale = nn.Embedding(1, 32)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        x = x.flatten(1)
        for layer in self.hidden:
            x = layer(x).relu()
        return self.head(x * self.scale.weight)


def test_features_depend_on_layers_in_lists_and_on_those_never_called():
    schedule = {"groups": {"head": "re:head", "rest": "*"}, "phases": PROBE["phases"]}
    found = cut(Lists(), schedule, pictures(3, 16, 1))
    assert found.name == "head:input"
    frozen = {"hidden.0.weight", "hidden.0.bias", "hidden.1.weight", "hidden.1.bias", "scale.weight"}
    assert found.dependencies == frozen
    parts_equal_the_whole(found)


def test_features_of_an_mlp_depend_on_its_weights():
    found = [cut(Mlp(256, [64, 8], 3), PROBE, pictures(3, 16, 1)) for _ in range(2)]
    assert found[0].name == found[1].name
    assert found[0].fingerprint() != found[1].fingerprint()


def test_a_tensor_of_two_names_is_no_hindrance():
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 256), nn.Linear(256, 3)
    )
    network[3].weight = network[1].weight
    schedule = {"groups": {"top": "re:^4", "rest": "*"}, "phases": [{"train": ["top"], "until": "end"}]}
    assert cut(network, schedule, pictures(3, 16, 1)).fingerprint()


@pytest.mark.parametrize("name", FAMILIES)
def test_features_depend_on_nothing_but_the_prefix(name):
    """Nothing that is left out of it moves them, and all of each layer below is in it."""
    network = timm.create_model(name, num_classes=5)
    images = pictures(size=160 if name == "test_vit" else 64)
    found = cut(network, TOP, images)
    before = found.features(images)
    state = dict(network.state_dict())
    assert state.keys() >= found.dependencies
    with torch.no_grad():
        for other in state.keys() - found.dependencies:
            state[other].add_(1)
    assert torch.equal(found.features(images), before)


def test_the_operations_saved_are_those_of_the_prefix():
    network = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 3))
    schedule = {"groups": {"top": "re:^3", "rest": "*"}, "phases": [{"train": ["top"], "until": "end"}]}
    found = cut(network, schedule, pictures(3, 16, 1))
    assert (found.module, found.side, found.shape) == ("3", "input", (32,))
    assert found.flops == 2 * 256 * 32
    assert found.bytes == 4 * 32


class Branches(nn.Module):
    """Two branches from the image: what trains in one does not say all that the head needs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(256, 32), nn.Linear(256, 32)
        self.head = nn.Linear(64, 3)

    def forward(self, x):
        x = x.flatten(1)
        right = self.right(x)
        return self.head(torch.cat([self.left(x), right], 1))


def test_a_network_that_can_not_be_cut_runs_whole():
    schedule = {
        "groups": {"left": "re:left|head", "rest": "*"},
        "phases": [{"train": ["left"], "until": "end"}],
    }
    found = cut(Branches(), schedule, pictures(3, 16, 1))
    assert isinstance(found, NoSplit)
    assert "right" in found.reason or "left" in found.reason


def test_a_branch_is_cut_where_it_is_whole_again():
    schedule = {"groups": {"head": "re:head", "rest": "*"}, "phases": PROBE["phases"]}
    found = cut(Branches(), schedule, pictures(3, 16, 1))
    assert (found.module, found.side) == ("head", "input")
    parts_equal_the_whole(found)


def test_reasons():
    network = timm.create_model("test_resnet", num_classes=5)
    everything = {"groups": {"all": "*"}, "phases": [{"train": "all", "until": "end"}]}
    assert cut(network, everything).reason == "every layer trains"
    stem = {"groups": {"stem": "stem", "rest": "*"}, "phases": [{"train": ["stem"], "until": "end"}]}
    assert cut(network, stem).reason == "no layer comes before conv1.0.weight, which trains"
    norms = {"groups": {"norm": "norm", "rest": "*"}, "phases": [{"train": ["norm"], "until": "end"}]}
    assert cut(network, norms).reason == (
        "caching the features at conv1.1:input would save little: 14 FLOPs per byte in float32, less than the"
        " minimum of 100"
    )
    vit = timm.create_model("test_vit", num_classes=5)
    assert cut(vit, stem, pictures(size=160)).reason == (
        "cls_token, which trains, is a parameter or buffer of the network itself, not of one of its layers"
    )
    dropped = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(256, 3), nn.Linear(3, 3))
    top = {"groups": {"top": "re:^3", "rest": "*"}, "phases": [{"train": ["top"], "until": "end"}]}
    assert (
        cut(dropped, top, pictures(3, 16, 1)).reason
        == "no layer comes before 0, which drops activations at random"
    )


def test_a_network_without_data_can_be_looked_at():
    with torch.device("meta"):
        network = timm.create_model("test_resnet", num_classes=5)
    plan = planned(network, TOP)
    trainable.apply_phase(network, plan, 0)
    found = candidate_splits(network, plan, 0, torch.empty(1, 3, 64, 64, device="meta"))
    assert "layer3:output" in [f"{each.module}:{each.side}" for each in found]


def test_two_branches_are_cut_where_both_end_and_nowhere_between():
    network = timm.create_model("crossvit_9_240", num_classes=5)
    images = pictures(size=240)
    found = cut(network, PROBE, images)
    assert (found.name, found.shape) == ("head_drop:2 outputs", (128 + 256,))
    assert {"norm.0.weight", "norm.1.weight"} <= found.dependencies
    parts_equal_the_whole(found)
    assert "does not give the logits" in cut(network, TOP, images).reason


def test_looking_and_proving_leave_the_network_as_it_was():
    network = timm.create_model("test_resnet", num_classes=5)
    plan = planned(network, TOP)
    trainable.apply_phase(network, plan, 0)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    drawn = torch.get_rng_state()
    first_verified(worthwhile_splits(network, plan, 0, pictures(1)), pictures())
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not any("forward" in vars(module) for module in network.modules())
