"""A step in bfloat16 is relied on only where it gives the same bits whatever lay in memory."""

import itertools
import json

import pytest
import timm
import torch
from benchmarks.bf16_gradients import differing, new_memory_holds
from tests.tiny import SGD, Bench, arm_of, in_process, run_config, same, tensors
from torch import nn
from torch.nn import functional as F

from frostline.console.errors import FrostlineError
from frostline.evaluation.evaluate import split_for_inference
from frostline.features.cache import FeatureCache
from frostline.features.execution import Execution, execution_of, undefined_gradient
from frostline.features.reuse import FeatureExtractor
from frostline.pipeline.finetune.stage import finetune
from frostline.training import feature_callback, run
from frostline.training.services import Services

CPU = torch.device("cpu")
RESNET10T = {"kind": "timm", "name": "resnet10t", "drop_rate": 0.0, "drop_path_rate": 0.0}
# Its deepest stage begins with a stride of 2 on a 1×1 input, where that of larger images has at least 2×2.
SMALL = {"backbone": RESNET10T, "input": {"size": 16}, "trainer.precision": "auto", "trainer.epochs": 1}


@pytest.fixture(autouse=True)
def bf16(monkeypatch):
    """A processor that has instructions for bfloat16."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True, "cpu_name": "a name"})


class Functional(nn.Module):
    """Calls the function, as weight-standardised and same-padded convolutions do."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 8, 3, 3))

    def forward(self, images):
        return F.conv2d(images, self.weight, stride=2, padding=1)


# ── the rule ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("layer", "side", "affected"),
    [
        (nn.Conv2d(8, 4, 3, 2, 1), 1, "a 3×3 convolution of stride 2 on a 1×1 input"),
        (nn.Conv2d(8, 4, 5, 2, 2), 1, "a 5×5 convolution of stride 2 on a 1×1 input"),
        (nn.Conv2d(8, 4, 7, 4, 3), 3, "a 7×7 convolution of stride 4 on a 3×3 input"),
        (nn.Conv2d(8, 8, 3, 2, 1, groups=8), 1, "a 3×3 convolution of stride 2 on a 1×1 input"),
        (nn.Conv2d(8, 8, 2, 2, 1, groups=4), 1, "a 2×2 convolution of stride 2 on a 1×1 input"),
        (nn.ConvTranspose2d(8, 4, 3, 2, 1), 1, "a 3×3 transposed convolution of stride 2 on a 1×1 input"),
        (nn.Conv2d(8, 4, (1, 3), (1, 2), (0, 1)), 1, "a 1×3 convolution of stride 2 on a 1×1 input"),
        (Functional(), 1, "a 3×3 convolution of stride 2 on a 1×1 input"),
        (nn.Conv2d(8, 4, 3, 2, 1), 2, None),
        (nn.Conv2d(8, 4, 3, 1, 1), 1, None),
        (nn.Conv2d(8, 4, 1, 2), 1, None),
        (nn.Conv2d(8, 4, 3, 2), 3, None),
        (nn.ConvTranspose2d(8, 4, 3, 2, 1), 2, None),
        (nn.Linear(1, 4), 1, None),
    ],
)
def test_convolutions_whose_input_is_smaller_than_their_stride_are_found(layer, side, affected):
    assert undefined_gradient(layer, (8, side, side)) == affected


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_the_rule_misses_no_shape_that_this_processor_gets_wrong(kind):
    """benchmarks/bf16_gradients.py tries more of them."""
    for kernel, stride, side in itertools.product((2, 3, 5), (2, 3), (1, 2, 3)):
        layer = kind(32, 32, kernel, stride, kernel // 2)
        images = torch.randn(4, 32, side, side)
        if differing(layer, images):
            assert undefined_gradient(layer, (32, side, side)), (kernel, stride, side)


@pytest.mark.parametrize(
    ("size", "trains"), [(8, "fp32"), (16, "fp32"), (17, "bf16"), (28, "bf16"), (64, "bf16")]
)
@pytest.mark.parametrize("asked", ["auto", "bf16"])
def test_a_network_trains_in_float32_at_the_sizes_that_are_affected(size, trains, asked):
    network = timm.create_model("resnet10t", in_chans=1)
    network.layer1.eval()
    before = {name: module.training for name, module in network.named_modules()}
    assert execution_of(network, asked, CPU, (1, size, size)) == Execution(trains, "bf16", True)
    assert {name: module.training for name, module in network.named_modules()} == before


def test_bfloat16_that_was_asked_for_and_is_undefined_is_replaced_and_said(tmp_path):
    said = []
    services, bench = Services(tmp_path, say=said.append), Bench(SMALL)

    def chosen(asked):
        config = run_config({**SMALL, "trainer.precision": asked})
        return run._execution(config, bench.network, bench.data.spec, services)

    assert chosen("auto")[1] is None
    _, reason = chosen("bf16")
    assert reason == (
        "on a CPU, bf16 may leave a part of the weight gradient of a 3×3 convolution of stride 2 on a 1×1"
        " input uninitialized"
    )
    assert said == [f"finetune full trains in fp32, not bf16: {reason}"]


def trained(changes, data, folder, fill):
    """Run in a process of its own, where new memory holds a byte."""
    torch.cpu.get_capabilities = lambda: {"avx512_bf16": True}
    with new_memory_holds(fill):
        finetune(arm_of(run_config(changes)), data, folder / "out", Services(folder / "scratch"))


TOP = {
    "groups": {"top": ["head", "stage:-1"], "rest": "*"},
    "phases": [{"train": ["top"], "until": "end"}],
}
"""The last stage trains, on features of the frozen layers."""


def test_layers_behind_features_train_in_the_precision_of_the_network(tmp_path, monkeypatch):
    """They contain the convolution whose gradient is undefined in bfloat16."""
    made = []

    class Recorded(feature_callback.ReusedFeatures):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(self.precision)

    monkeypatch.setattr(feature_callback, "ReusedFeatures", Recorded)
    bench = Bench({**SMALL, "freeze": TOP})
    config, cache = bench.config, FeatureCache(tmp_path / "features", 1 << 30)
    reuse = FeatureExtractor(
        cache, config.features, config.backbone, bench.data.spec, config.augment, config.trainer, 0
    )
    result = bench.fit(tmp_path, reuse=reuse)
    assert result.features == ["layer3:output"]
    assert made == ["fp32"]
    split, precision = split_for_inference(config, bench.network, 40, reuse, bench.data.train)
    assert (split.name, precision) == ("layer3:output", "fp32")


@pytest.mark.parametrize("asked", ["auto", "bf16"])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_run_on_small_images_gives_the_same_weights_whatever_memory_held(
    asked, clip_norm, digits, tmp_path
):
    told = []
    for fill in (0x11, 0xEE):
        changes = {**SMALL, "trainer.precision": asked, "optimizer": {"clip_norm": clip_norm}}
        code, text = in_process(trained, changes, digits, tmp_path / str(fill), fill)
        assert code == 0, text
        (path,) = (tmp_path / str(fill) / "out").glob("**/training.json")
        told.append(json.loads(path.read_text()))
    assert told[0] == told[1]
    assert told[0]["precision"] == {"frozen": "bf16", "trains": "fp32"}
    assert ("fp32_because" in told[0]) is (asked == "bf16")


# ── float16 with a scaled loss ──────────────────────────────────────────────────────────────────────────────


HALF = {"trainer.precision": "fp16", "trainer.epochs": 4, "optimizer": {**SGD, "clip_norm": 1.0}}


def test_float16_learns_as_float32_does_and_takes_no_step_on_infinite_gradients(tmp_path):
    half, single = Bench(HALF), Bench({**HALF, "trainer.precision": "fp32"})
    found, expected = half.fit(tmp_path / "half"), single.fit(tmp_path / "single")
    assert found.history[-1]["val/loss"] == pytest.approx(expected.history[-1]["val/loss"], rel=0.05)
    assert half.classifier.scaler.get_scale() == 2.0**16
    huge = Bench(HALF)
    start = tensors(huge.network)
    huge.classifier.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, backoff_factor=0.9)
    found = huge.fit(tmp_path / "huge")
    assert same(tensors(huge.network), start)
    assert [row["step"] for row in found.history] == [0, 2, 4, 6, 8]


def test_float16_on_a_cpu_is_refused_with_what_is_allowed(tmp_path):
    config, bench = run_config(HALF), Bench(HALF)
    with pytest.raises(
        FrostlineError, match=r"fp16 trains on a GPU only; set trainer\.precision to bf16, fp"
    ):
        run._execution(config, bench.network, bench.data.spec, Services(tmp_path))
