"""timm's dataset and loader, with the arguments of its train.py."""

import time
from pathlib import Path

import torch
from timm.data import create_dataset, create_loader

from benchmarks.peers import common, loading_common


def main() -> None:
    given = loading_common.settings()
    common.pin(given.threads)
    begun = time.perf_counter()
    files = Path(given.folder) / "train"
    loader = create_loader(
        create_dataset("", root=given.folder, split="train", is_training=True),
        input_size=(3, given.pixels, given.pixels),
        batch_size=given.batch_size,
        is_training=True,
        scale=(loading_common.CROP, 1.0),
        color_jitter=0.0,
        num_workers=given.threads,
        device=torch.device("cpu"),
    )
    loading_common.measure(given, lambda number: loader, files, begun)


if __name__ == "__main__":
    main()
