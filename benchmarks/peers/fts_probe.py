"""A linear probe with finetuning-scheduler: one phase, the head's."""

import logging

import pytorch_lightning as pl
import torch
from finetuning_scheduler import FinetuningScheduler
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.peers import common


class Module(pl.LightningModule):
    def __init__(self, network: nn.Module, lr: float) -> None:
        super().__init__()
        self.network, self.lr = network, lr

    def training_step(self, batch, index):
        x, y = batch
        loss = cross_entropy(self.network(x), y)
        self.log("train/loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch, index):
        x, y = batch
        logits = self.network(x)
        self.log("val_loss", cross_entropy(logits, y))  # by which it keeps its best checkpoint
        self.log("val/accuracy", (logits.argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def main() -> None:
    given = common.settings()
    common.pin(given.threads)
    data = common.tensors(given.arrays)
    clock = common.Clock()
    module = Module(common.timm_network(given.model, given.arrays, data.classes), given.lr)
    schedule = {0: {"params": [r"network\.classifier\..*"], "max_transition_epoch": given.epochs}}
    callback = FinetuningScheduler(
        ft_schedule=schedule,
        max_depth=0,
        epoch_transitions_only=True,
        restore_best=False,
        logging_level=logging.ERROR,
        log_dir=".",
    )
    common.lightning_fit(module, given, data, clock, (callback,))


if __name__ == "__main__":
    main()
