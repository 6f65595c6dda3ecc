import os
import signal
import warnings

import pytest
import torch
from tests.tiny import NOTHING, RESNET, Bench, Sharing, in_process, same, scripted, tensors

from frostline.console.errors import FrostlineError, TrainingFailed
from frostline.models import backbones
from frostline.training import trainer
from frostline.training.module import Classifier

HUGE = {"optimizer": {"lr": 1e30}}


# ── history ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_row_an_epoch_the_untrained_network_first(tmp_path):
    told = []
    bench = Bench({"trainer.epochs": 3})
    result = bench.fit(tmp_path, told.append)
    assert told == result.history
    assert [tuple(row) for row in told] == [trainer.history_columns("accuracy")] * 4
    assert [(row["epoch"], row["step"], row["phase"]) for row in told] == [
        (0, 0, None),
        (1, 2, 0),
        (2, 4, 0),
        (3, 6, 0),
    ]
    assert told[0]["lr"] is None
    assert 0 < told[3]["lr"] < told[1]["lr"] <= 0.01
    assert result.images == 120
    assert len(result.epoch_seconds) == 3
    assert sorted(result.epoch_seconds) == result.epoch_seconds
    assert result.epoch_seconds[0] > 0


def test_nothing_is_said_that_is_not_frostlines(tmp_path, capfd, caplog):
    with warnings.catch_warnings(record=True) as caught:
        Bench({}).fit(tmp_path)
    assert (capfd.readouterr(), caplog.messages, caught) == (("", ""), [], [])


# ── the best epoch ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("monitor", "accuracies", "losses", "best"),
    [
        ("val/accuracy", [0.1, 0.5, 0.9, 0.7], [9, 9, 9, 1], 2),
        ("val/accuracy", [0.1, 0.9, 0.9, 0.9], [9, 3, 2, 4], 2),  # a tie goes to the lower loss
        ("val/accuracy", [0.1, 0.9, 0.9, 0.9], [9, 3, 2, 2], 2),  # another to the earlier epoch
        ("val/accuracy", [0.9, 0.5, 0.6, 0.7], [9, 1, 1, 1], 0),  # the untrained network counts
        ("val/loss", [0.1, 0.9, 0.5, 0.4], [9, 3, 2, 4], 2),
        ("val/loss", [0.1, 0.5, 0.9, 0.4], [9, 2, 2, 4], 1),
    ],
)
def test_the_best_epoch_is_chosen_on_validation(monitor, accuracies, losses, best, tmp_path):
    after = []

    class Kept(scripted(losses, accuracies)):
        def on_validation_end(self):
            after.append(tensors(self.network))

    bench = Bench({"trainer.monitor": monitor}, kind=Kept)
    result = bench.fit(tmp_path)
    assert result.best_epoch == best
    assert same(result.best_state, after[best])
    assert sum(same(result.best_state, state) for state in after) == 1


@pytest.mark.parametrize("bn", ["train", "eval"])
def test_the_best_weights_are_whole_in_every_phase(bn, tmp_path):
    groups = {"head": "head", "top": "stage:-1", "rest": "*"}
    trained = [["head"], ["head", "top"], ["head", "top", "rest"]]
    phases = [
        {"train": names, "until": {"epochs": 1} if number < 2 else "end", "bn": bn}
        for number, names in enumerate(trained)
    ]
    changes = {"backbone": RESNET, "input": {"size": 16, "channels": 3}}
    changes |= {"freeze": {"groups": groups, "phases": phases}, "trainer.epochs": 4}
    for best in range(4):
        after = []

        class Kept(scripted([9 - (epoch <= best) * epoch for epoch in range(5)])):
            def on_validation_end(self, after=after):
                after.append(tensors(self.network))

        bench = Bench({**changes, "trainer.monitor": "val/loss"}, kind=Kept)
        result = bench.fit(tmp_path / str(best))
        assert result.best_epoch == best
        assert same(result.best_state, after[best])


def test_the_best_weights_have_shared_layers_and_buffers_of_any_layer(tmp_path, monkeypatch):
    monkeypatch.setitem(backbones.BUILDERS, "mlp", lambda *arguments: Sharing())
    bench = Bench({"trainer.monitor": "val/loss"}, kind=scripted([9, 3, 2, 1]))
    result = bench.fit(tmp_path)
    assert result.best_epoch == 3
    assert same(result.best_state, tensors(bench.network))
    assert torch.equal(result.best_state["first.weight"], result.best_state["again.weight"])
    assert result.best_state["images"] > 0


def test_the_size_of_validation_batches_does_not_change_the_choice(tmp_path):
    results = [
        Bench({"trainer.eval_batch_size": size, "trainer.epochs": 6, "backbone": RESNET}).fit(tmp_path)
        for size in (1, 7, 256)
    ]
    assert len({result.best_epoch for result in results}) == 1
    for result in results[1:]:
        assert same(result.best_state, results[0].best_state)
        for row, first in zip(result.history, results[0].history, strict=True):
            assert row["val/loss"] == pytest.approx(first["val/loss"], rel=1e-5)


# ── not a number ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_loss_that_is_not_a_number_ends_the_run_at_its_step(tmp_path):
    schedule = {
        "groups": {"head": "head", "rest": "*"},
        "phases": [
            {"train": ["head"], "until": {"epochs": 2}, "lr": {"head": 1e-32}},
            {"train": "all", "until": "end", "lr": {"head": 1.0}},
        ],
    }
    bench = Bench({**HUGE, "freeze": schedule, "trainer.epochs": 4})
    with pytest.raises(TrainingFailed) as caught:
        bench.fit(tmp_path)
    kept = tmp_path / trainer.BEST_WEIGHTS
    said = str(caught.value)
    assert said.startswith(
        "the loss became nan at step 5, phase 1; lower optimizer.lr, or set optimizer.clip_norm=1.0;"
    )
    assert said.endswith(f"are in {kept}")
    from frostline.models import weights

    state, about = weights.load(kept)
    assert not about
    assert state.keys() == bench.network.state_dict().keys()
    assert all(tensor.isfinite().all() for tensor in state.values())


def test_a_validation_loss_that_is_not_a_number_ends_the_run_after_its_epoch(tmp_path):
    bench = Bench({"trainer.epochs": 4}, kind=scripted([2, 1, float("nan"), 1, 1]))
    with pytest.raises(TrainingFailed) as caught:
        bench.fit(tmp_path)
    assert str(caught.value) == (
        "val/loss is nan after epoch 2, step 4, phase 0; lower optimizer.lr, or set optimizer.clip_norm=1.0;"
        f" the weights of the best epoch so far, 1, are in {tmp_path / trainer.BEST_WEIGHTS}"
    )


@pytest.mark.parametrize("freeze", [{}, {"freeze": NOTHING}])
def test_weights_that_give_no_number_are_refused_before_the_first_step(freeze, tmp_path):
    bench = Bench(freeze)
    bench.network.head.bias.data[0] = float("nan")
    with pytest.raises(
        TrainingFailed, match=r"^val/loss is nan before the first step; start from other weights$"
    ):
        bench.fit(tmp_path)


# ── what a network or a machine can't do ────────────────────────────────────────────────────────────────────


def test_a_single_image_that_is_left_joins_the_batch_before_it(tmp_path):
    # At 16 px the last stage is one pixel, where BatchNorm can't take one image.
    bench = Bench({"backbone": RESNET, "input.size": 16, "trainer.epochs": 1}, train=41)
    assert bench.fit(tmp_path).images == 41


def test_batches_of_one_image_are_one_sentence(tmp_path):
    bench = Bench({"backbone": RESNET, "input.size": 16, "trainer.batch_size": 1})
    with pytest.raises(FrostlineError) as caught:
        bench.fit(tmp_path)
    assert str(caught.value).startswith(
        "trainer.batch_size: BatchNorm can't normalize a single image of this size"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(
        FrostlineError, match=r"^trainer\.device: torch finds no CUDA device; set trainer\.device=cpu$"
    ):
        Bench({"trainer.device": "cuda"}).fit(tmp_path)


# ── signals ─────────────────────────────────────────────────────────────────────────────────────────────────


class Signalled(Classifier):
    """Sends its process a signal at the third step."""

    def on_train_batch_start(self, batch, batch_idx):
        if self.global_step == 3:
            os.kill(os.getpid(), self.signal)


def fit_until(kind, folder):
    bench = Bench({}, kind=Signalled)
    bench.classifier.signal = kind
    try:
        bench.fit(folder)
    except KeyboardInterrupt:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        raise SystemExit(130) from None


@pytest.mark.parametrize(("kind", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_and_is_not_taken_for_success(kind, status, tmp_path):
    assert in_process(fit_until, kind, tmp_path) == (status, "")


def test_a_loss_that_breaks_down_with_clipped_gradients_is_not_advised_to_clip_them(tmp_path):
    with pytest.raises(
        TrainingFailed,
        match=r"the loss became nan at step 1, .*; lower optimizer\.lr; the weights of the best",
    ):
        Bench({"optimizer": {"lr": 1e30, "clip_norm": 1.0}}).fit(tmp_path)
