"""Averages of weights along real fits: what is validated, kept, and trained on."""

import pytest
import torch
from tests.tiny import RESNET, Bench, Sharing, same, tensors
from torch import nn

from frostline.models import backbones
from frostline.training.module import Classifier

EMA = {"kind": "ema", "decay": 0.9, "warmup": False}
SWA = {"kind": "swa", "start": 0.5}
GRADUAL = {
    "groups": {"head": "head", "rest": "*"},
    "phases": [
        {"train": ["head"], "until": {"epochs": 2}},
        {"train": "all", "until": "end"},
    ],
}
CONV = {"backbone": RESNET, "input.size": 16, "trainer.epochs": 4}


class Watched(Classifier):
    """Keeps the weights after each step, and those that validation sees."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.steps, self.validated = [], []

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.steps.append(tensors(self.network))

    def on_validation_epoch_start(self):
        super().on_validation_epoch_start()
        self.validated.append(tensors(self.network))


def close(a, b):
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], msg=lambda text, name=name: f"{name}: {text}")


def test_training_is_the_same_with_and_without_an_average(tmp_path):
    fits = [Bench({**CONV, "averaging": a}, kind=Watched) for a in ({"kind": "none"}, EMA, SWA)]
    for number, bench in enumerate(fits):
        bench.fit(tmp_path / str(number))
    for bench in fits[1:]:
        assert len(bench.classifier.steps) == 8
        assert all(same(a, b) for a, b in zip(bench.classifier.steps, fits[0].classifier.steps, strict=True))
        assert same(tensors(bench.network), tensors(fits[0].network))


# ── EMA ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sharing", [False, True])
def test_ema_is_what_validation_sees_and_what_is_kept(sharing, tmp_path, monkeypatch):
    if sharing:  # layers, and buffers that no freeze schedule governs
        monkeypatch.setitem(backbones.BUILDERS, "timm", lambda *arguments: Sharing())
    bench = Bench({**CONV, "input.size": 8 if sharing else 16, "averaging": EMA}, kind=Watched)
    average = {k: v.clone() for k, v in tensors(bench.network).items()}
    result = bench.fit(tmp_path)
    seen = bench.classifier.validated
    close(seen[0], average)
    for step, state in enumerate(bench.classifier.steps):
        for name, tensor in state.items():
            moved = 0.9 * average[name] + 0.1 * tensor if tensor.is_floating_point() else tensor
            average[name] = moved
        if step % 2:
            close(seen[(step + 1) // 2], average)
    assert any("running_mean" in name or "again" in name for name in average)
    assert same(result.best_state, seen[result.best_epoch])
    assert result.best_epoch > 0


def test_a_frozen_layers_average_is_the_layer_and_starts_from_it_at_its_thaw(tmp_path):
    bench = Bench({**CONV, "freeze": GRADUAL, "averaging": EMA}, kind=Watched)
    start = tensors(bench.network)
    bench.fit(tmp_path)
    steps, seen = bench.classifier.steps, bench.classifier.validated
    name = "layer1.0.conv1.weight"
    assert name in start
    for epoch in (0, 1, 2):
        assert torch.equal(seen[epoch][name], start[name])
    expected = start[name]
    for state in steps[4:6]:
        expected = 0.9 * expected + 0.1 * state[name]
    torch.testing.assert_close(seen[3][name], expected)
    # The head has been averaged all along.
    assert not torch.equal(seen[2]["fc.weight"], steps[3]["fc.weight"])


def test_after_a_phase_that_restores_its_best_the_average_begins_with_that(tmp_path):
    phases = [
        {"train": "all", "until": {"epochs": 2}, "restore": "best"},
        {"train": ["head"], "until": "end", "restore": "none"},
    ]
    schedule = {**GRADUAL, "phases": phases}
    bench = Bench({**CONV, "freeze": schedule, "averaging": EMA}, kind=Watched)
    bench.fit(tmp_path)
    steps, seen = bench.classifier.steps, bench.classifier.validated
    best = next(
        state for state in seen[1:3] if torch.equal(state["conv1.0.weight"], steps[4]["conv1.0.weight"])
    )
    expected = 0.9 * (0.9 * best["fc.weight"] + 0.1 * steps[4]["fc.weight"]) + 0.1 * steps[5]["fc.weight"]
    torch.testing.assert_close(seen[3]["fc.weight"], expected)
    assert torch.equal(seen[3]["conv1.0.weight"], best["conv1.0.weight"])


# ── SWA ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_swa_is_the_mean_of_the_last_epochs_with_statistics_of_its_own(tmp_path):
    bench = Bench({**CONV, "averaging": SWA}, kind=Watched)
    result = bench.fit(tmp_path)
    ends, seen = bench.classifier.steps[1::2], bench.classifier.validated
    assert same(seen[2], ends[1])  # before its time
    mean = {name: (ends[2][name] + ends[3][name]) / 2 for name, _ in bench.network.named_parameters()}
    close(mean, {name: seen[4][name] for name in mean})
    # By hand: the first layer's mean over the epoch's batches, each counting alike.
    network = Bench(CONV).network
    network.load_state_dict(seen[4])
    inputs = []
    network.conv1[1].register_forward_hook(lambda module, given, _: inputs.append(given[0]))
    with torch.no_grad():
        for images in bench.data.epoch_images(3, 0, torch.device("cpu")):
            network.eval()(images)
    means = torch.stack([given.mean((0, 2, 3)) for given in inputs])
    torch.testing.assert_close(seen[4]["conv1.1.running_mean"], means.mean(0))
    assert len(inputs) == 2
    assert result.best_epoch == 0 or same(result.best_state, seen[result.best_epoch])


def test_swa_leaves_the_statistics_of_frozen_layers_alone(tmp_path):
    probe = {**GRADUAL, "phases": [{"train": ["head"], "until": "end"}]}
    bench = Bench({**CONV, "freeze": probe, "averaging": SWA}, kind=Watched)
    start = tensors(bench.network)
    bench.fit(tmp_path)
    last = bench.classifier.validated[-1]
    assert torch.equal(last["bn1.running_mean"], start["bn1.running_mean"])
    close(
        {"fc.weight": last["fc.weight"]},
        {"fc.weight": sum(s["fc.weight"] for s in bench.classifier.steps[5::2]) / 2},
    )


@pytest.mark.parametrize("averaging", [EMA, SWA])
def test_frozen_layers_stay_in_eval_mode_after_a_validation_of_the_average(averaging, tmp_path):
    modes = []

    class Modes(Classifier):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            norms = [m for m in self.network.modules() if isinstance(m, nn.BatchNorm2d)]
            modes.append({norm.training for norm in norms})

    schedule = {
        "groups": {"top": ["head", "stage:-1"], "rest": "*"},
        "phases": [{"train": ["top"], "until": "end"}],
    }
    Bench({**CONV, "freeze": schedule, "averaging": averaging}, kind=Modes).fit(tmp_path)
    assert modes == [{True, False}] * 8
