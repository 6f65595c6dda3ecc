import pytest
import timm
import torch
from tests.tiny import RESNET

from frostline import schema
from frostline.config import compose
from frostline.console.errors import FrostlineError
from frostline.freezing.layers import layers_of
from frostline.models.backbones import build, default_input
from frostline.models.input_spec import InputSpec

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

# What timm's own pages of the weights say of them.
READY = {
    "resnet10t": dict(size=176, crop=0.875, **IMAGENET),
    "resnet18": dict(size=224, crop=0.95, **IMAGENET),
    "efficientnet_lite0": dict(size=224, crop=0.875, **HALF),
    "vit_tiny": dict(size=224, crop=0.9, **HALF),
    "convnext_atto": dict(size=224, crop=0.875, **IMAGENET),
}


def timm_backbone(name, **changes):
    return schema.Timm.model_validate({**RESNET, "name": name, **changes})


def spec(size, channels=3):
    return InputSpec(size, channels, "bicubic", 1.0, (0.5,) * channels, (0.5,) * channels)


@pytest.mark.parametrize("option", READY)
def test_a_ready_network_is_built_and_learns_from_a_step(option):
    backbone = compose.experiment([f"backbone={option}"])[0].backbone
    assert default_input(backbone) == InputSpec(channels=3, interpolation="bicubic", **READY[option])
    model = build(backbone, spec(32, channels=1), classes=4, seed=0)
    head = layers_of(model).match("head")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = {name: p.clone() for name, p in model.named_parameters()}
    logits = model(torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 4)
    torch.nn.functional.cross_entropy(logits, torch.tensor([1, 3])).backward()
    optimizer.step()
    assert all(p.grad is not None for p in model.parameters())
    assert not any(torch.equal(before[name], model.get_parameter(name)) for name in head)


def test_any_model_of_timm_goes_by_its_name():
    model = build(timm_backbone("test_vit", drop_rate=0.1), spec(32), classes=2, seed=0)
    assert isinstance(model, timm.models.VisionTransformer)
    assert model.head_drop.p == 0.1
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


def test_random_weights_depend_only_on_the_seed():
    states = []
    for seed, drawn_before in ((0, 0), (0, 5), (1, 0)):
        torch.rand(drawn_before)
        state = torch.get_rng_state()
        states.append(build(timm_backbone("test_resnet"), spec(32), 2, seed).state_dict())
        assert torch.equal(torch.get_rng_state(), state)
    same, again, other = (s["fc.weight"] for s in states)
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


@pytest.mark.parametrize(
    ("name", "guess"), [("resnet-18", "'resnet18'"), ("convnext_ato", "'convnext_atto'")]
)
def test_an_unknown_name_lists_the_nearest(name, guess):
    with pytest.raises(FrostlineError) as caught:
        default_input(timm_backbone(name))
    assert str(caught.value).startswith(f"backbone.name: timm has no {name!r}; did you mean ")
    assert guess in str(caught.value)


@pytest.mark.parametrize(("name", "size"), [("vit_tiny_patch16_224", 8), ("convnext_atto", 16)])
def test_a_size_that_a_network_can_not_take_is_one_sentence(name, size):
    with pytest.raises(FrostlineError) as caught:
        build(timm_backbone(name), spec(size), 2, seed=0)
    assert str(caught.value).startswith(f"input.size: {name} can't take 3×{size}×{size} images (")
    assert str(caught.value).endswith("); try a larger input.size")


@pytest.mark.parametrize(
    "name", ["resnet10t", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"]
)
def test_oblong_images(name):
    """Height and width are not swapped."""
    model = build(timm_backbone(name), InputSpec((64, 96), 1, "bicubic", 1.0, (0.5,), (0.5,)), 2, seed=0)
    if hasattr(model, "patch_embed"):
        assert model.patch_embed.grid_size == (
            64 // model.patch_embed.patch_size[0],
            96 // model.patch_embed.patch_size[1],
        )
    assert model(torch.zeros(1, 1, 64, 96)).shape == (1, 2)


def test_timms_crop_mode_is_the_fit():
    assert default_input(timm_backbone("maxvit_tiny_tf_384")).fit == "squash"
    assert default_input(timm_backbone("resnet18")).fit == "crop"


def test_a_setting_that_a_network_has_not_is_one_sentence():
    with pytest.raises(FrostlineError, match="drop_path_rate"):
        build(timm_backbone("vgg11", drop_path_rate=0.1), spec(32), 2, seed=0)


def test_the_article_network_takes_28_pixels_of_grey():
    mlp = schema.Mlp(kind="mlp", hidden=[64], activation="relu", dropout=0.0)
    seen = default_input(mlp)
    assert (seen.size, seen.channels, seen.mean, seen.std) == (28, 1, (0.0,), (1.0,))
    model = build(mlp, seen, 10, seed=0)
    assert sum(p.numel() for p in model.parameters()) == 784 * 64 + 64 + 64 * 10 + 10
