import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tests.tiny import ALL, PROBE, RESNET, Bench
from torch import nn

from frostline import schema
from frostline.adapters.lit_module import LOSSES, Classifier, half_mse

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, -3.0]])
LABELS = torch.tensor([0, 2])


# ── losses ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_articles_squared_error_by_hand():
    total = 0.0
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        shares = [math.exp(v) / sum(math.exp(u) for u in row) for v in row]
        total += sum((share - (k == label)) ** 2 for k, share in enumerate(shares))
    assert half_mse(LOGITS, LABELS).item() == pytest.approx(total / (2 * len(LABELS)), rel=1e-6)


def test_a_perfect_answer_costs_nothing_and_the_worst_one_costs_one():
    sure = torch.tensor([[100.0, 0.0]])
    assert half_mse(sure, torch.tensor([0])).item() == 0.0
    assert half_mse(sure, torch.tensor([1])).item() == pytest.approx(1.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_is_torchs_and_szegedys(smoothing):
    ours = LOSSES["cross_entropy"](schema.CrossEntropy(kind="cross_entropy", label_smoothing=smoothing))
    assert torch.equal(ours(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing))
    target = (1 - smoothing) * F.one_hot(LABELS, 3) + smoothing / 3
    by_hand = -(target * LOGITS.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(ours(LOGITS, LABELS), by_hand)


@pytest.mark.parametrize("loss", [{"kind": "mse"}, {"kind": "cross_entropy", "label_smoothing": 0.1}])
def test_a_network_learns_by_every_loss(loss, tmp_path):
    history = Bench({"loss": loss, "trainer.epochs": 5}).fit(tmp_path).history
    assert history[-1]["train/loss"] < history[1]["train/loss"]
    assert history[-1]["val/accuracy"] > 0.9


# ── metrics ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_epochs_loss_is_the_mean_over_its_images_whatever_the_batches(tmp_path):
    # A rate that moves nothing: the loss of every batch is that of the first network.
    still = {"optimizer": {"lr": 1e-30, "weight_decay": 0.0}, "trainer.batch_size": 12, "trainer.epochs": 1}
    bench = Bench({**still, "trainer.eval_batch_size": 7})
    batch = bench.data.train_batches.images
    with torch.no_grad():
        logits = bench.network(batch.pixels / 255)
    untrained, row = bench.fit(tmp_path).history
    assert row["train/loss"] == pytest.approx(F.cross_entropy(logits, batch.labels).item(), rel=1e-5)
    assert row["train/accuracy"] == (logits.argmax(1) == batch.labels).double().mean()
    assert (untrained["val/loss"], untrained["val/accuracy"]) == (row["val/loss"], row["val/accuracy"])
    assert untrained["train/loss"] is None


# ── the optimizer ───────────────────────────────────────────────────────────────────────────────────────────


def test_all_parameters_are_there_from_the_first_step_and_only_weights_decay():
    bench = Bench({"backbone": RESNET, "freeze": PROBE, "input.size": 16})
    groups = bench.classifier.configure_optimizers().param_groups
    assert sum(p.numel() for g in groups for p in g["params"]) == sum(
        p.numel() for p in bench.network.parameters()
    )
    decays = {id(p) for g in groups if g["weight_decay"] > 0 for p in g["params"]}
    names = {name for name, p in bench.network.named_parameters() if id(p) in decays}
    assert names == {n for n, p in bench.network.named_parameters() if p.ndim > 1}


def test_a_transformers_embeddings_do_not_decay():
    vit = {**RESNET, "name": "test_vit"}
    bench = Bench({"backbone": vit, "input.size": 32})
    groups = bench.classifier.configure_optimizers().param_groups
    still = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    assert {id(bench.network.pos_embed), id(bench.network.cls_token)} <= still


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_clipped_to_the_norm_under_a_fused_optimizer(precision, tmp_path):
    norms = []

    class Watched(Classifier):
        def on_before_optimizer_step(self, optimizer):
            pass

        def configure_gradient_clipping(self, *arguments, **options):
            super().configure_gradient_clipping(*arguments, **options)
            grads = [p.grad for p in self.network.parameters() if p.grad is not None]
            norms.append(float(nn.utils.get_total_norm(grads)))

    changes = {"optimizer": {"clip_norm": 0.01}, "trainer.precision": precision, "trainer.epochs": 1}
    bench = Bench(changes, kind=Watched)
    assert bench.classifier.configure_optimizers().defaults["fused"]
    bench.fit(tmp_path)
    assert norms == pytest.approx([0.01] * len(norms), rel=1e-3)
    assert norms


# ── randomness ──────────────────────────────────────────────────────────────────────────────────────────────


def test_dropout_is_drawn_by_seed_and_step():
    def draw(seed, step):
        classifier = Bench({"freeze": ALL}).classifier
        classifier.seed, classifier._trainer = seed, SimpleNamespace(global_step=step)
        classifier.on_train_batch_start(None, 0)
        return torch.rand(1).item()

    assert draw(0, 3) == draw(0, 3)
    assert len({draw(0, 3), draw(0, 4), draw(1, 3)}) == 3
