import weakref

import pytest
import timm
import torch
from torch import nn

from frostline.features import execution
from frostline.features.execution import Execution, autocast, device_of, execution_of, gathered

CPU = torch.device("cpu")


def made(name):
    with torch.device("meta"):
        return timm.create_model(name)


@pytest.fixture(params=[True, False], ids=["with bf16", "without"])
def bf16(request, monkeypatch):
    """A processor that has instructions for bfloat16, and one that has none."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": request.param})
    return request.param


@pytest.mark.parametrize(
    ("name", "trains", "channels_last"),
    [
        ("resnet10t", "bf16", True),
        ("efficientnet_lite0", "fp32", True),  # depthwise convolutions
        ("convnext_atto", "fp32", True),
        ("test_vit", "bf16", False),  # its one convolution makes patches
    ],
)
def test_auto_is_what_processor_and_architecture_gain_by(name, trains, channels_last, bf16):
    expected = Execution(trains, "bf16", channels_last) if bf16 else Execution("fp32", "fp32", channels_last)
    assert execution_of(made(name), "auto", CPU) == expected


def test_a_network_without_convolutions_gains_nothing(bf16):
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    assert execution_of(mlp, "auto", CPU) == Execution("fp32", "fp32", channels_last=False)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_that_is_given_is_taken(precision, bf16):
    for name in ("resnet10t", "efficientnet_lite0"):
        found = execution_of(made(name), precision, CPU)
        assert (found.precision, found.frozen_precision) == (precision, precision)


def test_this_processor_says_what_it_has():
    capabilities = torch.cpu.get_capabilities()
    assert execution.has_bf16(CPU) == any(
        "bf16" in name and has for name, has in capabilities.items() if has is True
    )


def test_channels_last_changes_where_numbers_lie_and_not_what_they_are():
    network = timm.create_model("test_resnet", num_classes=3).eval()
    images = torch.randn(2, 3, 32, 32)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        expected = network(images)
        how = execution_of(network, "fp32", CPU)
        how.set_memory_format(network)
        laid_out = how.in_memory_format(images)
        found = network(laid_out)
    assert laid_out.is_contiguous(memory_format=torch.channels_last)
    assert network.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_autocast_is_only_for_bf16():
    layer, x = nn.Linear(4, 4), torch.ones(1, 4)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(precision, CPU):
            assert layer(x).dtype == dtype


def test_a_device_is_the_one_that_is_there():
    assert device_of("cpu").type == "cpu"
    assert device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_outputs_of_batches_are_gathered_as_they_come():
    """None is held until the end, when memory would grow with the number of batches."""
    held = []

    def batches():
        for begin in (0, 3, 6):
            part = torch.arange(begin, min(begin + 3, 8), dtype=torch.float64)[:, None] * torch.ones(2)
            held.append(weakref.ref(part))
            yield part
            del part
            assert all(earlier() is None for earlier in held[:-1])

    whole = gathered(batches(), 8)
    assert torch.equal(whole, torch.arange(8.0, dtype=torch.float64)[:, None].expand(8, 2))
    with pytest.raises(AssertionError, match="a batch is missing"):
        gathered(batches(), 9)
