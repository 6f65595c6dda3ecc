"""What a step costs, against counts by hand and published ones."""

import copy
from itertools import pairwise

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from frostline.features.split_point import candidate_splits
from frostline.freezing.build import RunLength, build_plan
from frostline.freezing.curves import Curve
from frostline.freezing.layers import layers_of
from frostline.models.mlp import Mlp
from frostline.planning import cost
from frostline.schema import Freeze
from frostline.training import trainable

HEAD = {"train": ["head"], "until": "20%"}
TOP = {"train": ["head", "top"], "until": "20%"}
ALL = {"train": "all", "until": "end"}
FLOAT = 4


def costs(network, *phases, groups=None, shape=(3, 32, 32)):
    groups = groups or {"head": "head", "top": "stage:-1", "rest": "*"}
    last = {**phases[-1], "until": "end"}
    schedule = Freeze.model_validate({"groups": groups, "phases": [*phases[:-1], last]})
    plan = build_plan(schedule, layers_of(network), Curve("constant"), RunLength(10, 10))
    return cost.phase_costs(network, plan, shape)


def test_fully_connected_layers_by_hand():
    """64 → 16 → 8 → 10: products of 1,024, 128 and 80 multiply-adds."""
    head, top, everything = costs(Mlp(64, [16, 8], 10), HEAD, TOP, ALL, shape=(1, 8, 8))
    assert head.forward == top.forward == everything.forward == 2 * (1024 + 128 + 80)
    assert head.backward == 2 * 80
    assert top.backward == 2 * (2 * 80 + 128)
    assert everything.backward == 2 * (2 * 80 + 2 * 128 + 1024)
    # Each layer keeps its input, for its weights' gradient; a relu's output is the next one's input.
    assert head.activations == 8 * FLOAT
    assert top.activations == (16 + 8) * FLOAT
    assert everything.activations == (64 + 16 + 8) * FLOAT


def behind(network, *phases, shape):
    """Name of each cut of the last phase → the cost behind it."""
    network = cost.copy_to_meta(network)
    groups = {"head": "head", "top": "stage:-1", "rest": "*"}
    last = {**phases[-1], "until": "end"}
    schedule = Freeze.model_validate({"groups": groups, "phases": [*phases[:-1], last]})
    plan = build_plan(schedule, layers_of(network), Curve("constant"), RunLength(10, 10))
    trainable.apply_phase(network, plan, len(phases) - 1)
    images = torch.empty(3, *shape, device="meta")
    return {
        cut.name: cost.split_cost(cut) for cut in candidate_splits(network, plan, len(phases) - 1, images)
    }


def test_cost_behind_a_split_point_by_hand():
    (whole,) = costs(Mlp(64, [16, 8], 10), TOP, shape=(1, 8, 8))
    cuts = behind(Mlp(64, [16, 8], 10), TOP, shape=(1, 8, 8))
    cost = cuts["hidden.1:input"]
    assert (cost.once, cost.forward) == (2 * 1024, 2 * (128 + 80))
    assert (cost.backward, cost.activations) == (whole.backward, whole.activations)


def test_features_that_do_not_hold_all_that_comes_behind_have_no_cost():
    """A residual block's shortcut needs what its first convolution is given, too."""
    network = timm.create_model("test_resnet", num_classes=3)
    cuts = behind(network, TOP, shape=(3, 32, 32))
    assert cuts["layer4.0.conv1:input"] is None
    assert cuts["layer3:output"].once == cuts["layer4:input"].once > 0


def test_activations_of_unused_tokens_are_not_counted():
    """Of a vision transformer's tokens the head sees one."""
    network = timm.create_model("test_vit", num_classes=3)
    (whole,) = costs(network, HEAD, shape=(3, 160, 160))
    cost = behind(network, HEAD, shape=(3, 160, 160))["head:input"]
    assert cost.once + cost.forward == whole.forward
    assert cost.activations == 64 * FLOAT < whole.activations


class Convolutions(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, padding=1, bias=False)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=groups, bias=False)
        self.head = nn.Linear(8, 5)

    def forward(self, images):
        return self.head(self.second(self.first(images)).mean((2, 3)))


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_convolutions_by_hand_depthwise_ones_too(groups):
    """On 4×6×6; the gradients of a convolution take as many products as its forward pass."""
    network = Convolutions(groups)
    first, second, head = 36 * 9 * 4 * 8, 9 * 9 * 8 * 8 // groups, 8 * 5
    parts = {"head": "head", "second": "stage:1", "first": "*"}
    probe, top, full = costs(
        network, HEAD, {**TOP, "train": ["head", "second"]}, ALL, groups=parts, shape=(4, 6, 6)
    )
    assert probe.forward == full.forward == 2 * (first + second + head)
    assert probe.backward == 2 * head
    assert top.backward == 2 * (2 * head + second)
    assert full.backward == 2 * (2 * head + 2 * second + first)
    assert full.activations == (4 * 36 + 8 * 36 + 8) * FLOAT


def test_layers_below_all_that_train_cost_no_backward():
    """Biases alone: gradients of the inputs, none of the weights."""
    groups = {"biases": "bias - stage:0", "rest": "*"}
    (only,) = costs(Mlp(64, [16, 8], 10), {**ALL, "train": ["biases"]}, groups=groups, shape=(1, 8, 8))
    assert only.backward == 2 * 80


@pytest.mark.parametrize(
    ("name", "multiply_adds"),
    [
        ("resnet18", 1.82e9),  # He et al. 2016, table 1: 1.8e9; torchvision and timm: 1.82e9
        ("efficientnet_b0", 0.39e9),  # Tan & Le 2019, table 2
        ("vit_tiny_patch16_224", 1.26e9),  # Touvron et al. 2021 (DeiT-Ti), as timm's results list it
    ],
)
def test_published_counts(name, multiply_adds):
    with torch.device("meta"):
        network = timm.create_model(name)
    probe, full = costs(network, HEAD, ALL, groups={"head": "head", "rest": "*"}, shape=(3, 224, 224))
    assert probe.forward == full.forward == pytest.approx(2 * multiply_adds, rel=0.02)
    assert full.backward == pytest.approx(2 * full.forward, rel=0.06)
    assert probe.backward < full.backward / 500
    assert probe.activations < full.activations / 100


@given(st.lists(st.integers(1, 40), max_size=3), st.integers(1, 9), st.booleans())
def test_any_fully_connected_network(hidden, classes, probe):
    widths = [4, *hidden, classes]
    products = [n * m for n, m in pairwise(widths)]
    groups = {"head": "head", "rest": "*"} if hidden else {"head": "*"}
    (cost,) = costs(
        Mlp(4, hidden, classes),
        {**ALL, "train": ["head"] if probe else "all"},
        groups=groups,
        shape=(1, 2, 2),
    )
    assert cost.forward == 2 * sum(products)
    down = products[-1:] if probe else [products[0], *(2 * n for n in products[1:])]
    assert cost.backward == 2 * sum(down)
    assert cost.activations == FLOAT * (widths[-2] if probe else sum(widths[:-1]))


def test_the_network_stays_as_it_is():
    network = timm.create_model("test_resnet", num_classes=3)
    network.eval()
    before = copy.deepcopy(network.state_dict())
    state = torch.random.get_rng_state()
    assert None not in costs(network, HEAD, ALL, groups={"head": "head", "rest": "*"})
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert not network.training
    assert torch.equal(state, torch.random.get_rng_state())


def test_frozen_batch_norm_keeps_nothing():
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 1024, 2))
    (cost,) = costs(network, {**ALL, "train": ["head"]}, groups={"head": "head", "rest": "*"})
    assert cost.activations == 6 * 1024 * FLOAT


class Looks(nn.Module):
    """Decides by a value, which there is none of without data."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(12, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, images):
        features = self.body(images.flatten(1))
        return self.head(features if features.sum().item() > 0 else -features)


class NotCopied(Looks):
    def __deepcopy__(self, memo):
        raise TypeError("no copies")


@pytest.mark.parametrize("kind", [Looks, NotCopied])
def test_a_network_that_needs_data_has_no_known_cost(kind):
    assert costs(kind(), HEAD, ALL, groups={"head": "head", "rest": "*"}, shape=(3, 2, 2)) == [None, None]


def test_a_run_agrees():
    """What autograd keeps in a real step on real images, by its own account of storages."""
    network = timm.create_model("test_resnet", num_classes=3)
    (estimate,) = costs(network, ALL, groups={"all": "*"})
    own = {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}
    saved = {}

    def keep(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network.train()(torch.zeros(cost.IMAGES, 3, 32, 32))
    saved = {k: t.untyped_storage().nbytes() for k, t in saved.items() if k not in own}
    assert estimate.activations == sum(saved.values()) // cost.IMAGES
    assert logits.shape == (cost.IMAGES, 3)
