"""A gradual schedule on ResNet-18: the head, the last stage too, then all, a third of the epochs each."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import data
from benchmarks.harness import Against, Arm, Target, Work, ratios

LR, BATCH, EVAL_BATCH = 0.0005, 32, 64


def overrides(images: int, pixels: int) -> list[str]:
    """What the works on ResNet-18 have in common; random weights, since no package carries others."""
    return [
        *("dataset=image_folder", f"dataset.root={data.colour_images(images, pixels)}"),
        *("dataset.split.val=null", "dataset.split.test=null"),
        *("backbone=resnet18", "weights=none", f"input.size={pixels}", "input.crop=1.0"),
        *("optimizer=adam", f"optimizer.lr={LR}"),
        *(f"trainer.batch_size={BATCH}", f"trainer.eval_batch_size={EVAL_BATCH}"),
    ]


def settings(size: Mapping[str, Any]) -> dict[str, Any]:
    """What the others are told of training a ResNet-18."""
    return {
        "epochs": size["epochs"],
        "lr": LR,
        "batch_size": BATCH,
        "eval_batch_size": EVAL_BATCH,
        "model": "resnet18",
    }


def arms(size: Mapping[str, Any], device: str) -> Sequence[Arm]:
    common = overrides(size["images"], size["pixels"])
    third = size["epochs"] // 3
    phases = f"[{{train:[head],until:{{epochs:{third}}}}},{{train:[head,top],until:{{epochs:{third}}}}}"
    schedule = ["freeze=gradual", f"freeze.phases={phases},{{train:all,until:end}}]"]
    given = settings(size)

    def ours(*more: str) -> dict[str, Any]:
        run = [f"trainer.epochs={size['epochs']}", f"trainer.threads={WORK.threads}"]
        return {"overrides": [*common, *schedule, *run, f"trainer.device={device}", *more]}

    found = [
        Arm("frostline", "with_frostline", ours()),
        Arm("Lightning, same phases", "lightning_gradual", {**given, "precision": "fp32"}, common),
        Arm("frostline, fp32", "with_frostline", ours("trainer.precision=fp32")),
        Arm("Lightning, same phases, bf16", "lightning_gradual", {**given, "precision": "bf16"}, common),
    ]
    return found[: size["arms"]]


WORK = Work(
    name="gradual",
    title="gradual schedule (head, last stage, all), ResNet-18 at 96 px, 12 epochs",
    sizes={
        "full": {"images": 2000, "pixels": 96, "epochs": 12, "arms": 4},
        "quick": {"images": 200, "pixels": 96, "epochs": 3, "arms": 4},
        "tiny": {"images": 100, "pixels": 32, "epochs": 3, "arms": 2},
    },
    arms=arms,
    figures=ratios(
        Against("Lightning, same phases", Target("≥", 2)),
        Against("Lightning, same phases", ours="frostline, fp32"),
        Against("Lightning, same phases, bf16"),
    ),
    about="Both as they come where the target is: Lightning in fp32, frostline in bf16 where the processor"
    " has instructions for it, as here; the other two rows have both in one precision. The first weights are"
    " random: what frozen layers make of them is poor then, and accuracies say little. With as many epochs"
    " for each phase, most of the time is the last phase's, in which nothing is frozen and nothing can be"
    " saved: even if the first two were free, the ratio in one precision could hardly pass 2.",
)
