"""What competitors share: settings in, the data, the clock, and the result out. Nothing of frostline."""

import json
import resource
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np


def settings(**defaults: Any) -> SimpleNamespace:
    """Return what the harness asks for: arrays, epochs, measured_epochs, threads, … ; else `defaults`."""
    given = json.loads(sys.argv[1])
    return SimpleNamespace(**{"measured_epochs": given.get("epochs"), "device": "cpu", **defaults, **given})


def arrays(folder: str) -> SimpleNamespace:
    """Return uint8 images and labels of the train and val split, and the normalization."""
    with np.load(Path(folder) / "arrays.npz") as found:
        return SimpleNamespace(**{name: found[name] for name in found.files})


def tensors(folder: str) -> SimpleNamespace:
    """Return the images as normalized float32 tensors, so that no competitor spends time on that."""
    import torch

    found = arrays(folder)
    mean, std = (torch.tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (found.mean, found.std))

    def images(name: str) -> Any:
        return torch.from_numpy(getattr(found, name)).float().div_(255).sub_(mean).div_(std)

    return SimpleNamespace(
        x=images("train_images"),
        y=torch.from_numpy(found.train_labels),
        val_x=images("val_images"),
        val_y=torch.from_numpy(found.val_labels),
        classes=int(found.classes),
    )


def timm_network(name: str, folder: str, classes: int) -> Any:
    """Return a timm model with the first weights that everybody is given."""
    import timm
    from safetensors.torch import load_file

    network = timm.create_model(name, num_classes=classes)
    network.load_state_dict(load_file(Path(folder) / "start.safetensors"))
    return network


def pin(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    warm()
    torch.manual_seed(0)


def warm() -> None:
    """Take a step, since torch imports half of itself, for a second, as the first optimizer is made."""
    import torch

    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adam([weight])
    (weight * weight).sum().backward()
    optimizer.step()


class Clock:
    """Seconds in all, and of each epoch with its validation; what is left is the set-up."""

    def __init__(self) -> None:
        self.begun = self.last = time.perf_counter()
        self.epochs: list[float] = []

    def epoch_begins(self) -> None:
        self.last = time.perf_counter()

    def epoch_ends(self) -> None:
        now = time.perf_counter()
        self.epochs.append(now - self.last)
        self.last = now

    def report(self, accuracy: float | None = None, loss: float | None = None, **more: Any) -> None:
        seconds = time.perf_counter() - self.begun
        result = {"seconds": seconds, "epoch_seconds": self.epochs, "accuracy": accuracy, "train_loss": loss}
        print_result({**result, **more})


def print_result(result: dict[str, Any]) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform != "darwin" else 1024)
    print()
    print(json.dumps({**result, "peak_mib": round(peak / 1024)}), flush=True)


def lightning_clock(clock: Clock) -> Any:
    """Return a callback that tells the clock of Lightning's epochs, their validation included."""
    import pytorch_lightning as pl

    class EpochClock(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            clock.epoch_begins()

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            clock.epoch_ends()

    return EpochClock()


LIGHTNING_PRECISION: dict[str, Literal["32-true", "bf16-mixed"]] = {"fp32": "32-true", "bf16": "bf16-mixed"}


def lightning_trainer(
    given: SimpleNamespace, clock: Clock, callbacks: tuple[Any, ...] = (), **more: Any
) -> Any:
    """Return a Trainer without what costs time and isn't needed: checkpoints, bars, summaries."""
    import logging
    import warnings

    import pytorch_lightning as pl

    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    lean = {"logger": False, "enable_checkpointing": False}
    return pl.Trainer(
        accelerator="gpu" if given.device == "cuda" else "cpu",
        devices=1,
        max_epochs=given.measured_epochs,
        precision=LIGHTNING_PRECISION[given.precision],
        callbacks=[*callbacks, lightning_clock(clock)],
        enable_progress_bar=False,
        enable_model_summary=False,
        **{**lean, **more},
    )


def lightning_fit(
    module: Any,
    given: SimpleNamespace,
    data: SimpleNamespace,
    clock: Clock,
    callbacks: tuple[Any, ...] = (),
    **more: Any,
) -> None:
    """Train a LightningModule that logs train/loss and val/accuracy, and report; `more` is the Trainer's."""
    from torch.utils.data import DataLoader, TensorDataset

    # Tensors in memory: workers would only copy them, and take cores from the training.
    train = DataLoader(TensorDataset(data.x, data.y), batch_size=given.batch_size, shuffle=True)
    val = DataLoader(TensorDataset(data.val_x, data.val_y), batch_size=given.eval_batch_size)
    trainer = lightning_trainer(given, clock, callbacks, **more)
    trainer.fit(module, train, val)
    found = trainer.callback_metrics
    clock.report(float(found["val/accuracy"]), float(found["train/loss_epoch"]))
