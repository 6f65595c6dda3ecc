"""Every name of a model works or is refused in one sentence."""

import json
import time

import pytest
import timm
import torch
from huggingface_hub import constants
from tests.models.hub import publish_model, serving
from tests.tiny import RESNET

from frostline import schema
from frostline.console.errors import FrostlineError
from frostline.models import pretrained, timm_names
from frostline.models.backbones import build, default_input

NO_HUB = "http://127.0.0.1:9"
IMAGENET = schema.ImagenetWeights(kind="imagenet")


def named(name):
    return schema.Timm.model_validate({**RESNET, "name": name})


def built(name):
    backbone = named(name)
    return build(backbone, default_input(backbone), 3, seed=0)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Sets the hub's address; its cache is empty."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    timm_names._read_config.cache_clear()

    def at(endpoint):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    at(NO_HUB)
    yield at
    timm_names._read_config.cache_clear()


@pytest.mark.parametrize(
    "name",
    [
        "test_resnet.r160_in1k",
        "timm/test_resnet.r160_in1k",
        "hf-hub:timm/test_resnet.r160_in1k",
        "hf_hub:timm/test_resnet.r160_in1k",
        "https://huggingface.co/timm/test_resnet.r160_in1k",
    ],
)
@pytest.mark.usefixtures("hub")
def test_spellings_of_one_model_are_one_model(name):
    """The hub is not asked: timm knows its own models."""
    assert named(name).name == "test_resnet.r160_in1k"
    network = built(name)
    assert [t.shape for t in network.state_dict().values()] == [
        t.shape for t in timm.create_model("test_resnet", num_classes=3).state_dict().values()
    ]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet18.nonsense", "timm has no weights 'nonsense' of resnet18; did you mean 'resnet18."),
        ("resnet18.a1_in1", "of resnet18; did you mean 'resnet18.a1_in1k'"),
        ("resnet18.", "timm has no weights '' of resnet18; did you mean"),
        ("timm/resnet10t.c3", "timm has no weights 'c3' of resnet10t; did you mean 'resnet10t.c3_in1k'"),
        ("tv_resnet50", "timm has renamed it; set backbone.name=resnet50.tv_in1k"),
        ("vit_base_patch16_224_in21k", "set backbone.name=vit_base_patch16_224.augreg_in21k"),
        ("timm/resnet19", "timm has no 'resnet19'; did you mean 'resnet18'"),
        ("ResNet18", "timm has no 'ResNet18'; did you mean 'resnet18'"),
        ("", "timm has no ''; "),
        ("foo:bar", "timm has no 'foo:bar'; "),
        ("hf-hub:", "'hf-hub:' names no repository; write hf-hub:owner/name"),
        ("hf-hub:resnet18", "write hf-hub:owner/name"),
        ("a/b/c", "write hf-hub:owner/name"),
        ("owner/name", "the config.json of hf-hub:owner/name can't be read ("),
        ("hf-hub:owner/name@main", "the config.json of hf-hub:owner/name@main can't be read ("),
        ("local-dir:nowhere", "the config.json of local-dir:nowhere can't be read (Config file not found"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_a_name_that_does_not_work_is_one_sentence(name, sentence):
    begun = time.monotonic()
    for call in (built, lambda name: pretrained.load_initial_weights(named(name), IMAGENET)):
        with pytest.raises(FrostlineError) as caught:
            call(name)
        text = str(caught.value)
        assert text.startswith("backbone.name: ")
        assert sentence in text
        assert "\n" not in text
    assert time.monotonic() - begun < 60  # its client alone would try for minutes


def test_no_name_of_timms_ends_in_a_traceback():
    """Renamed and removed ones name what took their place; what they name is there."""
    for old, new in timm.models.get_deprecated_models().items():
        with pytest.raises(FrostlineError, match="renamed it" if new else "removed it") as caught:
            timm_names.resolve_name(old)
        if new:
            timm_names.resolve_name(str(caught.value).rpartition("backbone.name=")[2])
    for name in timm.list_models() + timm.list_pretrained():
        assert timm_names.resolve_name(name)[0] == name


def test_a_repository_of_the_hub_gives_its_architecture_and_weights(tmp_path, hub):
    theirs = publish_model(tmp_path / "hub", "test_resnet", "someone/my-net")
    name = "hf-hub:someone/my-net"
    with serving(tmp_path / "hub") as (endpoint, _):
        hub(endpoint)
        network = built("someone/my-net")
        initial = pretrained.load_initial_weights(named(name), IMAGENET)
    assert type(network) is type(timm.create_model("test_resnet"))
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in initial.state.items())
    # Its config.json is in the cache now, where it is found without the hub.
    timm_names._read_config.cache_clear()
    hub(NO_HUB)
    assert built(name).fc.out_features == 3


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"architecture": "of_another_library"}, "names the architecture 'of_another_library', which timm"),
        ({"model_type": "resnet"}, "can't be read ('architecture')"),
        (["no", "mapping"], "can't be read ("),
    ],
)
def test_a_repository_of_another_library_is_one_sentence(config, sentence, tmp_path, hub):
    folder = tmp_path / "hub" / "someone" / "else"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    with serving(tmp_path / "hub") as (endpoint, _):
        hub(endpoint)
        with pytest.raises(FrostlineError) as caught:
            built("someone/else")
    assert sentence in str(caught.value)
