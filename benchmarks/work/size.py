"""How the cost of a linear probe grows with the images, and with the trials that share its features."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import Arm, Figure, Runs, Target, Work
from benchmarks.work import probe

GROWS = 1.1
"""Linear within a tenth."""


def arms(size: Mapping[str, Any], device: str) -> Sequence[Arm]:
    def arm(images: int, trials: int) -> Arm:
        rates = ",".join(f"{0.0001 * (1 + step):g}" for step in range(trials))
        words = probe.overrides(images, size["pixels"]) + probe.run(
            size["epochs"], "fp32", WORK.threads, device
        )
        name = f"{images:,} images, {trials} trial{'s' if trials > 1 else ''}"
        return Arm(
            name,
            "with_frostline",
            {"overrides": words, "command": ["probe"], "sweep": [f"optimizer.lr={rates}"]},
        )

    fewest = size["images"][0]
    return [arm(images, 1) for images in size["images"]] + [arm(fewest, trials) for trials in size["trials"]]


def figures(runs: Runs) -> list[Figure]:
    found = []
    for name, results in runs.items():
        good = [each for each in results if "seconds" in each]
        peak = max((each["peak_mib"] for each in good), default=0)
        failed = next((each["failed"] for each in results if "failed" in each), "")
        found.append(
            Figure(name, [each["seconds"] for each in good], "s", note=failed or f"peak {peak:,} MiB")
        )

    def counts(name: str) -> tuple[int, int]:
        images, trials = (int(part.split()[0].replace(",", "")) for part in name.split(", "))
        return images, trials

    alone = [name for name in runs if counts(name)[1] == 1]
    few, many = alone[0], alone[-1]
    factor = counts(many)[0] / counts(few)[0]
    pairs = [(a, b) for a, b in zip(runs[few], runs[many], strict=True) if "seconds" in a and "seconds" in b]
    growth = [b["seconds"] / a["seconds"] / factor for a, b in pairs]
    memory = [b["peak_mib"] / a["peak_mib"] for a, b in pairs]
    found.append(
        Figure(
            f"s/image, {counts(many)[0]:,} ÷ {counts(few)[0]:,} images",
            growth,
            "×",
            Target("≤", GROWS),
        )
    )
    found.append(
        Figure(
            f"peak memory, {counts(many)[0]:,} ÷ {counts(few)[0]:,} images", memory, "×", Target("≤", GROWS)
        )
    )
    for name in runs:
        trials = counts(name)[1]
        if trials > 1:
            more = [
                (b["seconds"] - a["seconds"]) / (trials - 1) / a["seconds"]
                for a, b in zip(runs[few], runs[name], strict=True)
                if "seconds" in a and "seconds" in b
            ]
            found.append(
                Figure(f"each of {trials - 1} more trials ÷ the first", more, "×", Target("≤", 0.05))
            )
    return found


WORK = Work(
    name="size",
    title="cost against size: a linear probe, EfficientNet-Lite0 at 128 px, 20 epochs",
    sizes={
        "full": {"images": [1000, 4000, 16000], "trials": [8, 64], "pixels": 128, "epochs": 20},
        "quick": {"images": [200, 800], "trials": [4], "pixels": 128, "epochs": 5},
        "tiny": {"images": [100, 200], "trials": [2], "pixels": 32, "epochs": 1},
    },
    arms=arms,
    figures=figures,
    repeats=1,
    about="The whole command, `frostline probe`, in fp32, from a scratch without features; peak resident"
    " memory of the process, in which the images were brought to size, too.",
)
