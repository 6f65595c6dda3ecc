"""The network as a LightningModule: loss and metrics are computed here, recorded by callbacks."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from frostline import schema
from frostline.core.freeze import FreezePlan
from frostline.core.param_groups import by_decay
from frostline.core.seeds import derive
from frostline.models.optimizers import make_optimizer


class Classifier(pl.LightningModule):
    """A network that learns to tell classes apart."""

    def __init__(
        self, network: nn.Module, plan: FreezePlan, optimizer: schema.Optimizer, loss: schema.Loss, seed: int
    ) -> None:
        super().__init__()
        self.network = network
        self.plan, self.optimizer_config, self.seed = plan, optimizer, seed
        self.criterion = LOSSES[loss.kind](loss)
        self._totals: dict[str, Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (N, classes), of (N, C, H, W) images."""
        logits: Tensor = self.network(images)
        return logits

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Draw dropout by (seed, step), so that a resumed run draws the same."""
        torch.manual_seed(derive(self.seed, "step", self.global_step))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean loss of the batch."""
        return self._step(batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Add the batch to the epoch's totals."""
        self._step(batch)

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

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer of all parameters; the freeze schedule sets its rates at every step."""
        # timm's models name what should not decay: position embeddings, class tokens.
        exempt: Any = getattr(self.network, "no_weight_decay", set)
        weight_decay = self.optimizer_config.weight_decay
        groups = by_decay(self.plan.layers, self.network.named_parameters(), weight_decay, exempt())
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

    def _step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = self.criterion(logits, labels)
        with torch.no_grad():
            sums = {
                "loss": loss.detach() * len(labels),
                "accuracy": (logits.argmax(1) == labels).sum(),
                "count": torch.tensor(len(labels), device=labels.device),
            }
            self._totals = {k: v + self._totals[k] if self._totals else v for k, v in sums.items()}
        return loss

    def _reduce(self, split: str) -> None:
        totals, self._totals = self._totals, {}
        for name in ("loss", "accuracy"):
            value = totals[name].double() / totals["count"]
            self.trainer.callback_metrics[f"{split}/{name}"] = value.cpu()


def half_mse(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ½·mean over the images of ‖softmax(logits) − one-hot(label)‖².

    Args:
        logits: (N, K).
        labels: (N,).
    """
    target = functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return 0.5 * (logits.softmax(1) - target).square().sum(1).mean()


LOSSES: dict[str, Callable[[Any], Callable[[Tensor, Tensor], Tensor]]] = {
    "cross_entropy": lambda config: nn.CrossEntropyLoss(label_smoothing=config.label_smoothing),
    "mse": lambda config: half_mse,
}
