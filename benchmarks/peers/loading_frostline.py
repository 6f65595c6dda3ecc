"""frostline's data module: the check of all files, the cache of pixels, then the batches of each epoch."""

import time
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers import loading_common


def main() -> None:
    given = loading_common.settings()
    from frostline.config import compose, stage_configs
    from frostline.models.pretrained import load_initial_weights
    from frostline.pipeline.standalone import prepared
    from frostline.training import machine
    from frostline.training.data_module import ImageData
    from frostline.training.inputs import load_inputs
    from frostline.training.services import Services

    machine.configure(given.threads)
    scratch = Path(".frostline").resolve()
    begun = time.perf_counter()
    composed, choices = compose.experiment(
        [
            *("dataset=image_folder", f"dataset.root={given.folder}", "dataset.split.test=null"),
            *("dataset.split.val=null", "backbone=resnet18", "weights=none", f"input.size={given.pixels}"),
            *(
                "input.interpolation=bilinear",
                "augment.flip=0.5",
                f"augment.resized_crop={loading_common.CROP}",
            ),
            f"trainer.batch_size={given.batch_size}",
        ]
    )
    run = stage_configs.finetune_config(composed, choices)
    index, folder = prepared(composed, "target")
    initial = load_initial_weights(run.backbone, run.weights)
    inputs = load_inputs(run, folder, initial, Services(scratch))
    train, val = (inputs.images(split, index.rows(split)) for split in ("train", "val"))
    data = ImageData(train, val, inputs.spec, run.trainer, run.augment, run.seed, len(index.classes))

    def epoch(number: int) -> Iterator[Any]:
        rows = data.training_rows(number)
        first = number * len(rows)
        for step, (now, coming) in enumerate(zip_longest(rows, rows[1:]), first):
            yield data.batch(now, step, coming, torch.device("cpu"))

    loading_common.measure(given, epoch, scratch / "pixels", begun)
    data.close()


if __name__ == "__main__":
    main()
