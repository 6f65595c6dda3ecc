"""What only a GPU can show; `scripts/gpu-check` runs these, and more that takes longer."""

import pytest
import torch

from frostline import schema
from frostline.base.seeds import seed_dropout
from frostline.console.errors import OutOfResources, resource_errors
from frostline.features.execution import device_of, execution_of, has_bf16
from frostline.freezing.curves import Curve
from frostline.probing import batched_heads as heads
from frostline.probing import closed_form as probes
from frostline.probing.feature_set import FeatureSet
from frostline.training import machine
from frostline.training.feature_callback import held_on
from tests.tiny import RESNET, Bench, same, tensors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator"),
]
NETWORK = {"backbone": RESNET, "input": {"size": 32, "channels": 3}}


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_auto_is_the_gpu():
    device = device_of("auto")
    assert device.type == device_of("cuda").type == "cuda"
    network = torch.nn.Conv2d(3, 8, 3)
    assert execution_of(network, "auto", device).precision == ("bf16" if has_bf16(device) else "fp32")


def test_two_runs_give_the_same_bits(tmp_path):
    found = []
    for name in ("a", "b"):
        bench = Bench({**NETWORK, "trainer": {"epochs": 2, "device": "cuda"}})
        bench.fit(tmp_path / name)
        found.append(tensors(bench.network))
    assert same(*found)


def test_dropout_is_seeded_as_by_torch():
    ones = torch.ones(1000, device="cuda")
    seed_dropout(7, ones.device)
    found = torch.nn.functional.dropout(ones)
    torch.manual_seed(7)
    assert torch.equal(found, torch.nn.functional.dropout(ones))


def test_attention_repeats_its_gradients():
    q, k, v = (drawn(4, 3, 197, 64).cuda().bfloat16().requires_grad_() for _ in range(3))
    found = []
    with machine.repeatable_attention(q.device):
        for _ in range(3):
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            found.append(torch.autograd.grad(out.float().square().sum(), (q, k, v)))
    assert all(torch.equal(a, b) for again in found[1:] for a, b in zip(found[0], again, strict=True))


def test_features_that_fit_are_held_in_its_memory():
    device = torch.device("cuda")
    features = drawn(100, 16)
    assert held_on(features, device).is_cuda
    assert held_on(features, torch.device("cpu")) is features
    free, _ = torch.cuda.mem_get_info()
    large = torch.empty(1).expand(free // 8, 1)  # says that it has 4 bytes for each of these
    assert held_on(large, device) is large


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_heads_learn_as_on_the_cpu(optimizer):
    features, labels = drawn(200, 32), torch.arange(200) % 4
    features[:, :4] += 3 * torch.eye(4)[labels]
    recipe = heads.Recipe(3, 20, heads.Optimizer(optimizer, momentum=0.9), Curve("cosine"), "val/loss")

    def fits(device):
        start = torch.zeros(4, 32, device=device), torch.zeros(4, device=device)
        many = [heads.Head(lr, 0.01, 0.1, seed, *start) for lr in (1e-2, 1e-3) for seed in (0, 1)]
        x, y = features.to(device), labels.to(device)
        return heads.train_heads(many, FeatureSet([x], y), {"val": FeatureSet([x], y)}, recipe)

    for there, here in zip(fits("cuda"), fits("cpu"), strict=True):
        assert there.failure is here.failure is None
        torch.testing.assert_close(there.weight.cpu(), here.weight, rtol=1e-2, atol=1e-3)


def test_probes_without_training_answer_as_on_the_cpu():
    features, labels = drawn(200, 32).double(), torch.arange(200) % 4
    features[:, :4] += 3 * torch.eye(4)[labels]

    def answers(device):
        images = FeatureSet([features.to(device)], labels.to(device))
        fit = probes.ridge(images, images, 4, [0.1, 1.0])
        return fit.penalty, fit.weight.cpu(), probes.choose_k(images, images, 4, [1, 5], 0.07).k

    (penalty, weight, k), (other, expected, also) = answers("cuda"), answers("cpu")
    assert (penalty, k) == (other, also)
    torch.testing.assert_close(weight, expected, rtol=1e-4, atol=1e-5)


def test_no_memory_left_is_one_sentence():
    free, _ = torch.cuda.mem_get_info()
    with pytest.raises(OutOfResources, match="memory"), resource_errors():
        torch.empty(2 * free, dtype=torch.uint8, device="cuda")


def test_mixed_images_stay_there():
    from frostline.data.loading.mix import mix

    names = ("flip", "rotate", "translate", "scale", "brightness", "contrast")
    config = schema.Augment(**dict.fromkeys(names, 0.0), mixup=0.2, cutmix=1.0)
    images, labels = drawn(8, 3, 16, 16), torch.arange(8) % 4
    for seed in range(4):
        there = mix(images.cuda(), labels.cuda(), 4, config, seed)
        for a, b in zip(there, mix(images, labels, 4, config, seed), strict=True):
            assert a.is_cuda
            torch.testing.assert_close(a.cpu(), b, rtol=1e-5, atol=1e-6)
