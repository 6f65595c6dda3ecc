import dataclasses

import pytest
import torch
import torch.nn.functional as F
from tests.tiny import ALL, PROBE, RESNET, SGD, Bench, random_images, same, tensors
from torch import nn

from frostline.base.metrics import EPOCH_METRICS, classification_metrics
from frostline.training.data_module import ImageData
from frostline.training.module import Classifier
from frostline.training.regularizers import StartPenalty

# ── losses ──────────────────────────────────────────────────────────────────────────────────────────────────


CROSS_ENTROPY = {"kind": "cross_entropy", "label_smoothing": 0.0, "class_weights": None}


@pytest.mark.parametrize(
    "loss",
    [
        {"kind": "mse"},
        {**CROSS_ENTROPY, "label_smoothing": 0.1},
        {**CROSS_ENTROPY, "class_weights": "balanced"},
        {**CROSS_ENTROPY, "class_weights": {"effective": 0.99}},
    ],
)
@pytest.mark.parametrize("augment", [{}, {"augment": {"mixup": 0.2, "cutmix": 1.0}}])
def test_a_network_learns_by_every_loss(loss, augment, tmp_path):
    bench = Bench({"loss": loss, "trainer.epochs": 8, **augment}, class_counts=torch.tensor([14, 13, 13]))
    history = bench.fit(tmp_path).history
    assert history[-1]["train/loss"] < history[1]["train/loss"]
    assert history[-1]["val/accuracy"] > 0.9


def test_class_weights_are_those_of_the_training_images():
    loss = {**CROSS_ENTROPY, "class_weights": "balanced"}
    bench = Bench({"loss": loss}, class_counts=torch.tensor([6, 2, 4]))
    torch.testing.assert_close(bench.classifier.criterion.weights, torch.tensor([12 / 18, 2.0, 1.0]))


def test_a_penalty_holds_the_weights_near_their_start_and_is_not_in_the_curves(tmp_path):
    def moved(alpha):
        bench = Bench({"trainer.epochs": 4, "optimizer": {"weight_decay": 0.0}})
        start = {name: p.detach().clone() for name, p in bench.network.named_parameters()}
        bench.classifier.penalty = StartPenalty(bench.network, alpha, 0.0, ())
        history = bench.fit(tmp_path).history
        distance = sum((p - start[name]).square().sum() for name, p in bench.network.named_parameters())
        return distance.item(), history

    free, held = moved(0.0), moved(10.0)
    assert held[0] < 0.05 * free[0]
    # Next to the start the data's loss is what it was; the penalty would show.
    assert held[1][-1]["train/loss"] == pytest.approx(held[1][0]["val/loss"], rel=0.5)


# ── metrics ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_epochs_loss_is_the_mean_over_its_images_whatever_the_batches(tmp_path):
    # A rate that moves nothing: the loss of every batch is that of the first network.
    still = {"optimizer": {"lr": 1e-30, "weight_decay": 0.0}, "trainer.batch_size": 12, "trainer.epochs": 1}
    bench = Bench({**still, "trainer.eval_batch_size": 7})
    batch = bench.data.train
    with torch.no_grad():
        logits = bench.network(batch.pixels / 255)
    untrained, row = bench.fit(tmp_path).history
    assert row["train/loss"] == pytest.approx(F.cross_entropy(logits, batch.labels).item(), rel=1e-5)
    assert row["train/accuracy"] == (logits.argmax(1) == batch.labels).double().mean()
    assert (untrained["val/loss"], untrained["val/accuracy"]) == (row["val/loss"], row["val/accuracy"])
    assert untrained["train/loss"] is None


LABELS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 2]
ANSWERS = [
    [1, 1, 1, 1, 1, 1, 1, 1, 0, 0],
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],  # the highest accuracy, first
    [0, 0, 0, 2, 2, 2, 2, 2, 1, 2],  # the highest balanced accuracy
    [0, 0, 0, 0, 0, 1, 1, 1, 1, 0],
    [0, 0, 0, 0, 0, 0, 0, 2, 1, 0],  # the highest macro F1
]
"""What `Answering` predicts: the untrained network, then after each epoch."""


def logits_of(answers):
    return F.one_hot(torch.tensor(answers), 3).float()


class Answering(Classifier):
    """Its validation gives `ANSWERS`, whatever the network."""

    def on_validation_epoch_start(self):
        super().on_validation_epoch_start()
        epoch = 0 if self.trainer.sanity_checking else self.trainer.current_epoch + 1
        self.rest = logits_of(ANSWERS[min(epoch, len(ANSWERS) - 1)])

    def forward(self, images):
        if self.training:
            return super().forward(images)
        logits, self.rest = self.rest[: len(images)], self.rest[len(images) :]
        return logits


def answering(changes):
    """A bench whose validation images have `LABELS`."""
    bench = Bench({"trainer.epochs": 4, **changes}, kind=Answering)
    val = dataclasses.replace(random_images(len(LABELS)), labels=torch.tensor(LABELS), key="unbalanced")
    spec, config = bench.data.spec, bench.config
    bench.data = ImageData(bench.data.train, val, spec, config.trainer, config.augment, 0, 3)
    return bench


@pytest.mark.parametrize(
    ("metric", "value", "epochs"), [("val/balanced_accuracy", 0.7, 2), ("val/f1_macro", 0.62, 4)]
)
def test_a_phase_ends_when_a_metric_over_classes_is_reached(metric, value, epochs, tmp_path):
    until = {"reaches": metric, "value": value, "max": {"epochs": 5}}
    phases = [{"train": "all", "until": until, "restore": "best"}, {"train": "all", "until": "end"}]
    schedule = {"freeze": {**ALL, "phases": [{"restore": "none", **phase} for phase in phases]}}
    result = answering({**schedule, "trainer.epochs": 6}).fit(tmp_path)
    steps = 2
    assert result.starts == (0, epochs * steps)


@pytest.mark.parametrize("images", [1, 3, 256])
@pytest.mark.parametrize(
    ("monitor", "best"), [("val/accuracy", 1), ("val/balanced_accuracy", 2), ("val/f1_macro", 4)]
)
def test_unbalanced_classes_are_measured_as_evaluation_does(monitor, best, images, tmp_path):
    result = answering({"trainer.monitor": monitor, "trainer.eval_batch_size": images}).fit(tmp_path)
    assert result.best_epoch == best
    for row, answers in zip(result.history, ANSWERS, strict=True):
        measured = classification_metrics(logits_of(answers), LABELS)
        names = EPOCH_METRICS["accuracy"]
        assert {name: row[f"val/{name}"] for name in names} == {name: measured[name] for name in names}


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
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            optimizer.register_step_pre_hook(self.note)
            return optimizer

        def note(self, *arguments):
            grads = [p.grad for p in self.network.parameters() if p.grad is not None]
            norms.append(float(nn.utils.get_total_norm(grads)))

    changes = {"optimizer": {"clip_norm": 0.01}, "trainer.precision": precision, "trainer.epochs": 1}
    bench = Bench(changes, kind=Watched)
    assert bench.classifier.configure_optimizers().defaults["fused"]
    bench.fit(tmp_path)
    assert norms == pytest.approx([0.01] * len(norms), rel=1e-3)
    assert norms


@pytest.mark.parametrize(
    "changes",
    [
        {
            "loss": {**CROSS_ENTROPY, "label_smoothing": 0.1, "class_weights": "balanced"},
            "optimizer": {"clip_norm": 0.1},
        },
        {"augment": {"flip": 0.5, "mixup": 0.2}},
        {"backbone": {**RESNET, "name": "test_vit"}, "input.size": 32, "features": {"kind": "off"}},
    ],
    ids=["weighted loss, clipped", "augmented, mixed", "transformer"],
)
def test_accumulated_gradients_are_those_of_the_larger_batch(changes, tmp_path):
    changes = {**changes, "trainer.epochs": 2, "optimizer": {**SGD, **changes.get("optimizer", {})}}
    counts = {"class_counts": torch.tensor([14, 13, 13])}
    whole = Bench({**changes, "trainer.batch_size": 12}, **counts)
    parts = Bench({**changes, "trainer.batch_size": 4, "trainer.accumulate": 3}, **counts)
    for bench in (whole, parts):
        bench.classifier.penalty = StartPenalty(bench.network, 0.1, 0.0, ())
    expected, found = whole.fit(tmp_path / "whole"), parts.fit(tmp_path / "parts")
    # Four images are left for the last step of an epoch: one batch.
    assert [row["step"] for row in found.history] == [0, 4, 8] == [row["step"] for row in expected.history]
    torch.testing.assert_close(tensors(parts.network), tensors(whole.network), rtol=1e-4, atol=1e-6)
    for row, other in zip(expected.history[1:], found.history[1:], strict=True):
        measured = {name: value for name, value in row.items() if value is not None}
        assert {name: other[name] for name in measured} == pytest.approx(measured, rel=1e-4)
    assert found.images == expected.images == 80


# ── randomness ──────────────────────────────────────────────────────────────────────────────────────────────


def test_dropout_is_drawn_by_seed_and_step(tmp_path):
    def draws(seed, folder):
        bench = Bench({"freeze": ALL, "trainer.epochs": 2})
        bench.classifier.seed, drawn = seed, []
        bench.network.register_forward_hook(
            lambda module, given, output: drawn.append(torch.rand(1).item()) if module.training else None
        )
        bench.fit(tmp_path / folder)
        return drawn

    first = draws(0, "a")
    assert first == draws(0, "b")
    assert len({*first, *draws(1, "c")}) == 2 * len(first) == 8


@pytest.mark.parametrize("at_once", [2, 3, None])
def test_how_many_steps_are_taken_at_once_changes_nothing(at_once, tmp_path):
    net = {"backbone.dropout": 0.3, "augment": {"flip": 0.5}, "trainer.epochs": 3, "trainer.batch_size": 7}
    schedule = {
        "groups": {"head": "head", "rest": "*"},
        "phases": [{"train": ["head"], "until": {"steps": 4}}, {"train": "all", "until": "end"}],
    }
    changes = {**net, "freeze": schedule, "averaging": {"kind": "ema", "decay": 0.9, "warmup": True}}
    one, several = (Bench({**changes, "trainer.steps_per_execution": n}) for n in (1, at_once))
    expected, found = one.fit(tmp_path / "a"), several.fit(tmp_path / "b")
    assert found.history == expected.history
    assert found.starts == expected.starts
    assert found.images == expected.images
    assert same(tensors(several.network), tensors(one.network))
    assert same(found.best_state, expected.best_state)


def test_quick_steps_are_taken_many_at_once(tmp_path):
    spans = []

    class Watched(Classifier):
        def training_step(self, batch, batch_idx):
            spans.append(batch)
            super().training_step(batch, batch_idx)

    quick = {"trainer.steps_per_execution": None, "trainer.batch_size": 1, "trainer.epochs": 4}
    Bench(quick, kind=Watched).fit(tmp_path)
    assert spans[0] == (0, 1)
    assert max(after - first for first, after in spans) > 4
    assert sum(after - first for first, after in spans) == 4 * 40
