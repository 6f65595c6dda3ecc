"""The network as a LightningModule: loss and metrics are computed here, recorded by callbacks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from frostline import schema
from frostline.adapters.lit_data import ImageData
from frostline.core.class_balance import balanced_weights, effective_weights
from frostline.core.freeze import FreezePlan
from frostline.core.frost_line import Split
from frostline.core.losses import CrossEntropy, half_mse, hits
from frostline.core.param_groups import by_decay
from frostline.core.seeds import derive
from frostline.models.optimizers import make_optimizer


@dataclass(frozen=True)
class Reused:
    """What the frozen layers made of all images, and the layers behind them."""

    split: Split
    train: Sequence[Tensor]
    """(N, …) features of the training images, for each augmented view of them."""
    val: Tensor | None
    """(M, …) features of the validation images; None: validation runs the whole network."""

    def training(self, rows: Tensor, epoch: int) -> Tensor:
        """Return the logits of some training images, (B, K); epochs take the views in turn."""
        return self._rest(self.train[epoch % len(self.train)], rows)

    def validation(self, rows: Tensor) -> Tensor:
        """Return the logits of some validation images, (B, K)."""
        assert self.val is not None
        return self._rest(self.val, rows)

    def _rest(self, features: Tensor, rows: Tensor) -> Tensor:
        return self.split.rest(features[rows.to(features.device)].to(rows.device))


class Classifier(pl.LightningModule):
    """A network that learns to tell classes apart.

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
        self.network = network
        self.plan, self.optimizer_config, self.seed = plan, optimizer, seed
        self.criterion = LOSSES[loss.kind](loss, class_counts)
        self.penalty = penalty
        self.reused: Reused | None = None
        """The network in two parts, where the phase lets the frozen one run once; None: it runs whole."""
        self._totals: dict[str, Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (N, classes), of (N, C, H, W) images."""
        logits: Tensor = self.network(images)
        return logits

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Draw dropout by (seed, step), so that a resumed run draws the same."""
        torch.manual_seed(derive(self.seed, "step", self.global_step))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of the batch, and the penalty, which the epoch's totals leave out."""
        rows, labels = batch
        if self.reused:
            logits = self.reused.training(rows, self.current_epoch)
        else:
            images, labels = self._data.training_images(rows.cpu(), labels, self.global_step)
            logits = self(images)
        loss = self._measured(logits, labels)
        return loss if self.penalty is None else loss + self.penalty()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add the batch to the epoch's totals."""
        rows, labels = batch
        if self.reused and self.reused.val is not None:
            logits = self.reused.validation(rows)
        else:
            logits = self(self._data.validation_images(rows.cpu(), labels.device))
        self._measured(logits, labels)

    @property
    def _data(self) -> ImageData:
        data: ImageData = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    def on_train_epoch_start(self) -> None:
        """Start the totals of an epoch."""
        self._totals = {}

    def on_validation_epoch_start(self) -> None:
        """Reduce what training summed up, once an epoch, and start validation's totals."""
        if self._totals:
            self._reduce("train")

    def on_validation_epoch_end(self) -> None:
        """Reduce validation's totals."""
        self._reduce("val")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the totals of an epoch that is not over."""
        checkpoint["totals"] = self._totals

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the totals of an epoch that was not over."""
        self._totals = checkpoint["totals"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer of all parameters; the freeze schedule sets its rates at every step."""
        groups = by_decay(self.plan.layers, self.network, self.optimizer_config.weight_decay)
        return make_optimizer(self.optimizer_config, groups)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Scale the gradients of what trains down to the norm `clip_norm`.

        Lightning's own clipping refuses fused optimizers under bf16, where, unlike under fp16, no gradient is
        scaled.
        """
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.network.parameters(), gradient_clip_val)

    def _measured(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss, taken into the epoch's totals."""
        loss = self.criterion(logits, labels)
        with torch.no_grad():
            sums = {
                "loss": loss.detach() * len(labels),
                "accuracy": hits(logits, labels),
                "count": torch.tensor(len(labels), device=labels.device),
            }
            self._totals = {k: v + self._totals[k] if self._totals else v for k, v in sums.items()}
        return loss

    def _reduce(self, split: str) -> None:
        totals, self._totals = self._totals, {}
        for name in ("loss", "accuracy"):
            value = totals[name].double() / totals["count"]
            self.trainer.callback_metrics[f"{split}/{name}"] = value.cpu()


def _cross_entropy(config: schema.CrossEntropy, counts: Tensor | None) -> CrossEntropy:
    weights = None
    if config.class_weights is not None:
        assert counts is not None
        given = config.class_weights
        weights = (
            balanced_weights(counts) if given == "balanced" else effective_weights(counts, given.effective)
        )
    return CrossEntropy(config.label_smoothing, weights)


LOSSES: dict[str, Callable[[Any, Tensor | None], Callable[[Tensor, Tensor], Tensor]]] = {
    "cross_entropy": _cross_entropy,
    "mse": lambda config, counts: half_mse,
}
