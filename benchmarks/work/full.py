"""Full fine-tuning of ResNet-18: nothing is frozen, so frostline can only be in the way."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import Against, Arm, Target, Work, ratios
from benchmarks.work.gradual import overrides, settings


def arms(size: Mapping[str, Any], device: str) -> Sequence[Arm]:
    common = overrides(size["images"], size["pixels"])
    run = ["freeze=full", f"trainer.epochs={size['epochs']}", "trainer.precision=bf16"]
    run += [f"trainer.threads={WORK.threads}", f"trainer.device={device}"]
    return [
        Arm("frostline", "with_frostline", {"overrides": [*common, *run]}),
        Arm("a hand-written loop", "bare_full", {**settings(size), "precision": "best"}, common, best=True),
    ]


WORK = Work(
    name="full",
    title="full fine-tuning, ResNet-18 at 96 px",
    sizes={
        "full": {"images": 2000, "pixels": 96, "epochs": 4},
        "quick": {"images": 200, "pixels": 96, "epochs": 2},
        "tiny": {"images": 100, "pixels": 32, "epochs": 1},
    },
    arms=arms,
    figures=ratios(Against("a hand-written loop", Target("≤", 1.05))),
    about="The loop first tries fp32 and bf16, contiguous and channels-last, and takes the fastest; frostline"
    " is given bf16.",
)
