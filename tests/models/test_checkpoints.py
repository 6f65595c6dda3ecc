"""Checkpoints as people have them: the right tensors are found, or one sentence says what is there."""

import argparse
import os
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from frostline.console.errors import FrostlineError
from frostline.models import weights
from frostline.models.initial_weights import InitialWeights
from frostline.models.mlp import Mlp

HEAD = {"head.weight", "head.bias"}


class Normalized(nn.Module):
    """A convolution, a norm that counts its batches, and a head."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 3)


def state_of(model=None):
    return (model or Mlp(4, [3], 2)).state_dict()


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def taken(path, model=None, key=None, *, reset_head=True):
    """The weights that a network gets of a file, and what is said."""
    model, said = model or Mlp(4, [3], 2), []
    state, about, key = weights.load_entry(path, key, said.append)
    if about is None:
        initial = InitialWeights(state, None, None, f"weights.path: {path.name}", None, key=key)
        state = weights.match_names(initial, model, HEAD, said.append, reset_head=reset_head)
    weights.transfer(model, state, HEAD, reset_head=reset_head, source="w")
    return model.state_dict(), [text.replace(str(path), path.name) for text in said]


def is_body(found, state):
    return all(torch.equal(found[name], state[name]) for name in found.keys() - HEAD)


EXTRAS = {
    "epoch": 3,
    "optimizer": {"state": {0: {"exp_avg": torch.ones(3, 4)}}, "param_groups": [{"lr": 0.1}]},
    "args": argparse.Namespace(lr=0.1, model="x"),
    "best": np.float64(0.5),
    "amp_scaler": {"scale": 65536.0, "_growth_tracker": 3},
    "logs": defaultdict(list, {"loss": [1.0]}),
}


@pytest.mark.parametrize("name", ["state_dict", "model", "net", "model_state_dict", "weights", "teacher"])
def test_a_wrapper_is_left_out_with_a_message(name, tmp_path):
    path, state = tmp_path / "w.pth", state_of()
    torch.save({**EXTRAS, name: state}, path)
    found, said = taken(path)
    assert is_body(found, state)
    assert said == [f"weights.path: w.pth: the weights are those under {name}"]


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "backbone.", "net.", "module.model._orig_mod."]
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_common_prefix_is_stripped_with_a_message(prefix, suffix, tmp_path):
    path, state = tmp_path / f"w.{suffix}", state_of()
    (torch.save if suffix == "pth" else save_file)(prefixed(state, prefix), path)
    found, said = taken(path, reset_head=False)
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert said == [f"weights.path: w.{suffix}: the prefix {prefix} of 4 keys is stripped"]


def test_a_plain_file_says_nothing(tmp_path):
    torch.save(OrderedDict(state_of()), tmp_path / "w.pth")
    save_file(state_of(), tmp_path / "w.safetensors", metadata={"format": "pt"})
    for path in tmp_path.iterdir():
        assert taken(path)[1] == []


@pytest.mark.parametrize(
    ("content", "choices"),
    [
        (lambda a, b: {"model": a, "model_ema": b}, ("model", "model_ema")),
        (lambda a, b: {"state_dict": a, "state_dict_ema": b, **EXTRAS}, ("state_dict", "state_dict_ema")),
        (lambda a, b: {"model": a, "ema": {"module": b, "decay": 0.9}}, ("model", "ema.module")),
        # torchvision's average: wrapped as DataParallel wraps, with a count of its own
        (
            lambda a, b: {"model": a, "model_ema": {"n_averaged": torch.tensor(3), **prefixed(b, "module.")}},
            ("model", "model_ema"),
        ),
        # Lightning: both in one state dict
        (
            lambda a, b: {"state_dict": {**prefixed(a, "model."), **prefixed(b, "ema_model.")}},
            ("model", "ema_model"),
        ),
    ],
)
def test_of_several_weights_one_is_named(content, choices, tmp_path):
    path, plain, average = tmp_path / "w.pth", state_of(), state_of()
    torch.save(content(plain, average), path)
    with pytest.raises(FrostlineError, match=r"w\.pth holds several weights, ") as caught:
        taken(path)
    advice = str(caught.value).rpartition("; set ")[2]
    assert set(advice.split(" or ")) == {f"weights.key={choice}" for choice in choices}
    for choice, state in zip(choices, (plain, average), strict=True):
        assert is_body(taken(path, key=choice)[0], state)
    with pytest.raises(FrostlineError, match=r"weights\.key: .* has no weights 'emma'; (did you|allowed)"):
        taken(path, key="emma")


def test_a_key_of_a_file_with_one_state_dict_is_refused(tmp_path):
    torch.save(state_of(), tmp_path / "w.pth")
    weights.save(tmp_path / "ours.safetensors", state_of(), {"input": {}, "classes": []})
    for name in ("w.pth", "ours.safetensors"):
        with pytest.raises(FrostlineError, match=r"no weights 'ema'; set weights\.key=null"):
            taken(tmp_path / name, key="ema")


@pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:.*LeafSpec")
def test_lightnings_checkpoint_is_read_and_its_metrics_left_out(tmp_path):
    import pytorch_lightning as pl
    from omegaconf import OmegaConf
    from tests.tiny import QUIET

    class Module(pl.LightningModule):
        def __init__(self, config, name):
            super().__init__()
            self.save_hyperparameters()
            self.model, self.criterion = Mlp(4, [3], 2), nn.CrossEntropyLoss(weight=torch.ones(2))

        def training_step(self, batch, index):
            return self.criterion(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    module = Module(OmegaConf.create({"lr": 0.1, "layers": [1, 2]}), "a name")
    trainer = pl.Trainer(**QUIET, max_epochs=1)
    data = torch.utils.data.DataLoader([(torch.randn(1, 2, 2), 0), (torch.randn(1, 2, 2), 1)], batch_size=2)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    found, said = taken(tmp_path / "last.ckpt")
    assert is_body(found, module.model.state_dict())
    assert said == [
        "weights.path: last.ckpt: the weights are those under state_dict",
        "weights.path: last.ckpt: the prefix model. of 4 keys is stripped, and the 1 others are left out",
    ]


def test_files_from_before_batches_were_counted_are_read(tmp_path):
    state = state_of(Normalized())
    del state["norm.num_batches_tracked"]
    torch.save(state, tmp_path / "w.pth")
    assert taken(tmp_path / "w.pth", Normalized())[0]["norm.num_batches_tracked"] == 0


def test_a_reset_head_may_have_another_name_in_the_file(tmp_path):
    state = {name.replace("head.", "fc."): tensor for name, tensor in state_of().items()}
    torch.save(state, tmp_path / "w.pth")
    found, said = taken(tmp_path / "w.pth")
    assert is_body(found, state_of() | state)
    assert said == ["weights.path: w.pth: the head fc.bias, fc.weight is left out"]
    with pytest.raises(
        FrostlineError, match=r"2 keys are missing \(head.bias, head.weight\) and 2 unexpected"
    ):
        taken(tmp_path / "w.pth", reset_head=False)


def test_weights_of_another_network_list_the_keys_of_both(tmp_path):
    torch.save({"state_dict": {"encoder.conv.weight": torch.ones(2, 2)}}, tmp_path / "w.pth")
    with pytest.raises(
        FrostlineError, match=r"\(weights: encoder\.conv\.weight; network: hidden\.0\.bias, hidden"
    ):
        taken(tmp_path / "w.pth")


class Evil:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["hyper_parameters", "state_dict"])
def test_code_beside_the_tensors_is_not_executed(place, legacy, tmp_path):
    content = {"state_dict": state_of(), "hyper_parameters": {}}
    content[place] = {**content[place], "evil": Evil(tmp_path / "executed")}
    torch.save(content, tmp_path / "w.ckpt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(FrostlineError, match="holds more than tensors, or is damaged, and was not executed"):
        taken(tmp_path / "w.ckpt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("w.pth", b"", "w.pth is empty; copy or download it again"),
        ("w.pth", b"\n<HTML>404", "w.pth is an HTML page, not weights (a failed download?)"),
        ("w.ckpt", b"PK\x03\x04 not an archive", "holds more than tensors, or is damaged"),
        ("w.safetensors", b"", "w.safetensors is empty"),
        ("w.safetensors", b"<!doctype html><html></html>", "w.safetensors is an HTML page"),
        ("w.safetensors", b"no header", "is damaged"),
        (
            "w.safetensors",
            b"version https://git-lfs.github.com/spec/v1\n",
            "is a pointer of Git LFS; run git",
        ),
        ("model.safetensors.index.json", b'{"weight_map": {}}', "is a JSON file, such as the index of"),
    ],
)
def test_what_is_no_weights_file_is_one_sentence(name, content, sentence, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FrostlineError) as caught:
        taken(tmp_path / name)
    assert str(caught.value).startswith("weights.path: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_names_the_file_in_it(tmp_path):
    save_file(state_of(), tmp_path / "model.safetensors")
    with pytest.raises(FrostlineError, match=r"is a folder; .*weights\.path=.*/model\.safetensors$"):
        weights.load(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["not JSON", "[]", "1", "null", '{"input": 1, "classes": []}', '{"input": {}, "classes": [1]}'],
)
def test_foreign_metadata_under_our_name_is_one_sentence(text, tmp_path):
    save_file(state_of(), tmp_path / "w.safetensors", metadata={"frostline": text})
    with pytest.raises(FrostlineError, match=r"the metadata 'frostline' in .* is not what frostline writes"):
        weights.load(tmp_path / "w.safetensors")


def test_empty_metadata_is_that_of_a_run_without_an_epoch_to_describe(tmp_path):
    save_file(state_of(), tmp_path / "w.safetensors", metadata={"frostline": "{}"})
    assert weights.load(tmp_path / "w.safetensors")[1] is None


def test_the_content_says_what_a_file_is_not_its_name(tmp_path):
    save_file(state_of(), tmp_path / "w.pth")
    torch.save(state_of(), tmp_path / "w.safetensors")
    for path in tmp_path.iterdir():
        assert taken(path)[1] == []


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    ("convert", "sentence"),
    [
        (
            lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
            "conv.weight is quantized (qint8); save",
        ),
        (lambda t: t.to("meta"), "conv.weight is on the device meta, without values; load"),
        (lambda t: t.int(), "conv.bias is int32, and the network wants float32; save"),
        (lambda t: t.bool(), "conv.bias is bool, and the network wants float32; save"),
        (lambda t: t.to(torch.complex64), "conv.bias is complex64, and the network wants float32; save"),
    ],
)
def test_weights_that_are_no_floating_point_numbers_are_refused(convert, sentence, tmp_path):
    state = {name: convert(t) if t.is_floating_point() else t for name, t in state_of(Normalized()).items()}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(FrostlineError) as caught:
        taken(tmp_path / "w.pth", Normalized())
    assert sentence in str(caught.value)


def test_half_precision_and_counts_as_other_integers_are_taken(tmp_path):
    state = state_of(Normalized())
    halves = {name: t.half() if t.is_floating_point() else t.int() for name, t in state.items()}
    torch.save(halves, tmp_path / "w.pth")
    found, _ = taken(tmp_path / "w.pth", Normalized())
    assert all(torch.equal(found[name], halves[name].to(found[name].dtype)) for name in found.keys() - HEAD)
