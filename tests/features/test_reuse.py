"""Features of real images by real weights."""

import statistics

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from tests.tiny import PROBE, run_config

from frostline.data.loading.pixels import Images
from frostline.features.cache import FeatureCache
from frostline.features.reuse import FeatureExtractor
from frostline.freezing.curves import Curve
from frostline.models.pretrained import create_network, input_spec, load_initial_weights
from frostline.probing import batched_heads as heads
from frostline.probing.feature_set import FeatureSet
from frostline.schema import ImagenetWeights
from frostline.training import trainable
from frostline.training.run import plan_of

SIZE, SEEDS = 64, 3
LITE0 = {"kind": "timm", "name": "tf_efficientnet_lite0", "drop_rate": 0.0, "drop_path_rate": 0.0}


@pytest.fixture(scope="module")
def digits():
    """1,797 digits in colour, at 64 px: the first half to train on."""
    pictures, labels = load_digits(return_X_y=True)
    grey = (pictures.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    large = [
        np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for image in grey
    ]
    pixels = torch.from_numpy(np.stack(large))[:, None].expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(labels)
    half = len(labels) // 2
    return (
        Images(pixels[:half], labels[:half], "train", "digits", "train"),
        Images(pixels[half:], labels[half:], "test", "digits", "test"),
    )


def features(digits, precision, folder):
    config = run_config(
        {
            "backbone": LITE0,
            "input": {"size": SIZE, "channels": 3},
            "freeze": PROBE,
            "trainer.precision": precision,
        }
    )
    initial = load_initial_weights(config.backbone, ImagenetWeights(kind="imagenet"))
    spec = input_spec(config.backbone, initial, config.input)
    network, _ = create_network(config, initial, spec, tuple("0123456789"))
    plan = plan_of(config, network, len(digits[0]))
    trainable.apply_phase(network, plan, 0)
    cache = FeatureCache(folder, 1 << 30)
    reuse = FeatureExtractor(cache, config.features, config.backbone, spec, config.augment, config.trainer, 0)
    split = reuse.split_network(network, plan, 0, digits[0])
    return [reuse.features(split, images) for images in digits]


def accuracy(digits, found):
    """Of linear heads on the second half of the digits, the mean over some seeds."""
    train, test = (each.float() for each in found)
    shape = (10, train.shape[1])
    begun = [heads.Head(0.003, 0.0, 0.0, seed, torch.zeros(shape), torch.zeros(10)) for seed in range(SEEDS)]
    recipe = heads.Recipe(15, 32, heads.Optimizer("adam"), Curve("cosine"), "val/accuracy")
    fits = heads.train_heads(
        begun, FeatureSet([train], digits[0].labels), {"val": FeatureSet([test], digits[1].labels)}, recipe
    )
    return statistics.mean(fit.history[-1]["val/accuracy"] for fit in fits)


@pytest.mark.slow
def test_bf16_features_cost_at_most_three_tenths_of_a_point(digits, tmp_path):
    torch.set_num_threads(1)
    full, half = (features(digits, precision, tmp_path) for precision in ("fp32", "bf16"))
    assert half[0].dtype == torch.bfloat16
    assert not torch.equal(full[0], half[0].float())
    expected, found = accuracy(digits, full), accuracy(digits, half)
    assert expected > 0.9
    assert found >= expected - 0.003


def test_linear_heads_are_in_float32_and_other_layers_as_given(tmp_path):
    top = {
        "groups": {"head": "head", "top": "re:layer4", "rest": "*"},
        "phases": [{"train": ["head", "top"], "until": "end"}],
    }
    network = {**LITE0, "name": "test_resnet"}
    found = []
    for schedule in (PROBE, top):
        config = run_config(
            {"backbone": network, "freeze": schedule, "input.size": SIZE, "trainer.precision": "bf16"}
        )
        initial = load_initial_weights(config.backbone, config.weights)
        spec = input_spec(config.backbone, initial, config.input)
        model, _ = create_network(config, initial, spec, ("a", "b"))
        reuse = FeatureExtractor(
            FeatureCache(tmp_path, 0),
            config.features,
            config.backbone,
            spec,
            config.augment,
            config.trainer,
            0,
        )
        found.append(reuse.precision_after_split(model, plan_of(config, model, 4), 0))
    assert found == ["fp32", "bf16"]
