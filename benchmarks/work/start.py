"""What a user waits for before anything happens."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import Arm, Figure, Runs, Target, Work

STEP = "first training step from a cold start"
LIMITS = {
    STEP: 7.0,
    "frostline --help": 1.0,
    "dvc repro with nothing to do": 2.0,
    "scripts/setup with nothing to do": 2.0,
}


def arms(size: Mapping[str, Any], device: str) -> Sequence[Arm]:
    words = ["dataset=mnist5k", "backbone=resnet10t", "weights=none", "input.size=32", "input.channels=1"]
    words += ["out=run", f"trainer.threads={WORK.threads}", f"trainer.device={device}"]
    whats = ("step", "help", "repro", "setup")
    found = [
        Arm(name, "start", {"what": what, "overrides": words})
        for name, what in zip(LIMITS, whats, strict=True)
    ]
    return found[: size["arms"]]


def figures(runs: Runs) -> list[Figure]:
    return [
        Figure(
            name,
            [each["seconds"] for each in results if "seconds" in each],
            "s",
            Target("≤", LIMITS[name]),
            next((each["failed"] for each in results if "failed" in each), ""),
        )
        for name, results in runs.items()
    ]


WORK = Work(
    name="start",
    title="what a user waits for before anything happens",
    sizes={"full": {"arms": 4}, "quick": {"arms": 4}, "tiny": {"arms": 2}},
    arms=arms,
    figures=figures,
    repeats=5,
    devices=("cpu",),
    about="Seconds of whole processes. The first step is that of `frostline finetune dataset=mnist5k"
    " backbone=resnet10t weights=none` in an empty folder: data prepared, the run recorded in a new"
    " MLflow store, the start validated.",
)
