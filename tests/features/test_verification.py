"""Splits that look right and are wrong: each gives the network's logits, or seems to, and must be refused."""

import pytest
import torch
from tests.features.test_split_point import cut
from tests.tiny import Bench, tensors
from torch import nn
from torch.nn import functional

from frostline.features.cache import FeatureCache
from frostline.features.reuse import FeatureExtractor
from frostline.features.split_point import NoSplit
from frostline.models import backbones


def only(pattern):
    """A schedule that trains the tensors of a pattern and the head."""
    groups = {"trained": f"re:{pattern}|^head", "rest": "*"}
    return {"groups": groups, "phases": [{"train": ["trained"], "until": "end"}]}


class Backbone(nn.Module):
    """A convolution, a layer in the middle, a mean over all places, and a head."""

    def __init__(self, middle):
        super().__init__()
        self.below = nn.Conv2d(3, 64, 16, 16)
        self.middle = middle
        self.head = nn.Linear(64, 3)

    def forward(self, x):
        return self.head(self.middle(self.below(x)).mean((2, 3)).relu())


class WithoutCall(nn.Module):
    """Uses a layer's weight without calling the layer, as timm's BEiT does in its attention."""

    def __init__(self):
        super().__init__()
        self.mixing = nn.Conv2d(64, 64, 1)

    def forward(self, x):
        return functional.conv2d(x, self.mixing.weight)


class Centred(nn.Module):
    """Subtracts a running mean, and is no normalization layer by name."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(64, 1, 1))

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.detach().mean((0, 2, 3)).view(-1, 1, 1), 1e-3)
        return x - self.mean


class Branches(nn.Module):
    """Three branches that are added, as in HRNet; one of them trains."""

    def __init__(self):
        super().__init__()
        self.below = nn.Conv2d(3, 64, 16, 16)
        self.left, self.middle, self.right = (nn.Conv2d(64, 64, 1) for _ in range(3))
        self.head = nn.Linear(64, 3)

    def forward(self, x):
        x = self.below(x).relu()
        branches = [branch(x).mean((2, 3)) for branch in (self.right, self.middle, self.left)]
        return self.head(sum(branches).relu())


def test_a_layer_that_trains_without_being_called_is_not_frozen():
    found = cut(Backbone(WithoutCall()), only("mixing"))
    assert found.name in ("middle:input", "below:output")
    assert cut(Backbone(WithoutCall()), only("nothing")).name == "head:input"


@pytest.mark.parametrize(
    "middle",
    [nn.BatchNorm2d(64, track_running_stats=False, affine=False), Centred()],
    ids=["of the batch", "of earlier batches"],
)
def test_features_that_depend_on_other_images_are_not_reused(middle):
    assert isinstance(cut(Backbone(middle), only("nothing")), NoSplit)


def test_looking_for_a_split_changes_no_buffer():
    network = Backbone(Centred())
    cut(network, only("nothing"))
    assert not network.middle.mean.any()


class Tied(nn.Module):
    """Layers that share a weight: the later one is registered first, so the schedule knows that name."""

    def __init__(self):
        super().__init__()
        self.late = nn.Conv2d(64, 64, 1)
        self.below, self.early = nn.Conv2d(3, 64, 16, 16), nn.Conv2d(64, 64, 1)
        self.early.weight = self.late.weight
        self.head = nn.Linear(64, 3)

    def forward(self, x):
        x = self.early(self.below(x).relu()).relu()
        return self.head(self.late(x).mean((2, 3)))


def test_a_frozen_layer_that_shares_a_weight_that_trains_is_not_reused():
    found = cut(Tied(), only("^late"))
    assert "early.weight" not in found.dependencies
    assert found.name in ("early:input", "below:output")


def fitted(folder, *, reuse):
    """A fit of `Branches` on images that begin with three equal ones: its weights."""
    bench = Bench({"freeze": only("left"), "input": {"size": 32, "channels": 3}})
    bench.data.train.pixels[:3] = 7
    config, extractor = bench.config, None
    if reuse:
        cache = FeatureCache(folder / "features", 1 << 30)
        backbone, spec = config.backbone, bench.data.spec
        extractor = FeatureExtractor(
            cache, config.features, backbone, spec, config.augment, config.trainer, 0
        )
    result = bench.fit(folder, reuse=extractor)
    return result.features, tensors(bench.network)


def test_images_that_look_alike_hide_no_fault(tmp_path, monkeypatch):
    monkeypatch.setitem(backbones.BUILDERS, "mlp", lambda *arguments: Branches())
    (found,), weights = fitted(tmp_path, reuse=True)
    assert "does not give the logits" in found
    _, expected = fitted(tmp_path, reuse=False)
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=1e-4, atol=1e-5)
