"""A sweep over a linear probe: every rate with every seed."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import Against, Arm, Target, Work, ratios
from benchmarks.work import probe


def arms(size: Mapping[str, Any], device: str) -> Sequence[Arm]:
    common = probe.overrides(size["images"], size["pixels"])
    rates = ",".join(f"{0.0001 * 2**step:g}" for step in range(size["rates"]))
    seeds = ",".join(map(str, range(size["seeds"])))
    given = {
        "epochs": size["epochs"],
        "lr": probe.LR,
        "batch_size": probe.BATCH,
        "eval_batch_size": probe.EVAL_BATCH,
        "model": probe.MODEL,
        "precision": "fp32",
    }
    words = common + probe.run(size["epochs"], "fp32", WORK.threads, device)
    ours = {"overrides": words, "sweep": [f"optimizer.lr={rates}", f"seed={seeds}"]}
    return [
        Arm("frostline", "with_frostline", {**ours, "command": ["probe"]}),
        Arm("frostline finetune -m", "with_frostline", {**ours, "command": ["finetune", "-m"]}),
        Arm(
            "Lightning in a loop",
            "lightning_probe",
            given,
            common,
            shortened=size["shortened"],
            always_shortened=True,
            times=size["rates"] * size["seeds"],
        ),
    ]


WORK = Work(
    name="sweep",
    title="the same, 50 epochs × 8 learning rates × 3 seeds",
    sizes={
        "full": {"images": 2000, "pixels": 128, "epochs": 50, "rates": 8, "seeds": 3, "shortened": 2},
        "quick": {"images": 300, "pixels": 128, "epochs": 10, "rates": 2, "seeds": 2, "shortened": 1},
        "tiny": {"images": 100, "pixels": 32, "epochs": 2, "rates": 2, "seeds": 1, "shortened": 1},
    },
    arms=arms,
    figures=ratios(
        Against("Lightning in a loop", Target("≥", 300)),
        Against("Lightning in a loop", ours="frostline finetune -m"),
    ),
    about="frostline's seconds are those of a whole command, `frostline probe optimizer.lr=… seed=0,1,2`,"
    " which trains all heads at once, from a scratch without features, with the best one measured on the"
    " test split and written out; or of `frostline finetune -m`, which leaves all 24 runs. Lightning's"
    " are those of its fit alone. All in fp32.",
)
