"""The network as a LightningModule: loss and metrics are computed here, recorded by callbacks."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from frostline import schema
from frostline.base.seeds import derive, seed_dropout
from frostline.data.loading.class_balance import class_weights
from frostline.features.execution import Execution, Precision, autocast, run_layers
from frostline.features.split_point import Split
from frostline.freezing.plan import FreezePlan
from frostline.models.optimizers import make_optimizer
from frostline.training.data_module import ImageData
from frostline.training.losses import CrossEntropy, half_mse, hits
from frostline.training.param_groups import by_decay

PACE = 0.05
"""Seconds of optimizer steps that make a batch of Lightning's: its own millisecond is 2 % of that."""
FASTER = 4
"""How many times as many steps as the last a batch may have: a first step is slower than those after it."""


@dataclass(frozen=True)
class Reused:
    """What the frozen layers made of all images, and the layers behind them."""

    split: Split
    train: Sequence[Tensor]
    """(N, …) features of the training images, for each augmented view of them; on the CPU or the device."""
    val: Tensor | None
    """(M, …) features of the validation images; None: validation runs the whole network."""
    precision: Precision = "fp32"
    """Of the layers behind them."""

    def training(self, rows: Tensor, epoch: int, device: torch.device) -> Tensor:
        """Return the logits of some training images, (B, K); epochs take the views in turn."""
        features = self.train[epoch % len(self.train)]
        return self._rest(features.index_select(0, rows.to(features.device)).to(device))

    def validation(self, rows: Tensor, device: torch.device) -> Tensor:
        """Return the logits of some validation images, (B, K)."""
        assert self.val is not None
        return self._rest(self.val[rows.to(self.val.device)].to(device))

    def _rest(self, features: Tensor) -> Tensor:
        return run_layers(self.split.rest, features, self.precision)


class Follower(Protocol):
    """Does something at each optimizer step."""

    def before_step(self, trainer: pl.Trainer, module: "Classifier") -> None:
        """Prepare the coming step."""

    def after_step(self, trainer: pl.Trainer, module: "Classifier") -> None:
        """Take in what the step did."""


class NotFinite(Exception):
    """A loss is not a number, or infinite."""


class Classifier(pl.LightningModule):
    """A network that learns to tell classes apart.

    It optimizes by itself, several steps for each batch of Lightning's, since Lightning's own work takes a
    millisecond a batch, more than a step of a small network.

    Args:
        network: images to logits.
        plan: what trains when.
        optimizer: how.
        loss: of logits and labels.
        seed: the run's.
        class_counts: (K,) int64, the training images of each class; None: a loss need not know.
        penalty: called for what training adds to the loss; None: nothing.
    """

    def __init__(
        self,
        network: nn.Module,
        plan: FreezePlan,
        optimizer: schema.Optimizer,
        loss: schema.Loss,
        seed: int,
        class_counts: Tensor | None = None,
        penalty: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.plan, self.optimizer_config, self.seed = plan, optimizer, seed
        self.criterion = LOSSES[loss.kind](loss, class_counts)
        self.penalty = penalty
        self.execution = Execution("fp32", "fp32", channels_last=False)
        self.steps_at_once: int | None = None
        """Optimizer steps for a batch of Lightning's; None: as many as take `PACE` seconds."""
        self.reused: Reused | None = None
        """The network in two parts, where the phase lets the frozen one run once; None: it runs whole."""
        self.followers: Sequence[Follower] = ()
        self.taken = 0
        """Optimizer steps of the epoch so far."""
        self.images = 0
        """Training images seen so far."""
        self._pace = 1
        self._totals: dict[str, Any] = {}
        self._waiting: list[tuple[Tensor, Tensor]] = []
        """Logits and labels of steps whose hits have yet to be counted: in one go, which takes less."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (N, classes), of (N, C, H, W) images."""
        with autocast(self.execution.trains, images.device):
            logits: Tensor = self.network(self.execution.arranged(images))
        return logits

    def at_once(self) -> int:
        """Return how many optimizer steps the next batch of Lightning's should have."""
        return self.steps_at_once or self._pace

    def training_step(self, batch: tuple[int, int], batch_idx: int) -> None:
        """Take some of the epoch's optimizer steps: from the first, up to the last, by their numbers."""
        first, after = batch
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        rows = self._data.training_rows(self.current_epoch)
        begun = time.perf_counter()
        for number in range(first, after):
            coming = rows[number + 1] if number + 1 < len(rows) else None
            self._step(rows[number], coming, optimizer)
        self._judge()
        self.taken = after
        self.images += sum(map(len, rows[first:after]))
        each = (time.perf_counter() - begun) / (after - first)
        self._pace = max(1, min(int(PACE / each), FASTER * (after - first)))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add a batch of Lightning's, some passes, to the epoch's totals."""
        size = self._data.eval_batch_size
        for rows, labels in zip(*(part.split(size) for part in batch), strict=True):
            if self.reused and self.reused.val is not None:
                logits = self.reused.validation(rows, self.device)
            else:
                logits = self(self._data.validation_images(rows.cpu(), self.device))
            self._measured(logits, labels)
        self._judge()

    def on_train_start(self) -> None:
        """Take the totals of an epoch that was not over to the device: checkpoints are read to the CPU."""
        self._totals = {name: _on(value, self.device) for name, value in self._totals.items()}

    def on_train_epoch_start(self) -> None:
        """Start the totals of an epoch."""
        self._totals, self._waiting, self.taken = {}, [], 0

    def on_validation_epoch_start(self) -> None:
        """Reduce what training summed up, once an epoch, and start validation's totals."""
        if self._totals:
            self._reduce("train")

    def on_validation_epoch_end(self) -> None:
        """Reduce validation's totals."""
        self._reduce("val")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the totals of an epoch that is not over."""
        checkpoint["progress"] = {"totals": self._totals, "taken": self.taken, "images": self.images}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the totals of an epoch that was not over."""
        progress = checkpoint["progress"]
        self._totals, self.taken, self.images = progress["totals"], progress["taken"], progress["images"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer of all parameters; the freeze schedule sets its rates at every step."""
        groups = by_decay(self.plan.layers, self.network, self.optimizer_config.weight_decay)
        return make_optimizer(self.optimizer_config, groups)

    @property
    def _data(self) -> ImageData:
        data: ImageData = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    def _step(self, rows: Tensor, coming: Tensor | None, optimizer: torch.optim.Optimizer) -> None:
        """Take an optimizer step on some training images; `coming`: those of the epoch's next step."""
        trainer = self.trainer
        for follower in self.followers:
            follower.before_step(trainer, self)
        step = trainer.global_step
        # Dropout is drawn by (seed, step), so that a resumed run draws the same.
        seed_dropout(derive(self.seed, "step", step), self.device)
        for group in optimizer.param_groups:  # zero_grad without its mark in a profile
            for parameter in group["params"]:
                parameter.grad = None
        if self.reused:
            logits = self.reused.training(rows, self.current_epoch, self.device)
            labels = self._data.train.labels.index_select(0, rows).to(self.device)
        else:
            images, labels = self._data.batch(rows, step, coming, self.device)
            logits = self.forward(images)  # a call by way of Module takes as long as a small layer
        loss = self._measured(logits, labels)
        if self.penalty is not None:
            loss = loss + self.penalty()
        # On a GPU this would wait for the device at every step; there the end of the epoch notices.
        if loss.device.type == "cpu" and not math.isfinite(loss.item()):
            raise NotFinite(f"the loss became {loss.item()}")
        loss.backward()
        if self.optimizer_config.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.optimizer_config.clip_norm)
        optimizer.step()
        progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()
        for follower in self.followers:
            follower.after_step(trainer, self)

    def _measured(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss, taken into the epoch's totals."""
        loss = self.criterion(logits.float(), labels)
        if not self._totals:
            zero = torch.zeros((), device=labels.device)
            self._totals = {"loss": zero, "accuracy": zero.long(), "count": 0}
        # A sum of floats, so step by step: it must not depend on how many are taken at once.
        self._totals["loss"].add_(loss.detach(), alpha=len(labels))
        self._totals["count"] += len(labels)
        self._waiting.append((logits.detach(), labels))
        return loss

    def _judge(self) -> None:
        """Count the hits that wait."""
        logits, labels = map(torch.cat, zip(*self._waiting, strict=True))
        self._totals["accuracy"].add_(hits(logits, labels))
        self._waiting = []

    def _reduce(self, split: str) -> None:
        totals, self._totals = self._totals, {}
        for name in ("loss", "accuracy"):
            value = totals[name].double() / totals["count"]
            self.trainer.callback_metrics[f"{split}/{name}"] = value.cpu()


def _on(value: Any, device: torch.device) -> Any:
    """A tensor on a device, and anything else as it is."""
    return value.to(device) if isinstance(value, Tensor) else value


def _cross_entropy(config: schema.CrossEntropy, counts: Tensor | None) -> CrossEntropy:
    assert counts is not None or config.class_weights is None
    weights = None if counts is None else class_weights(config.class_weights, counts)
    return CrossEntropy(config.label_smoothing, weights)


LOSSES: dict[str, Callable[[Any, Tensor | None], Callable[[Tensor, Tensor], Tensor]]] = {
    "cross_entropy": _cross_entropy,
    "mse": lambda config, counts: half_mse,
}
