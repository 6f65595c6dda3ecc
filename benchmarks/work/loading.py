"""Images per second of loaders, from JPEG files to the batches that a network trains on."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import data
from benchmarks.harness import Arm, Figure, Runs, Target, Work

RIVALS = {"ImageFolder + DataLoader": "loading_torchvision", "timm's loader": "loading_timm"}


def arms(size: Mapping[str, Any], device: str) -> Sequence[Arm]:
    settings = {"folder": str(data.photographs(size["images"])), **size}
    peers = {"frostline": "loading_frostline", **RIVALS}
    return [Arm(name, peer, settings) for name, peer in peers.items()]


def figures(runs: Runs) -> list[Figure]:
    found = []
    for rival in RIVALS:
        pairs = [
            (ours, theirs)
            for ours, theirs in zip(runs["frostline"], runs[rival], strict=True)
            if "seconds" in ours and "seconds" in theirs
        ]
        for part, target in (("first", None), ("later", Target("≥", 1.0)), ("cold", None)):
            ratios = [ours[part] / theirs[part] for ours, theirs in pairs]
            found.append(Figure(f"frostline ÷ {rival}: images/s, {EPOCHS[part]}", ratios, target=target))
        # A small size may take less than a tick of the processor's clock.
        ratios = [theirs["cpu_ms"] / ours["cpu_ms"] for ours, theirs in pairs if ours["cpu_ms"]]
        found.append(Figure(f"{rival} ÷ frostline: CPU time per image, later epochs", ratios))
        ratios = [ours["tree_mib"] / theirs["tree_mib"] for ours, theirs in pairs]
        found.append(Figure(f"frostline ÷ {rival}: peak memory with worker processes", ratios))
    return found


EPOCHS = {"first": "first epoch", "later": "later epochs", "cold": "files not in the page cache"}

WORK = Work(
    name="loading",
    title="loaders alone, JPEG files of 500×375 px to batches at 224 px, random crops and flips",
    sizes={
        "full": {"images": 960, "pixels": 224, "batch_size": 64, "epochs": 3},
        "quick": {"images": 320, "pixels": 224, "batch_size": 32, "epochs": 2},
        "tiny": {"images": 32, "pixels": 32, "batch_size": 16, "epochs": 2},
    },
    arms=arms,
    figures=figures,
    devices=("cpu",),
    about="Nothing trains; as many worker processes or threads as cores. frostline's first epoch includes"
    " the check of all files, and decoding, resizing and caching them: 336 px for random crops and 224 px for"
    " evaluation, 0.5 MB per image on disk. An epoch reads 0.34 MB of them, and of a JPEG 0.08 MB. Memory is"
    " the sum of the proportional set sizes of a process and its workers, with torch.",
)
