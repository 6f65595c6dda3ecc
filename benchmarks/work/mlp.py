"""The articles' MLP: 784-64-10, Adam, batch 32, ten epochs."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import data
from benchmarks.harness import Against, Arm, Target, Work, ratios

LR, BATCH, EVAL_BATCH = 0.001, 32, 64


def arms(size: Mapping[str, Any], device: str) -> Sequence[Arm]:
    overrides = [
        f"dataset={size['dataset'] or data.articles()}",
        *("backbone=mlp", "weights=none", "freeze=full", "optimizer=adam", f"optimizer.lr={LR}"),
        *("input.size=28", "input.channels=1", "input.crop=1.0"),
        f"trainer.batch_size={BATCH}",
        f"trainer.eval_batch_size={EVAL_BATCH}",
    ]
    run = [f"trainer.epochs={size['epochs']}", f"trainer.threads={WORK.threads}", f"trainer.device={device}"]
    given = {
        "epochs": size["epochs"],
        "lr": LR,
        "batch_size": BATCH,
        "eval_batch_size": EVAL_BATCH,
        "precision": "fp32",
    }
    found = [
        Arm("frostline", "with_frostline", {"overrides": overrides + run}),
        Arm("a bare PyTorch loop", "bare_mlp", {**given, "fused": False}, overrides),
        Arm("a bare loop, fused Adam", "bare_mlp", {**given, "fused": True}, overrides, best=True),
        Arm("Keras", "keras_mlp", given, overrides, environment="keras"),
        Arm("Lightning, metrics logged", "lightning_mlp", given, overrides, shortened=size["shortened"]),
    ]
    return [arm for arm in found if device == "cpu" or arm.environment != "keras"][: size["arms"]]


WORK = Work(
    name="mlp",
    title="the articles' MLP, 784-64-10, batch 32, 10 epochs of 60,000 images",
    sizes={
        "full": {"dataset": None, "epochs": 10, "shortened": 2, "arms": 5},
        "quick": {"dataset": None, "epochs": 2, "shortened": None, "arms": 5},
        "tiny": {"dataset": "mnist5k", "epochs": 1, "shortened": None, "arms": 2},
    },
    arms=arms,
    figures=ratios(
        Against("a bare PyTorch loop", Target("≤", 1.3)),
        Against("a bare loop, fused Adam", inverse=True),
        Against("Keras", Target("≥", 2.5)),
        Against("Lightning, metrics logged", Target("≥", 4)),
    ),
    threads=1,
    about="Fashion-MNIST: 54,000 images to train on and 6,000 to validate on after each epoch, for all"
    " alike. One thread: on layers this small a second one makes nobody faster. The bare loop keeps no"
    " metrics while it trains; frostline does.",
)
