"""The network as a LightningModule: loss and metrics are computed here, recorded by callbacks."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from frostline import schema
from frostline.base.confusion import Confusion
from frostline.base.metrics import ACCURACY, MAP, class_metrics
from frostline.base.multi_label_metrics import mean_average_precision
from frostline.base.seeds import derive, seed_dropout
from frostline.data.loading.class_balance import class_weights, positive_weights
from frostline.features.execution import Execution, Precision, autocast, run_layers
from frostline.features.split_point import NetworkSplit
from frostline.freezing.plan import FreezePlan
from frostline.models.optimizers import make_optimizer
from frostline.training.data_module import ImageData
from frostline.training.losses import BinaryCrossEntropy, CrossEntropy, half_mse, hits
from frostline.training.param_groups import by_decay

BATCH_SECONDS = 0.05
"""Seconds of optimizer steps per Lightning batch: Lightning's overhead of 1 ms is 2 % of it."""
MAX_GROWTH = 4
"""Largest growth of the steps per batch from one batch to the next: a time over a few steps is imprecise."""


@dataclass(frozen=True)
class ReusedFeatures:
    """The features of all images at the split point, and the layers after it."""

    split: NetworkSplit
    train: Sequence[Tensor]
    """(N, …) features of the training images, one tensor per augmented view; on the CPU or the device."""
    validation: Mapping[str, Tensor] | None
    """val or selection → features of its M images, (M, …); None: validation runs the whole network."""
    precision: Precision = "fp32"
    """Precision of the layers after the split point."""

    def training(self, rows: Tensor, epoch: int, device: torch.device) -> Tensor:
        """Return the logits of some training images, (B, K); epochs use the views in turn."""
        features = self.train[epoch % len(self.train)]
        return self._rest(features.index_select(0, rows.to(features.device)).to(device))

    def validation_logits(self, split: str, rows: Tensor, device: torch.device) -> Tensor:
        """Return the logits of some images of val or selection, (B, K)."""
        assert self.validation is not None
        features = self.validation[split]
        return self._rest(features[rows.to(features.device)].to(device))

    def _rest(self, features: Tensor) -> Tensor:
        return run_layers(self.split.rest, features, self.precision)


class StepCallback(Protocol):
    """Is called before and after each optimizer step."""

    def before_step(self, trainer: pl.Trainer, module: "Classifier") -> None:
        """Prepare the next step."""

    def after_step(self, trainer: pl.Trainer, module: "Classifier") -> None:
        """Process the result of the step."""


class NotFinite(Exception):
    """A loss is not finite."""


class Classifier(pl.LightningModule):
    """An image classifier.

    It uses manual optimization and takes several steps per Lightning batch, since Lightning's overhead of
    1 ms per batch is more than a step of a small network.

    Args:
        network: images to logits.
        class_counts: `class_balance.counts` of the training images; None: for losses without class weights.
        penalty: returns the regularization term that is added to the loss; None: no term.
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
        self.headline = MAP if isinstance(loss, schema.Bce) else ACCURACY
        """The metric of the training images in each epoch, besides the loss; see `EPOCH_METRICS`."""
        self.criterion = LOSSES[loss.kind](loss, class_counts)
        self.penalty = penalty
        self.execution = Execution("fp32", "fp32", channels_last=False)
        self.steps_per_batch: int | None = None
        """Optimizer steps per Lightning batch; None: as many as take `BATCH_SECONDS`."""
        self.scaler: torch.amp.GradScaler | None = None
        """Scales the loss, so that gradients in float16 do not become zero; None: for other precisions."""
        self.reused: ReusedFeatures | None = None
        """Features, if the phase's frozen layers are computed once; None: the whole network runs."""
        self.step_callbacks: Sequence[StepCallback] = ()
        self.steps_taken = 0
        """Optimizer steps of the current epoch so far."""
        self.images = 0
        """Training images seen so far."""
        self._next_steps = 1
        self._totals: dict[str, Any] = {}
        self._split = "val"
        """The split that is being validated."""
        self._uncounted: list[tuple[Tensor, Tensor]] = []
        """Logits and labels of steps whose hits are not counted yet: counting once per batch is faster."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (N, classes), of (N, C, H, W) images."""
        with autocast(self.execution.precision, images.device):
            logits: Tensor = self.network(self.execution.in_memory_format(images))
        return logits

    def coming_steps(self) -> int:
        """Return the number of optimizer steps of the next Lightning batch."""
        return self.steps_per_batch or self._next_steps

    def training_step(self, batch: tuple[int, int], batch_idx: int) -> None:
        """Take the optimizer steps `first` to `after` − 1 of the epoch."""
        first, after = batch
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        rows = self._data.training_rows(self.current_epoch)
        begun = time.perf_counter()
        for number in range(first, after):
            next_rows = rows[number + 1] if number + 1 < len(rows) else None
            self._step(rows[number], next_rows, optimizer)
        self._count_hits()
        self.steps_taken = after
        self.images += sum(map(len, rows[first:after]))
        step_seconds = (time.perf_counter() - begun) / (after - first)
        self._next_steps = max(1, min(int(BATCH_SECONDS / step_seconds), MAX_GROWTH * (after - first)))

    def validation_step(self, batch: tuple[str, Tensor, Tensor], batch_idx: int) -> None:
        """Add a Lightning batch, several forward passes, to the totals of its split."""
        split, *parts = batch
        if split != self._split:
            self._reduce(self._split)
            self._split = split
        size = self._data.eval_batch_size
        for rows, labels in zip(*(part.split(size) for part in parts), strict=True):
            if self.reused and self.reused.validation is not None:
                logits = self.reused.validation_logits(split, rows, self.device)
            else:
                logits = self(self._data.validation_images(split, rows.cpu(), self.device))
            self._loss(logits, labels)
        self._collect_predictions()

    def on_train_start(self) -> None:
        """Move the totals of a resumed epoch to the device: checkpoints are loaded to the CPU."""
        self._totals = {name: _moved(value, self.device) for name, value in self._totals.items()}

    def on_train_epoch_start(self) -> None:
        """Reset the totals."""
        self._totals, self._uncounted, self.steps_taken = {}, [], 0

    def on_validation_epoch_start(self) -> None:
        """Reduce the training totals, once per epoch."""
        if self._totals:
            self._reduce("train")
        self._split = "val"

    def on_validation_epoch_end(self) -> None:
        """Reduce the totals of the last split."""
        self._reduce(self._split)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the totals of an unfinished epoch."""
        checkpoint["progress"] = {"totals": self._totals, "taken": self.steps_taken, "images": self.images}
        if self.scaler:
            checkpoint["scaler"] = self.scaler.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the totals of an unfinished epoch."""
        progress = checkpoint["progress"]
        self._totals, self.steps_taken, self.images = (
            progress["totals"],
            progress["taken"],
            progress["images"],
        )
        if self.scaler:
            self.scaler.load_state_dict(checkpoint["scaler"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer of all parameters; the freeze schedule sets its learning rates."""
        groups = by_decay(self.plan.layers, self.network, self.optimizer_config.weight_decay)
        return make_optimizer(self.optimizer_config, groups)

    @property
    def _data(self) -> ImageData:
        data: ImageData = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    def _step(self, rows: Tensor, next_rows: Tensor | None, optimizer: torch.optim.Optimizer) -> None:
        """Take an optimizer step on some rows; `next_rows`: the rows of the epoch's next step."""
        trainer = self.trainer
        for callback in self.step_callbacks:
            callback.before_step(trainer, self)
        step = trainer.global_step
        # Dropout is drawn by (seed, step), so that a resumed run draws the same.
        seed_dropout(derive(self.seed, "step", step), self.device)
        for group in optimizer.param_groups:  # zero_grad without its profiler hook
            for parameter in group["params"]:
                parameter.grad = None
        if self.reused:
            inputs, labels = rows, self._data.train.labels.index_select(0, rows).to(self.device)
        else:
            inputs, labels = self._data.batch(rows, step, next_rows, self.device)
        for number, (part, truth, weight) in enumerate(self._data.step_batches(rows, inputs, labels)):
            # Module.__call__ takes as long as a small layer
            logits = (
                self.reused.training(part, self.current_epoch, self.device)
                if self.reused
                else self.forward(part)
            )
            loss = self._loss(logits, truth, weight)
            if len(part) < len(rows):
                loss = loss * (len(part) / len(rows))
            if number == 0 and self.penalty is not None:
                loss = loss + self.penalty()
            # On a GPU this would synchronize each time; there the loss is checked at the end of the epoch.
            if loss.device.type == "cpu" and not math.isfinite(loss.item()):
                raise NotFinite(f"the loss became {loss.item()}")
            (self.scaler.scale(loss) if self.scaler else loss).backward()
        if self.scaler:
            self.scaler.unscale_(optimizer)
        if self.optimizer_config.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.optimizer_config.clip_norm)
        if self.scaler:
            self.scaler.step(optimizer)  # no step if a gradient is not finite: the scale is too large
            self.scaler.update()
        else:
            optimizer.step()
        progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()
        for callback in self.step_callbacks:
            callback.after_step(trainer, self)

    def _loss(self, logits: Tensor, labels: Tensor, image_weights: Tensor | None = None) -> Tensor:
        """Return the mean loss, and add it to the epoch's totals."""
        loss = self.criterion(logits.float(), labels, image_weights)
        if not self._totals:
            zero = torch.zeros((), device=labels.device)
            self._totals = {"loss": zero, "hits": zero.long(), "count": 0, "predicted": []}
        # Summed step by step: rounding must not depend on the number of steps per batch.
        self._totals["loss"].add_(loss.detach(), alpha=len(labels))
        self._totals["count"] += len(labels)
        self._uncounted.append((logits.detach(), labels))
        return loss

    def _count_hits(self) -> None:
        """Add training images since the last call to the totals: correct predictions, or logits for mAP."""
        if self.headline == MAP:
            self._collect_predictions()
            return
        self._totals["hits"].add_(hits(*self._taken()))

    def _collect_predictions(self) -> None:
        """Add the images since the last call to the totals: their predictions, or logits, which mAP ranks."""
        logits, labels = self._taken()
        several = self.headline == MAP
        pair = (logits.float().cpu(), labels.cpu()) if several else (logits.argmax(1), labels)
        self._totals["predicted"].append(pair)

    def _taken(self) -> tuple[Tensor, Tensor]:
        """Return the logits and labels of the images since the last call."""
        logits, labels = map(torch.cat, zip(*self._uncounted, strict=True))
        self._uncounted = []
        return logits, labels

    def _reduce(self, split: str) -> None:
        totals, self._totals = self._totals, {}
        metrics = self.trainer.callback_metrics
        metrics[f"{split}/loss"] = (totals["loss"].double() / totals["count"]).cpu()
        if totals["predicted"]:
            predicted, labels = (torch.cat(part).cpu() for part in zip(*totals["predicted"], strict=True))
            several = self.headline == MAP
            values = (
                {MAP: mean_average_precision(predicted, labels)} if several else _by_class(predicted, labels)
            )
        else:
            values = {ACCURACY: float(totals["hits"].double() / totals["count"])}
        metrics |= {f"{split}/{name}": torch.tensor(v, dtype=torch.float64) for name, v in values.items()}


def _by_class(predictions: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the metrics of (N,) predictions."""
    highest = int(torch.maximum(predictions, labels).max())  # later classes do not count
    counts = Confusion.of(labels, predictions, highest + 1)
    return class_metrics(counts.hits, counts.labelled, counts.predicted)


def _moved(value: Any, device: torch.device) -> Any:
    """Return a tensor on a device, and any other value unchanged."""
    return value.to(device) if isinstance(value, Tensor) else value


def _bce(config: schema.Bce, counts: Tensor | None) -> BinaryCrossEntropy:
    assert counts is not None or config.pos_weight is None
    weights = None if counts is None else positive_weights(config.pos_weight, counts)
    return BinaryCrossEntropy(config.label_smoothing, weights)


def _cross_entropy(config: schema.CrossEntropy, counts: Tensor | None) -> CrossEntropy:
    assert counts is not None or config.class_weights is None
    weights = None if counts is None else class_weights(config.class_weights, counts)
    return CrossEntropy(config.label_smoothing, weights)


LOSSES: dict[str, Callable[[Any, Tensor | None], Callable[[Tensor, Tensor, Tensor | None], Tensor]]] = {
    "cross_entropy": _cross_entropy,
    "mse": lambda config, counts: half_mse,
    "bce": _bce,
}
