"""Heads trained at once are what training each alone gives, whatever a config asks for."""

import pytest
from tests.tiny import PROBE, RESNET, run_config

from frostline.base.formats import read_csv, read_json
from frostline.console.errors import FrostlineError
from frostline.models import weights
from frostline.models.pretrained import load_initial_weights
from frostline.probing import heads
from frostline.probing.batchable import NotBatchable
from frostline.training import run as training_run
from frostline.training.inputs import load_inputs
from frostline.training.services import Services

NETWORK = {"backbone": RESNET, "input": {"size": 32, "channels": 3}, "freeze": PROBE, "freeze_name": "probe"}
ADAM = {"name": "adam", "options": {"betas": [0.8, 0.95]}}
SMOOTH = {"kind": "cross_entropy", "label_smoothing": 0.2, "class_weights": "balanced"}
EFFECTIVE = {**SMOOTH, "label_smoothing": 0.0, "class_weights": {"effective": 0.99}}
PHASE = {
    "groups": {"h": "head", "rest": "*"},
    "phases": [
        {
            "train": ["h"],
            "until": "end",
            "lr": {"h": 3.0},
            "weight_decay": 0.2,
            "batch_size": 30,
            "schedule": {"kind": "one_cycle", "warmup": 0.3, "final": 0.0, "momentum": [0.8, 0.9]},
        }
    ],
}


def together(configs, digits, folder):
    services, initial = Services(folder), load_initial_weights(configs[0].backbone, configs[0].weights)
    given = load_inputs(configs[0], digits, initial, services)
    groups = heads.group_by_features(configs, given, services)
    return heads.train(groups, services), given, initial


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": {"name": "sgd", "momentum": 0.9}},
        {"optimizer": {"name": "momentum", "momentum": 0.8, "clip_norm": 0.5}},
        {"optimizer": ADAM, "loss": SMOOTH},
        {"loss": EFFECTIVE, "trainer.monitor": "val/loss"},
        {"loss": {"kind": "mse"}},
        {"freeze": PHASE},
        {"trainer.precision": "bf16"},
        {"augment": {"flip": 0.5}, "features": {"kind": "auto", "views": 2}},
        {"dataset": {"shots": None, "fraction": 0.1}},
        {"dataset": {"selection": "within"}},
        {"dataset": {"selection": "within"}, "trainer.monitor": "val/loss"},
        {"dataset": {"selection": "last"}},
        {"backbone": {"kind": "mlp", "hidden": [16], "activation": "relu", "dropout": 0.0}},
    ],
    ids=[
        "adamw",
        "sgd",
        "momentum",
        "adam",
        "effective",
        "mse",
        "phase",
        "bf16",
        "views",
        "fraction",
        "within",
        "within loss",
        "last",
        "mlp",
    ],
)
def test_each_equals_a_standalone_run(changes, digits, tmp_path):
    configs = [
        run_config({**NETWORK, **changes, "seed": seed, "optimizer.lr": lr, "optimizer.weight_decay": decay})
        for seed, lr, decay in ((0, 0.01, 0.0), (1, 0.02, 0.1))
    ]
    found, given, _ = together(configs, digits, tmp_path)
    by_seed = {head.run.seed: head for head in found}
    trained = by_seed[1]
    training_run.train(configs[1], given, tmp_path / "alone", Services(tmp_path), "alone")
    rows = read_csv(tmp_path / "alone" / "history.csv")
    for row, other in zip(trained.fit.history, rows, strict=True):
        expected = {
            name: pytest.approx(float(cell), rel=1e-4) if cell else None for name, cell in other.items()
        }
        assert row == expected
    assert trained.fit.best_epoch == read_json(tmp_path / "alone" / "training.json")["best_epoch"]
    state, _ = weights.load(tmp_path / "alone" / "weights.safetensors")
    mine = trained.best_state
    assert mine.keys() == state.keys()
    assert all(mine[name].allclose(state[name], rtol=1e-3, atol=1e-5) for name in state)


def test_what_comes_behind_the_head_is_noticed_though_the_head_is_zero(digits, tmp_path, monkeypatch):
    from frostline.models import backbones

    def doubled(*arguments):
        network = backbones._timm(*arguments)
        forward = network.forward_head
        network.forward_head = lambda x: 2 * forward(x)
        return network

    monkeypatch.setitem(backbones.BUILDERS, "timm", doubled)
    with pytest.raises(
        NotBatchable, match=r"^backbone: the head of test_resnet, which is not a single linear"
    ):
        together([run_config(NETWORK)], digits, tmp_path)


def test_features_that_do_not_fit_the_cache(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("FROSTLINE_CACHE_GIB", "0.0000001")
    with pytest.raises(FrostlineError, match=r"^features: caching 37\.5 KiB .* FROSTLINE_CACHE_GIB higher"):
        together([run_config(NETWORK)], digits, tmp_path)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (
            {"freeze": {**PHASE, "phases": [{**PHASE["phases"][0], "dropout": 0.1}]}},
            "freeze.phases.0.dropout",
        ),
        (
            {"freeze": {**PHASE, "phases": [{**PHASE["phases"][0], "optimizer": {"h": {"eps": 0.1}}}]}},
            "freeze.phases.0.optimizer",
        ),
        ({"freeze": {"groups": {"all": "*"}, "phases": []}}, "freeze"),
        (
            {
                "freeze": {
                    "groups": {"w": "re:fc.weight", "b": "re:fc.bias", "rest": "*"},
                    "phases": [{"train": ["w", "b"], "until": "end"}],
                }
            },
            "freeze",
        ),
    ],
)
def test_a_schedule_that_asks_for_more(changes, key, digits, tmp_path):
    with pytest.raises(NotBatchable) as caught:
        together([run_config({**NETWORK, **changes})], digits, tmp_path)
    assert caught.value.reason.startswith(f"{key}: ")
