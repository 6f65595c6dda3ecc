"""Low-rank adapters in timm backbones: what trains, and what is left when a run is over."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import RESNET, Bench, arm_of, run_config, same, tensors

from frostline import schema
from frostline.config.overrides import to_hydra
from frostline.console.errors import FrostlineError
from frostline.freezing.layers import layers_of
from frostline.models import lora
from frostline.pipeline.compose.stage import check_run
from frostline.pipeline.finetune.stage import finetune
from frostline.training.module import Classifier
from frostline.training.run import plan_of
from frostline.training.services import Services

VIT = {**RESNET, "name": "test_vit"}
LORA = {"kind": "lora", "rank": 2, "alpha": 4, "dropout": 0.0, "layers": "*"}
BACKBONES = pytest.mark.parametrize("backbone", [RESNET, VIT], ids=lambda backbone: backbone["name"])
GRADUAL = {
    "groups": {"head": "head", "top": "stage:-1", "rest": "*"},
    "phases": [{"train": ["head"], "until": {"epochs": 1}}, {"train": ["head", "top"], "until": "end"}],
}


def config(backbone, adapter, **changes):
    size = {"input.size": 32 if backbone is VIT else 16}
    weights = {"kind": "file", "path": "given", "head": "reset"}
    return {"backbone": backbone, "adapter": adapter, "weights": weights, **size, **changes}


def adapted(backbone, adapter, **changes):
    """A network with adapters, which have moved, and the network that it was."""
    bench = Bench({**config(backbone, {"kind": "none"}), **changes})
    before = tensors(bench.network)
    run = run_config(config(backbone, adapter))
    lora.adapt(bench.network, run)
    return bench.network, before, run


def moved(network):
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if lora.OWN in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return network


# ── the network ─────────────────────────────────────────────────────────────────────────────────────────────


@BACKBONES
def test_an_adapter_changes_no_output_at_first_and_merges_into_ordinary_weights(backbone):
    network, before, run = adapted(backbone, LORA)
    images = torch.randn(2, 1, run.input.size, run.input.size)
    plain = Bench(config(backbone, {"kind": "none"})).network.eval()
    network.eval()
    torch.testing.assert_close(network(images), plain(images))
    state = tensors(moved(network))
    merged = lora.merged(network, state)
    assert list(merged) == list(before)
    assert same(tensors(network), state)
    plain.load_state_dict(merged, strict=True)
    torch.testing.assert_close(plain(images), network(images))
    assert not torch.allclose(
        merged["head.weight" if backbone is VIT else "layer4.0.conv1.weight"], torch.zeros(1)
    )


def test_lora_by_hand():
    network, before, _ = adapted(VIT, LORA)
    name = "blocks.0.attn.qkv"
    state = tensors(moved(network))
    a, b = (state[f"{name}.lora_{which}.weight"] for which in "ab")
    merged = lora.merged(network, state)
    torch.testing.assert_close(merged[f"{name}.weight"], before[f"{name}.weight"] + 4 / 2 * b @ a)
    assert torch.equal(merged["norm.weight"], before["norm.weight"])


@pytest.mark.parametrize("base", [torch.nn.Linear(6, 4), torch.nn.Conv2d(3, 4, 3, stride=2, padding=1)])
def test_the_weight_is_the_merged_one_for_networks_that_do_not_call_the_layer(base):
    layer = moved(torch.nn.Sequential(lora.LowRank(base, schema.Lora(**LORA))))[0]
    images = torch.randn(2, 6) if isinstance(base, torch.nn.Linear) else torch.randn(2, 3, 5, 5)
    own = {"weight": layer.weight, "bias": layer.bias}
    torch.testing.assert_close(torch.func.functional_call(base, own, images), layer(images))


def test_the_first_matrices_are_drawn_from_the_seed_and_from_nothing_else():
    def first(seed):
        bench = Bench(config(VIT, {"kind": "none"}))
        lora.adapt(bench.network, run_config({**config(VIT, LORA), "seed": seed}))
        return tensors(bench.network)

    torch.manual_seed(0)
    one = first(0)
    after = torch.rand(1)
    assert same(one, first(0))
    assert not same(one, first(1))
    torch.manual_seed(0)
    Bench(config(VIT, {"kind": "none"}))
    assert torch.equal(torch.rand(1), after)


def test_layers_are_chosen_by_the_patterns_of_the_schedule():
    network, _, _ = adapted(VIT, {**LORA, "layers": "re:attn.qkv"})
    own = {name for name, _ in network.named_parameters() if ".lora_" in name}
    assert own
    assert all(".attn.qkv.lora_" in name for name in own)


@BACKBONES
def test_a_group_that_trains_trains_its_matrices_and_the_head_itself(backbone):
    network, _, _ = adapted(backbone, LORA)
    run = run_config(config(backbone, LORA, freeze=GRADUAL))
    plan = plan_of(run, network, 40)
    head = {name for name, place in layers_of(network).places.items() if place.head}
    assert plan.trained(0) == head
    top = plan.trained(1) - head
    assert top
    assert all(".lora_" in name for name in top)
    assert {layers_of(network).places[name].stage for name in top} == {layers_of(network).stages - 1}
    assert not plan.updated_statistics(1)


# ── a run ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def starts(digits, tmp_path_factory):
    """Weights to start from, by backbone."""
    folder = tmp_path_factory.mktemp("starts")
    for backbone in (RESNET, VIT):
        given = config(backbone, {"kind": "none"}, **{"weights": {"kind": "none"}, "trainer.epochs": 1})
        finetune(arm_of(run_config(given)), digits, folder / backbone["name"], Services(folder / "scratch"))
    return lambda backbone: folder / backbone["name"] / "seed-0" / "weights.safetensors"


@BACKBONES
def test_a_run_leaves_ordinary_weights_whose_low_rank_change_is_in_what_trained(
    backbone, digits, starts, tmp_path
):
    weights = {"kind": "file", "path": str(starts(backbone)), "head": "keep"}
    given = config(backbone, LORA, weights=weights, freeze=GRADUAL)
    run = run_config({**given, "trainer.monitor": "val/loss", "optimizer": {"lr": 0.003}})
    finetune(arm_of(run), digits, tmp_path / "out", Services(tmp_path / "scratch"))
    done = json.loads((tmp_path / "out/seed-0/training.json").read_text())
    assert done["best_epoch"] > 1
    begun, ended = load_file(starts(backbone)), load_file(tmp_path / "out/seed-0/weights.safetensors")
    assert list(begun) == list(ended)
    places = layers_of(Bench(config(backbone, {"kind": "none"})).network).places
    last = max(place.stage for place in places.values() if place.stage is not None)
    changed = {name for name in begun if not torch.equal(begun[name], ended[name])}
    assert changed
    assert {places[name].stage for name in changed} == {None, last}
    assert not {name for name in changed if places[name].norm}
    for name in changed:
        if begun[name].ndim == 2 and not places[name].head:
            assert torch.linalg.matrix_rank(ended[name] - begun[name], rtol=1e-3) <= 2


def test_a_base_that_is_frozen_stays_as_it_is_to_the_bit_while_its_adapter_trains(tmp_path):
    class Adapted(Classifier):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            states.append(tensors(self.network))

    states = []
    network, _, run = adapted(RESNET, LORA)
    before = tensors(network)
    bench = Bench(config(RESNET, {"kind": "none"}))
    plan = plan_of(run, network, 40)
    bench.classifier = Adapted(network, plan, run.optimizer, run.loss, 0)
    bench.fit(tmp_path)
    moved = {name for name, tensor in states[-1].items() if not torch.equal(tensor, before[name])}
    ours = {name for name in before if lora.OWN in name}
    assert moved <= ours | {"fc.weight", "fc.bias"}
    assert len(moved & ours) > 4


# ── what can't be ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"backbone": {"kind": "mlp", "hidden": [4], "activation": "relu", "dropout": 0.0}},
            "adapter: lora is for timm's backbones, not mlp; set adapter=none",
        ),
        (
            {"weights": {"kind": "none"}},
            "adapter: lora does not train the backbone, and weights=none are random;"
            " set adapter=none, or choose other weights",
        ),
        (
            {"regularizer": {"kind": "l2_start", "alpha": 0.1}},
            "regularizer: l2_start pulls the backbone's weights towards their initial values, and"
            " adapter=lora does not train them; set regularizer=none",
        ),
        (
            {"adapter": {**LORA, "layers": "norm"}},
            "adapter.layers: 'norm' matches no linear or convolutional layer below the head; widen it",
        ),
        ({"adapter": {**LORA, "layers": "blok:1"}}, "adapter.layers: no layers are called 'blok:1'; did you"),
    ],
)
def test_an_adapter_that_does_not_fit_is_one_sentence_before_any_training(changes, sentence):
    with pytest.raises(FrostlineError) as caught:
        check_run(run_config({**config(VIT, LORA), **changes}))
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("kind", ["dora", "loha"])
def test_other_adapters_are_refused_and_lora_is_named(kind):
    with pytest.raises(FrostlineError, match=f"^adapter: no option '{kind}'; did you mean 'lora'"):
        to_hydra(f"adapter={kind}")
