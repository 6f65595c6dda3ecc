"""The articles' MLP in Lightning, loss and accuracy logged as its guides have it."""

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from benchmarks.peers import common


class Mlp(pl.LightningModule):
    def __init__(self, pixels: int, classes: int, lr: float) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 64), nn.ReLU(), nn.Linear(64, classes))
        self.train_accuracy = MulticlassAccuracy(classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(classes, average="micro")
        self.lr = lr

    def training_step(self, batch, index):
        x, y = batch
        logits = self.net(x)
        loss = cross_entropy(logits, y)
        self.train_accuracy(logits, y)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        self.log("train/accuracy", self.train_accuracy, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, index):
        x, y = batch
        logits = self.net(x)
        self.val_accuracy(logits, y)
        self.log("val/loss", cross_entropy(logits, y))
        self.log("val/accuracy", self.val_accuracy)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def main() -> None:
    given = common.settings()
    common.pin(given.threads)
    data = common.tensors(given.arrays)
    clock = common.Clock()
    common.lightning_fit(
        Mlp(data.x[0].numel(), data.classes, given.lr), given, data, clock, logger=CSVLogger(".")
    )


if __name__ == "__main__":
    main()
