"""The benchmark rows of `gpu_checks`: the work, and the same work in loops written by hand.

All loops: images are uint8 in memory, batches are sent from pinned memory and normalized on the device; on
a GPU bfloat16; channels last; fused AdamW; each epoch ends with the accuracy on the validation images.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

TRAIN, VAL = 0.8, 0.1
"""Shares of the images; the rest is for the test, which frostline measures outside its time."""


@dataclass(frozen=True)
class Work:
    """What is trained."""

    epochs: int
    model: str = "resnet50"
    size: int = 224
    images: int = 1600
    classes: int = 10
    batch: int = 64
    lr: float = 1e-3

    def smaller(self) -> "Work":
        """Return it for a rehearsal."""
        return replace(self, epochs=3, model="resnet10t", size=32, images=80, batch=16)


WORK = {"probe": Work(20), "gradual": Work(9), "full": Work(6)}


def words(work: Work, kind: str, device: str) -> list[str]:
    """Return the overrides that make frostline do it; the images come as the data set digits."""
    precision, threads = ("fp32", 1) if device == "cpu" else ("bf16", 4)
    third = f"until: {{epochs: {work.epochs // 3}}}"
    phases = f"{{train: [head], {third}}}, {{train: [head, top], {third}}}, {{train: all, until: end}}"
    return [
        *("dataset=digits", f"dataset.split={{val: {VAL}, test: {1 - TRAIN - VAL:.1f}, seed: 0}}"),
        *("weights=none", "backbone=timm", f"backbone.name={work.model}", f"input.size={work.size}"),
        *("input.channels=3", f"freeze={'linear_probe' if kind == 'probe' else kind}"),
        *(f"trainer.epochs={work.epochs}", f"trainer.batch_size={work.batch}"),
        *(f"trainer.eval_batch_size={work.batch}", f"trainer.device={device}"),
        *(f"trainer.precision={precision}", f"trainer.threads={threads}", f"optimizer.lr={work.lr}"),
        *([f"freeze.phases=[{phases}]"] if kind == "gradual" else ()),
    ]


def images(work: Work) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return noise, (N, H, W, 3), with a brightness for each class, so that there is something to learn."""
    draw = np.random.default_rng(0)
    labels = np.arange(work.images) % work.classes
    pixels = draw.integers(0, 100, (work.images, work.size, work.size, 3), dtype=np.uint8)
    return pixels + (15 * labels).astype(np.uint8)[:, None, None, None], labels.astype(np.int64)


class Loop:
    """What the loops share: a network, the data, a step, a measurement."""

    def __init__(self, work: Work, pixels: NDArray[Any], labels: NDArray[Any], device: torch.device) -> None:
        torch.manual_seed(0)
        self.work, self.device = work, device
        self.network: Any = timm.create_model(work.model, num_classes=work.classes)
        self.network.to(device).to(memory_format=torch.channels_last)
        train, val = int(TRAIN * work.images), int((TRAIN + VAL) * work.images)
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        y = torch.from_numpy(labels).to(device)
        self.x, self.y, self.val_x, self.val_y = x[:train], y[:train], x[train:val], y[train:val]

    def optimizer(self, part: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(part.parameters(), lr=self.work.lr, fused=True)

    def batches(self) -> Iterator[Tensor]:
        return iter(torch.randperm(len(self.x)).split(self.work.batch))

    def sent(self, pixels: Tensor) -> Tensor:
        if self.device.type == "cuda":
            pixels = pixels.pin_memory()
        pixels = pixels.to(self.device, non_blocking=True).to(memory_format=torch.channels_last)
        return pixels.float().div_(127.5).sub_(1)

    def cast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def step(self, optimizer: torch.optim.Optimizer, part: nn.Module, inputs: Tensor, y: Tensor) -> None:
        with self.cast():
            logits = part(inputs)
        optimizer.zero_grad()
        cross_entropy(logits.float(), y).backward()
        optimizer.step()

    def measure(self, part: nn.Module, inputs: Sequence[Tensor]) -> float:
        part.eval()
        hits = torch.zeros((), device=self.device)
        with torch.inference_mode(), self.cast():
            for x, y in zip(inputs, self.val_y.split(self.work.batch), strict=True):
                hits += (part(x).argmax(1) == y).sum()
        return float(hits) / len(self.val_y)

    def train(self, optimizer: torch.optim.Optimizer, epochs: int) -> None:
        """Train what requires gradients; layers that don't stay in eval mode."""
        for _ in range(epochs):
            for module in self.network.modules():
                own = [*module.parameters(recurse=False)]
                module.training = not own or any(parameter.requires_grad for parameter in own)
            for rows in self.batches():
                self.step(optimizer, self.network, self.sent(self.x[rows]), self.y[rows.to(self.device)])
            self.measure(self.network, [self.sent(part) for part in self.val_x.split(self.work.batch)])


def seconds(loop: Loop, run: Callable[[], None]) -> float:
    """Return how long `run` takes, after a step and a measurement that are not counted."""
    state = {name: tensor.clone() for name, tensor in loop.network.state_dict().items()}
    first = loop.sent(loop.x[: loop.work.batch])
    loop.step(loop.optimizer(loop.network), loop.network, first, loop.y[: loop.work.batch])
    loop.network.load_state_dict(state)
    _wait(loop.device)
    begun = time.perf_counter()
    run()
    _wait(loop.device)
    return time.perf_counter() - begun


def probe(work: Work, pixels: NDArray[Any], labels: NDArray[Any], device: torch.device) -> float:
    """Run the backbone once over all images, then train the head on what it made."""
    loop = Loop(work, pixels, labels, device)

    @torch.no_grad()
    def features(pixels: Tensor) -> list[Tensor]:
        network = loop.network.eval()
        with loop.cast():
            made = (network.forward_features(loop.sent(part)) for part in pixels.split(work.batch))
            return [network.forward_head(part, pre_logits=True) for part in made]

    def run() -> None:
        head = loop.network.get_classifier()
        made, val = torch.cat(features(loop.x)), features(loop.val_x)
        optimizer = loop.optimizer(head)
        for _ in range(work.epochs):
            for rows in (rows.to(device) for rows in loop.batches()):
                loop.step(optimizer, head, made[rows], loop.y[rows])
            loop.measure(head, val)

    return seconds(loop, run)


def gradual(work: Work, pixels: NDArray[Any], labels: NDArray[Any], device: torch.device) -> float:
    """Train the head, then the last stage, too, then all, a third of the epochs each."""
    loop = Loop(work, pixels, labels, device)

    def run() -> None:
        network = loop.network.requires_grad_(False)
        optimizer = loop.optimizer(network)
        for part in (network.get_classifier(), network.layer4, network):
            part.requires_grad_(True)
            loop.train(optimizer, work.epochs // 3)

    return seconds(loop, run)


def full(work: Work, pixels: NDArray[Any], labels: NDArray[Any], device: torch.device) -> float:
    """Train everything."""
    loop = Loop(work, pixels, labels, device)
    return seconds(loop, lambda: loop.train(loop.optimizer(loop.network), work.epochs))


LOOPS = {"probe": probe, "gradual": gradual, "full": full}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
