"""A linear probe: the head of EfficientNet-Lite0 on its frozen ImageNet features."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import data
from benchmarks.harness import Against, Arm, Figure, Runs, Target, Work, ratios

MODEL = "tf_efficientnet_lite0"
LR, BATCH, EVAL_BATCH = 0.001, 32, 64
LIGHTNING = "Lightning, frozen backbone"
"""As in the sweep."""


def overrides(images: int, pixels: int) -> list[str]:
    """What all works on the linear probe have in common."""
    return [
        *("dataset=image_folder", f"dataset.root={data.colour_images(images, pixels)}"),
        *("dataset.split.val=null", "dataset.split.test=null"),
        *("backbone=efficientnet_lite0", "weights=imagenet", "freeze=linear_probe"),
        *(f"input.size={pixels}", "input.crop=1.0", "optimizer=adam", f"optimizer.lr={LR}"),
        *(f"trainer.batch_size={BATCH}", f"trainer.eval_batch_size={EVAL_BATCH}"),
    ]


def run(epochs: int, precision: str, threads: int, device: str) -> list[str]:
    return [
        *(f"trainer.epochs={epochs}", f"trainer.precision={precision}"),
        *(f"trainer.threads={threads}", f"trainer.device={device}"),
    ]


def arms(size: Mapping[str, Any], device: str) -> Sequence[Arm]:
    common = overrides(size["images"], size["pixels"])
    given = {
        "epochs": size["epochs"],
        "lr": LR,
        "batch_size": BATCH,
        "eval_batch_size": EVAL_BATCH,
        "model": MODEL,
    }
    fp32, bf16 = {**given, "precision": "fp32"}, {**given, "precision": "bf16"}
    short = {"shortened": size["shortened"], "always_shortened": size["always"]}

    def ours(precision: str) -> dict[str, Any]:
        words = common + run(size["epochs"], precision, WORK.threads, device)
        return {"overrides": words, "again": [f"optimizer.lr={2 * LR}"]}

    found = [
        Arm("frostline", "with_frostline", ours("bf16")),
        Arm("the limit", "limit_probe", bf16, common, best=True),
        Arm(LIGHTNING, "lightning_probe", fp32, common, **short),
        Arm("fastai", "fastai_probe", fp32, common, environment="rivals", **short),
        Arm("finetuning-scheduler", "fts_probe", fp32, common, environment="rivals", **short),
        Arm("frostline, fp32", "with_frostline", ours("fp32")),
        Arm(f"{LIGHTNING}, bf16", "lightning_probe", bf16, common, **short),
    ]
    return found[: size["arms"]]


def figures(runs: Runs) -> list[Figure]:
    found = ratios(
        Against("the limit", Target("≤", 1.3)),
        Against(LIGHTNING, Target("≥", 20)),
        Against("fastai", Target("≥", 25)),
        Against("finetuning-scheduler"),
        Against(LIGHTNING, ours="frostline, fp32"),
        Against(f"{LIGHTNING}, bf16"),
    )(runs)
    warm = [each["warm_seconds"] for each in runs["frostline"] if "warm_seconds" in each]
    return [*found, Figure("frostline once more, at another rate: its features are kept", warm, "s")]


WORK = Work(
    name="probe",
    title="linear probe, EfficientNet-Lite0 at 128 px, 2,000 colour images, 20 epochs",
    sizes={
        "full": {"images": 2000, "pixels": 128, "epochs": 20, "shortened": 4, "always": True, "arms": 7},
        "quick": {"images": 300, "pixels": 128, "epochs": 20, "shortened": 2, "always": True, "arms": 5},
        "tiny": {"images": 100, "pixels": 32, "epochs": 2, "shortened": 1, "always": True, "arms": 3},
    },
    arms=arms,
    figures=figures,
    about="1,600 images to train on and 400 to validate on after each epoch. frostline runs the frozen"
    " layers in bf16, as the limit does; the others in fp32, as they come; both in fp32, and both in"
    " bf16, are below. The limit is one pass of the frozen layers and a bare loop over the features.",
)
