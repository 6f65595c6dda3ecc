"""Tensors that meet on a GPU are all there: torch's fake tensors tell, and need none.

They have a device and a shape, and no numbers; an operation on two devices is an error, as on a real GPU.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from frostline import schema
from frostline.data.loading.augment import augment
from frostline.data.loading.mix import mix
from frostline.freezing.curves import Curve
from frostline.probing import batched_heads as heads
from frostline.probing import closed_form as probes
from frostline.probing.feature_set import FeatureSet
from frostline.training.averaging import Ema
from frostline.training.losses import CrossEntropy

CUDA = "cuda"
ALL = {"flip": 0.5, "rotate": 20.0, "translate": 0.1, "scale": 0.2, "brightness": 0.2, "contrast": 0.2}


@pytest.fixture(autouse=True)
def fake():
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def labels(n: int = 32) -> torch.Tensor:
    return torch.zeros(n, dtype=torch.long, device=CUDA)


def test_two_devices_are_noticed():
    with pytest.raises(RuntimeError):
        torch.zeros(2) + torch.zeros(2, device=CUDA)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_augmentation(dtype):
    config = schema.Augment(**ALL, mixup=0.0, cutmix=0.0)
    if dtype == torch.float32:  # whose values would be looked at
        config = config.model_copy(update={"brightness": 0.0, "contrast": 0.0})
    batch = torch.zeros(8, 3, 16, 16, dtype=dtype, device=CUDA)
    assert augment(batch, config, torch.Generator().manual_seed(0)).is_cuda


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (0.0, 1.0), (0.2, 1.0)])
def test_mixing(mixup, cutmix):
    config = schema.Augment(**dict.fromkeys(ALL, 0.0), mixup=mixup, cutmix=cutmix)
    images, shares = mix(torch.zeros(8, 3, 16, 16, device=CUDA), labels(8), 4, config, 0)
    assert images.is_cuda
    assert shares.is_cuda


@pytest.mark.parametrize(("loss", "optimizer"), [("cross_entropy", "adamw"), ("mse", "sgd")])
def test_heads_that_are_trained_at_once(loss, optimizer):
    smoothing, weights = (0.1, torch.ones(4)) if loss == "cross_entropy" else (0.0, None)
    head = torch.zeros(4, 16, device=CUDA), torch.zeros(4, device=CUDA)
    many = [heads.Head(1e-3, 0.1, smoothing, seed, *head) for seed in (0, 1)]
    settings = heads.Optimizer(optimizer, momentum=0.9)
    recipe = heads.Recipe(1, 8, settings, Curve("constant"), "val/loss", loss, weights, clip_norm=1.0)
    images = FeatureSet([torch.zeros(32, 16, device=CUDA)], labels())
    group = heads._HeadBatch(many, images, images, recipe)
    assert group._epoch(0)[0].is_cuda
    assert group._measure(images)[0].is_cuda


def test_neighbours():
    features = torch.zeros(32, 16, device=CUDA)
    assert probes.knn(FeatureSet([features], labels()), features, 4, 3, 0.07).is_cuda


def test_the_loss_and_an_average():
    weighted = CrossEntropy(0.1, torch.ones(4)).to(CUDA)
    assert weighted(torch.zeros(32, 4, device=CUDA), labels()).is_cuda
    live = {"weight": torch.zeros(3, device=CUDA), "count": labels(1)}
    average = Ema(0.9, warmup=True)
    average.seed(live)
    average.enter(live, {"weight", "count"})
    average.update(live)
    assert average.average["weight"].is_cuda


def test_the_totals_of_an_epoch_that_is_resumed(monkeypatch):
    """Lightning reads checkpoints to the CPU."""
    from frostline.training.module import Classifier

    module = Classifier.__new__(Classifier)
    torch.nn.Module.__init__(module)
    monkeypatch.setattr(Classifier, "device", torch.device(CUDA, 0))
    module.criterion, module.headline, module.scaler = CrossEntropy(0.0), "accuracy", None
    checkpoint = {"loss": torch.zeros(()), "hits": torch.zeros((), dtype=torch.long), "count": 8}
    module.on_load_checkpoint({"progress": {"totals": checkpoint, "taken": 1, "images": 8}})
    module.on_train_start()
    module._uncounted = []
    module._loss(torch.zeros(32, 4, device=CUDA), labels())
    module._count_hits()
    assert module._totals["hits"].is_cuda
